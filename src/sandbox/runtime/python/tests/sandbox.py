"""A sandbox for the tests: the real loop in a forked child, the worker's side of the socket in the test."""

import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import struct
import tempfile
import unittest

RUNTIME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def open_runtime():
    spec = importlib.util.spec_from_file_location("zygote_under_test", os.path.join(RUNTIME, "zygote.py"))
    zygote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zygote)
    zygote.open_package(RUNTIME)
    return zygote


zygote = open_runtime()

from _ol_runtime import runtime  # noqa: E402

LOAD, REQUEST, BODY, CANCEL, WARM = 1, 2, 3, 4, 5
READY, RESPONSE, RESPONSE_BODY, LOAD_FAILED = 16, 17, 18, 19
MORE, FAILED, BATCH = 1, 2, 4
JSON = b"200\ncontent-type\napplication/json\n"
TEXT_400 = b"400\ncontent-type\ntext/plain; charset=utf-8\n"
TEXT_500 = b"500\ncontent-type\ntext/plain; charset=utf-8\n"
HEADER = struct.Struct("<IBBHI")


def frame(kind, body=b"", *, flags=0, head=b"", number=0):
    """Made by hand on purpose: not by the code that is tested."""
    return HEADER.pack(len(head) + len(body), kind, flags, len(head), number) + head + body


class Sandbox:
    def __init__(self, main=runtime.main):
        self.socket, inner = socket.socketpair()
        self.socket.settimeout(20)
        self.log, log_in = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                # As the shim leaves it; who runs the tests in the background may have it ignored.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self.socket.close()
                os.close(self.log)
                os.dup2(log_in, 1)
                os.dup2(log_in, 2)
                os.close(log_in)
                main(inner.fileno(), inner.fileno())
                status = 0
            except BaseException:
                import traceback

                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        inner.close()
        os.close(log_in)

    def send(self, *args, **kwargs):
        self.socket.sendall(frame(*args, **kwargs))

    def receive(self):
        """(kind, flags, number, head, body)"""
        length, kind, flags, n_head, number = HEADER.unpack(self._exactly(12))
        payload = self._exactly(length)
        return kind, flags, number, payload[:n_head], payload[n_head:]

    def _exactly(self, n):
        pieces = []
        while n:
            piece = self.socket.recv(min(n, 1 << 20))
            if not piece:
                raise EOFError
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def ended(self):
        """Hangs up; (exit status, everything in the log)."""
        self.socket.close()
        log = b""
        while True:
            if not select.select([self.log], [], [], 20)[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError("the sandbox does not end")
            piece = os.read(self.log, 65_536)
            if not piece:
                break
            log += piece
        os.close(self.log)
        status = os.waitpid(self.pid, 0)[1]
        self.pid = None
        return status, log

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.socket.close()
            os.close(self.log)


class Case(unittest.TestCase):
    """A directory for the function's code, and sandboxes that end with the test."""

    maxDiff = None

    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def write(self, name, source):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)
        return path

    def order(self, **changes):
        order = {
            "protocol": 1,
            "name": "hello",
            "directory": self.directory,
            "entry": "f.py",
            "environment": {},
            "packages": [],
            "random": "0b" * 32,
        }
        order.update(changes)
        return json.dumps(order).encode()

    def sandbox(self, **kwargs):
        sandbox = Sandbox(**kwargs)
        self.addCleanup(sandbox.kill)
        return sandbox

    def load(self, source, **changes):
        """A sandbox that was told to load `source`, and its answer."""
        self.write(changes.get("entry", "f.py"), source)
        sandbox = self.sandbox()
        sandbox.send(LOAD, self.order(**changes))
        return sandbox, sandbox.receive()

    def serving(self, source, **changes):
        sandbox, (kind, _, _, _, body) = self.load(source, **changes)
        self.assertEqual(kind, READY, body.decode())
        return sandbox

    def load_failure(self, source, **changes):
        sandbox, (kind, flags, number, head, body) = self.load(source, **changes)
        self.assertEqual((kind, flags, number, head), (LOAD_FAILED, 0, 0, b""), body)
        self.assertEqual(sandbox.ended()[0], 0)
        return body.decode()

    def call(self, sandbox, body=b"", number=1, head=b""):
        """(flags, head, body) of the answer."""
        sandbox.send(REQUEST, body, number=number, head=head)
        kind, flags, answered, head, body = sandbox.receive()
        self.assertEqual((kind, answered), (RESPONSE, number))
        return flags, head, body

    def call_json(self, sandbox, value=None, number=1):
        flags, head, body = self.call(sandbox, b"" if value is None else json.dumps(value).encode(), number)
        self.assertEqual((flags, head), (0, JSON), body)
        return json.loads(body)
