"""Which handlers of forks run when, and how the holes in the memory are filled."""

import os
import unittest

import sandbox  # noqa: F401  (opens the runtime's package)

from _ol_runtime import at_fork, holes


class AtFork(unittest.TestCase):
    def forks(self):
        """What the handlers have noted in a child, as text."""
        fd, fd_out = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(fd_out, " ".join(self.seen).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(fd_out)
        with open(fd) as file:
            return file.read()

    def test_only_what_a_zygote_registers_is_passed_over_and_only_in_forks_for_the_worker(self):
        self.seen = []
        at_fork.begin()
        try:
            os.register_at_fork(after_in_child=lambda: self.seen.append("library"))
        finally:
            at_fork.end()
        os.register_at_fork(after_in_child=lambda: self.seen.append("package"))
        self.assertEqual(at_fork.for_worker(lambda fd: [fd, self.forks()])(7), [7, "package"])
        self.assertEqual(self.forks(), "library package")

    def test_forks_are_as_everywhere_again_when_serving_has_failed(self):
        def fail(_):
            raise OSError

        self.seen = []
        with self.assertRaises(OSError):
            at_fork.for_worker(fail)(7)
        self.assertFalse(at_fork._for_worker)


class Holes(unittest.TestCase):
    def test_what_comes_after_lies_side_by_side(self):
        scattered = [bytes(67) for _ in range(2_000)]
        # One hole for each page.
        del scattered[::40]
        holes.fill()
        after = [bytes(67) for _ in range(16)]
        self.assertLessEqual(len({id(thing) // holes.PAGE for thing in after}), 3)


if __name__ == "__main__":
    unittest.main()
