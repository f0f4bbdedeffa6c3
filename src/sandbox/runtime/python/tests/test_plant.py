"""The zygote of packages: imports what it is told, forgets what fails, and is itself again."""

import json
import os
import sys
import unittest

from sandbox import LOAD, READY, WARM, Case, runtime

from _ol_runtime import plant, sprout

ZYGOTE = 6


class Plant(Case):
    def package(self, name, source):
        return os.path.dirname(self.write(f"packages/{name}==1/files/{name}.py", source))

    def planted(self, *packages, careful=False, fork=lambda _: 0):
        # The test's own process has files in its /tmp; it is not what is tested here.
        original, sprout.unforkable = sprout.unforkable, lambda known=(): None
        self.addCleanup(setattr, sprout, "unforkable", original)
        zygote = self.sandbox(main=lambda requests, answers: runtime.main(requests, answers, fork))
        zygote.send(ZYGOTE, json.dumps({"protocol": 1, "packages": packages, "careful": careful}).encode())
        kind, _, _, _, body = zygote.receive()
        self.assertEqual(kind, READY)
        return json.loads(body)

    def test_what_can_be_imported_is_held_and_what_fails_is_named(self):
        good, bad, gone = self.package("good_one", ""), self.package("bad_one", "1/0"), self.package("gone", "import sys; sys.exit(1)")
        said = self.planted(bad, gone, good)
        self.assertEqual(list(said["held"]), [good])
        self.assertEqual(said["failed"], {bad: "ZeroDivisionError: division by zero", gone: "SystemExit: 1"})

    def test_one_that_crashes_is_found_out_in_a_child(self):
        good = self.package("good_one", "")
        crash = self.package("crash", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        leave = self.package("leave", "import os\nos._exit(7)")
        said = self.planted(crash, leave, good, careful=True)
        self.assertEqual(list(said["held"]), [good])
        self.assertEqual(
            said["failed"],
            {crash: "importing it crashed: signal 9", leave: "importing it ended the interpreter with status 7"},
        )

    def test_one_that_hangs_is_given_up(self):
        patience, plant.TRIAL_PATIENCE = plant.TRIAL_PATIENCE, 0
        self.addCleanup(setattr, plant, "TRIAL_PATIENCE", patience)
        hang = self.package("hang", "import time\ntime.sleep(1000)")
        said = self.planted(hang, careful=True)
        self.assertEqual(said["failed"], {hang: "importing it took more than 0 s"})

    def test_a_fork_is_loaded_like_any_standby_and_finds_only_what_it_asked_for(self):
        import socket

        one, two = self.package("pkg_one", "HERE = 1"), self.package("pkg_two", "HERE = 2")
        self.write("f.py", "import sys, pkg_one\ntry: import pkg_three\nexcept ImportError: pkg_three = None\n"
                   "def f(event): return [pkg_one.HERE, pkg_three, sys.path[:2]]")
        self.package("pkg_three", "")
        worker, inner = socket.socketpair()
        self.addCleanup(worker.close)

        def fork(control_fd):
            if os.fork():
                return 0
            os.dup2(inner.fileno(), 3)
            os.dup2(inner.fileno(), 4)
            return 3

        said = self.planted(one, two, fork=fork)
        self.assertEqual(sorted(said["held"]), sorted([one, two]))
        inner.close()
        standby = self.sandbox_at(worker)
        standby.send(WARM)
        self.assertEqual(standby.receive()[0], READY)
        standby.send(LOAD, self.order(packages=[one]))
        self.assertEqual(standby.receive()[0], READY)
        self.assertEqual(self.call_json(standby), [1, None, [one, self.directory]])

    def sandbox_at(self, worker):
        from sandbox import Sandbox

        worker.settimeout(20)
        standby = Sandbox.__new__(Sandbox)
        standby.socket = worker
        return standby


class Plain(Case):
    def test_only_what_is_a_packages_own_is_imported(self):
        for name in ("a.py", "b/__init__.py", "c.cpython-311-x86_64-linux-gnu.so", "_d.py", "tests/__init__.py",
                     "space/inner.py", "e-1.0.dist-info/METADATA", "setup.py", "notes.txt"):
            self.write(f"files/{name}", "")
        self.assertEqual(plant.top_level(os.path.join(self.directory, "files")), ["a", "b", "c"])

    def test_what_an_import_that_failed_has_left_is_forgotten(self):
        self.write("files/half/__init__.py", "from . import done\n1/0")
        self.write("files/half/done.py", "")
        path = os.path.join(self.directory, "files")
        before = set(sys.modules)
        sys.path.insert(0, path)
        self.addCleanup(sys.path.remove, path)
        with self.assertRaises(ZeroDivisionError):
            plant.import_all(path)
        self.assertIn("half.done", sys.modules)
        plant.forget(path, before)
        self.assertNotIn("half.done", sys.modules)


if __name__ == "__main__":
    unittest.main()
