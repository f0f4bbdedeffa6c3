"""The zygote's script as it is started, with a stand-in for the native module that forks and confines."""

import json
import os
import shutil
import socket
import subprocess
import unittest

from sandbox import LOAD, READY, REQUEST, RESPONSE, RUNTIME, WARM, Case, frame

# Forks once for each byte that comes; the child gets the byte's socket as descriptors 3 and 4, as from `_ol`.
FORKER = """
import os, socket
def gather_arenas(begin): pass
def collapse(start, end): return 0
def serve(control_fd):
    control = socket.socket(fileno=control_fd)
    while True:
        byte, fds, _, _ = socket.recv_fds(control, 1, 1)
        if byte == b"r":
            raise RuntimeError("the forker failed")
        if not byte:
            return None
        if not os.fork():
            control.close()
            parked = os.dup2(fds[0], 64)
            os.close(fds[0])
            os.dup2(parked, 3)
            os.dup2(parked, 4)
            os.close(parked)
            return 3
        os.close(fds[0])
"""


@unittest.skipUnless(hasattr(socket, "send_fds"), "socket.send_fds came with Python 3.9")
class Zygote(Case):
    def start(self):
        runtime = os.path.join(self.directory, "runtime")
        os.mkdir(runtime)
        for name in os.listdir(RUNTIME):
            if name.endswith(".py"):
                shutil.copy(os.path.join(RUNTIME, name), runtime)
        with open(os.path.join(runtime, "_ol.py"), "w") as file:
            file.write(FORKER)
        self.control, inner = socket.socketpair()
        self.addCleanup(self.control.close)
        command = ["/usr/bin/python3", "-S", "-E", "-s", "-B", "-X", "utf8", os.path.join(runtime, "zygote.py")]
        self.zygote = subprocess.Popen(
            [*command, str(inner.fileno())],
            pass_fds=[inner.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
        )
        self.addCleanup(self.zygote.wait)
        self.addCleanup(self.zygote.kill)
        self.addCleanup(self.zygote.stdout.close)
        inner.close()

    def fork(self):
        worker, inner = socket.socketpair()
        self.addCleanup(worker.close)
        worker.settimeout(20)
        socket.send_fds(self.control, [b"f"], [inner.fileno()])
        inner.close()
        return worker

    def ask(self, worker, *args, **kwargs):
        worker.sendall(frame(*args, **kwargs))
        answer = worker.recv(1 << 20)
        return answer[4], answer[12 + answer[6] + 256 * answer[7] :]

    def test_its_forks_are_sandboxes(self):
        self.start()
        self.write(
            "f.py",
            """
import sys, random, frames
def f(event):
    try: exit(3)
    except SystemExit as error: code = error.code
    main = sys.modules["__main__"]
    return [sys.path[1].startswith("/usr/lib"), frames.mine, code, hasattr(main, "__file__"), random.random()]
""",
        )
        self.write("frames.py", "mine = 'mine'")
        numbers = set()
        for n in range(3):
            worker = self.fork()
            if n:
                self.assertEqual(self.ask(worker, WARM)[0], READY)
            kind, body = self.ask(worker, LOAD, self.order(random=f"{n:02}" * 32))
            self.assertEqual(kind, READY, body)
            kind, body = self.ask(worker, REQUEST, b"{}", number=1)
            self.assertEqual(kind, RESPONSE)
            *result, number = json.loads(body)
            self.assertEqual(result, [True, "mine", 3, False])
            numbers.add(number)
            worker.close()
        self.assertEqual(len(numbers), 3)

    def test_handlers_of_forks_run_for_forks_of_a_function_and_not_for_its_own(self):
        self.start()
        self.write(
            "f.py",
            """
import logging, os, random, threading
state = random.getstate()
seen = []
os.register_at_fork(after_in_child=lambda: seen.append("child"))

def f(event):
    lock = threading._active_limbo_lock
    random.setstate(state)
    mine = random.random()
    random.setstate(state)
    fd, fd_out = os.pipe()
    logging._lock.acquire()
    pid = os.fork()
    if not pid:
        # Of the library's own handlers: those of random, of threading, and of logging, which sets its lock free.
        told = [random.random() != mine, threading._active_limbo_lock is not lock, logging._lock.acquire(False), seen]
        os.write(fd_out, repr(told).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    logging._lock.release()
    return os.read(fd, 1000).decode()
""",
        )
        worker = self.fork()
        self.assertEqual(self.ask(worker, WARM)[0], READY)
        kind, body = self.ask(worker, LOAD, self.order())
        self.assertEqual(kind, READY, body)
        kind, body = self.ask(worker, REQUEST, b"{}", number=1)
        self.assertEqual(json.loads(body), "[True, True, True, ['child']]")
        worker.close()

    def ended(self):
        said = self.zygote.communicate(timeout=20)[0].decode()
        return self.zygote.returncode, said

    def test_its_native_module_failing_is_told(self):
        self.start()
        self.control.send(b"r")
        status, said = self.ended()
        self.assertEqual(status, 1)
        self.assertIn("RuntimeError: the forker failed", said)

    def test_its_native_module_returning_is_told(self):
        self.start()
        self.control.close()
        status, said = self.ended()
        self.assertEqual(status, 1)
        self.assertIn("_ol.serve returned None instead of a descriptor", said)
