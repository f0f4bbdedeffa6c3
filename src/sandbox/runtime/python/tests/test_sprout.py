"""The zygote of a lambda: loaded once, forked often; and what must differ between its forks."""

import json
import os
import random
import socket
import ssl
import tempfile
import unittest
import uuid

from sandbox import LOAD_FAILED, READY, REQUEST, RESPONSE, Case, Sandbox, runtime

from _ol_runtime import identity, sprout

ZYGOTE, RENEW = 6, 7


def forks_to(sockets):
    """A stand-in for `_ol.serve`: forks once for each socket, which the fork finds as its descriptors 3 and 4."""

    def fork(control_fd):
        assert control_fd == 5
        for inner in sockets:
            if not os.fork():
                os.dup2(inner.fileno(), 3)
                os.dup2(inner.fileno(), 4)
                # With the ends of its siblings and of the test it would never see that nobody is there any more.
                os.closerange(5, 64)
                return 3
        return 0

    return fork


class Sprout(Case):
    def zygote(self, source, n_forks=0):
        self.write("f.py", source)
        pairs = [socket.socketpair() for _ in range(n_forks)]
        fork = forks_to([inner for _, inner in pairs])
        zygote = self.sandbox(main=lambda requests, answers: runtime.main(requests, answers, fork))
        zygote.send(ZYGOTE, self.order())
        forks = []
        for worker, inner in pairs:
            inner.close()
            worker.settimeout(20)
            self.addCleanup(worker.close)
            fork = Sandbox.__new__(Sandbox)
            fork.socket = worker
            forks.append(fork)
        return zygote, forks

    def test_its_forks_have_what_the_import_has_made_and_are_somebody_each(self):
        source = "import random\nIMPORTED = random.random()\ndef f(event): return [IMPORTED, random.random()]"
        # The test's own process has files in its /tmp; it is not what is tested here.
        original, sprout.unforkable = sprout.unforkable, lambda: None
        self.addCleanup(setattr, sprout, "unforkable", original)
        zygote, forks = self.zygote(source, n_forks=3)
        kind, _, _, _, body = zygote.receive()
        self.assertEqual((kind, json.loads(body).get("unforkable")), (READY, None))
        seen = []
        for n, fork in enumerate(forks):
            fork.send(RENEW, json.dumps({"random": f"{n:02}" * 32}).encode())
            kind, _, _, _, body = fork.receive()
            self.assertEqual((kind, json.loads(body)["entry"]), (READY, "event"))
            fork.send(REQUEST, b"{}", number=1)
            kind, _, _, _, body = fork.receive()
            self.assertEqual(kind, RESPONSE)
            seen.append(json.loads(body))
        self.assertEqual(len({imported for imported, _ in seen}), 1)
        self.assertEqual(len({drawn for _, drawn in seen}), 3)

    def test_an_app_starts_in_each_fork_and_nowhere_else(self):
        source = """
import os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["pid"] = os.getpid()
        if os.environ.get("FAILS"): await send({"type": "lifespan.startup.failed", "message": "no"})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        body = b"%d" % (scope["state"]["pid"] == os.getpid())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""
        original, sprout.unforkable = sprout.unforkable, lambda: None
        self.addCleanup(setattr, sprout, "unforkable", original)
        renewal = json.dumps({"random": "07" * 32}).encode()
        zygote, forks = self.zygote(source, n_forks=2)
        kind, _, _, _, body = zygote.receive()
        self.assertEqual((kind, json.loads(body)["entry"], json.loads(body).get("end")), (READY, "asgi", None), body)
        for fork in forks:
            fork.send(RENEW, renewal)
            kind, _, _, _, body = fork.receive()
            self.assertEqual((kind, json.loads(body)["end"]), (READY, True))
            fork.send(REQUEST, head=b"GET\n/\n1000\nr\n", number=1)
            self.assertEqual(fork.receive()[4], b"1")
        zygote, (fork,) = self.zygote(f"import os\nos.environ['FAILS'] = '1'\n{source}", n_forks=1)
        self.assertEqual(zygote.receive()[0], READY)
        fork.send(RENEW, renewal)
        kind, _, _, _, body = fork.receive()
        self.assertEqual((kind, body), (LOAD_FAILED, b"app in f.py did not start (lifespan.startup)\n\nno"))

    def test_a_module_that_must_not_be_forked_says_why_and_is_not(self):
        self.write("f.py", "")
        zygote, _ = self.zygote("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True, name='mine').start()\ndef f(event): pass")
        kind, _, _, _, body = zygote.receive()
        self.assertEqual(kind, READY)
        self.assertIn("threads (mine)", json.loads(body)["unforkable"])
        self.assertEqual(zygote.ended()[0], 0)

    def test_a_module_that_cannot_be_loaded_is_no_zygote(self):
        zygote, _ = self.zygote("1/0")
        self.assertIn(b"ZeroDivisionError", zygote.receive()[4])
        self.assertEqual(zygote.ended()[0], 0)


class Siblings(unittest.TestCase):
    N = 1000

    def test_a_thousand_siblings_draw_no_number_twice(self):
        reader, writer = os.pipe()
        text = b""
        for _ in range(self.N):
            if not os.fork():
                try:
                    identity.renew(os.urandom(32))
                    drawn = [random.getrandbits(64), str(uuid.uuid4()), str(uuid.uuid1()), ssl.RAND_bytes(8).hex(), next(tempfile._get_candidate_names())]
                    # Less than PIPE_BUF: it stays together.
                    os.write(writer, json.dumps(drawn).encode() + b"\n")
                finally:
                    os._exit(0)
            os.wait()
            text += os.read(reader, 65_536)
        os.close(writer)
        os.close(reader)
        rows = [json.loads(line) for line in text.splitlines()]
        self.assertEqual(len(rows), self.N)
        for kind, numbers in zip(("random", "uuid4", "uuid1", "ssl", "tempfile"), zip(*rows)):
            self.assertEqual(len(set(numbers)), self.N, kind)


if __name__ == "__main__":
    unittest.main()
