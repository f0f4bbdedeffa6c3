"""The zygote of packages: imports what it is told, all of it, and is itself again."""

import json
import os
import unittest

from sandbox import LOAD, LOAD_FAILED, READY, WARM, Case, runtime

from _ol_runtime import plant, sprout

ZYGOTE = 6


class Plant(Case):
    def package(self, name, source):
        return os.path.dirname(self.write(f"packages/{name}==1/files/{name}.py", source))

    def zygote(self, *packages, fork=lambda _: 0):
        # The test's own process has files in its /tmp; it is not what is tested here.
        original, sprout.unforkable = sprout.unforkable, lambda: None
        self.addCleanup(setattr, sprout, "unforkable", original)
        zygote = self.sandbox(main=lambda requests, answers: runtime.main(requests, answers, fork))
        zygote.send(ZYGOTE, json.dumps({"protocol": 1, "packages": packages}).encode())
        return zygote

    def planted(self, *packages, fork=lambda _: 0):
        kind, _, _, _, body = self.zygote(*packages, fork=fork).receive()
        self.assertEqual(kind, READY)
        return json.loads(body)

    def test_with_one_that_cannot_be_imported_there_is_none_and_it_is_named(self):
        good = self.package("good_one", "")
        for name, fault, why in [("bad", "1/0", "ZeroDivisionError: division by zero"), ("gone", "import sys; sys.exit(1)", "SystemExit: 1")]:
            bad = self.package(name, fault)
            # Whoever is forked from it all the same is of the test's own making, and would not be told.
            zygote = self.zygote(good, bad, fork=lambda _: self.fail("it must not be forked"))
            kind, _, _, _, body = zygote.receive()
            self.assertEqual((kind, body.decode()), (LOAD_FAILED, f"{bad}: {why}"))
            self.assertEqual(zygote.ended()[0], 0)

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


if __name__ == "__main__":
    unittest.main()
