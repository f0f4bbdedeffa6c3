"""WSGI apps: PEP 3333 as seen from the frames."""

import json

from sandbox import BODY, CANCEL, FAILED, MORE, READY, REQUEST, RESPONSE, RESPONSE_BODY, TEXT_400, TEXT_500, Case

HEAD = b"POST\n/a%20b/%C3%A9?x=%20\n30000 127.0.0.1:5\nr-1\nhost\nexample:81\ncontent-type\ntext/plain\nx-a\n1\nx-a\n2\nx_a\n3\nproxy\np\n"
OK = b"200\nx\ny\n"
START = "    write = start('200 OK', [('x', 'y')])\n"


class Wsgi(Case):
    def app(self, source, **changes):
        return self.serving("import sys\ndef app(environ, start):\n" + source, **changes)

    def answer(self, sandbox, body=b"", number=1, head=HEAD, flags=0):
        """The frames of the answer, as (kind, flags, head, body)."""
        sandbox.send(REQUEST, body, head=head, number=number, flags=flags)
        return self.frames(sandbox, number)

    def frames(self, sandbox, number):
        frames = []
        while True:
            kind, flags, answered, head, body = sandbox.receive()
            self.assertEqual(answered, number)
            frames.append((kind, flags, head, body))
            if not flags & MORE:
                return frames

    def test_ready_says_wsgi(self):
        sandbox, (kind, _, _, _, body) = self.load("def app(environ, start): pass")
        self.assertEqual(kind, READY)
        self.assertEqual(json.loads(body), {"protocol": 1, "pid": sandbox.pid, "head": True, "entry": "wsgi"})

    def test_the_environ_is_complete(self):
        sandbox = self.app(
            "    import json, wsgiref.validate\n"
            "    start('200 OK', [])\n"
            "    body = environ.pop('wsgi.input').read()\n"
            "    values = {k: v for k, v in environ.items() if k not in ('wsgi.errors', 'ol.deadline')}\n"
            "    return [json.dumps([values, body.decode()]).encode()]\n"
        )
        ((_, flags, _, body),) = self.answer(sandbox, b"abc")
        self.assertEqual(flags, 0, body.decode())
        self.assertEqual(
            json.loads(body),
            [
                {
                    "REQUEST_METHOD": "POST",
                    "SCRIPT_NAME": "/run/hello",
                    "PATH_INFO": "/a b/Ã©",
                    "QUERY_STRING": "x=%20",
                    "CONTENT_TYPE": "text/plain",
                    "CONTENT_LENGTH": "3",
                    "HTTP_HOST": "example:81",
                    "HTTP_X_A": "1, 2",
                    "REMOTE_ADDR": "127.0.0.1",
                    "REMOTE_PORT": "5",
                    "SERVER_NAME": "example",
                    "SERVER_PORT": "81",
                    "SERVER_PROTOCOL": "HTTP/1.1",
                    "wsgi.version": [1, 0],
                    "wsgi.url_scheme": "http",
                    "wsgi.multithread": False,
                    "wsgi.multiprocess": True,
                    "wsgi.run_once": False,
                    "wsgi.input_terminated": True,
                    "ol.request_id": "r-1",
                },
                "abc",
            ],
        )

    def test_the_standard_librarys_validator_has_no_complaint(self):
        sandbox = self.serving(
            """
from wsgiref.validate import validator
def inner(environ, start):
    body = environ["wsgi.input"].read(100)
    start("200 OK", [("Content-Type", "text/plain")])
    return [body, b"!"]
app = validator(inner)
"""
        )
        frames = self.answer(sandbox, b"abc")
        self.assertEqual(frames[0][:3], (RESPONSE, MORE, b"200\nContent-Type\ntext/plain\n"), frames)
        self.assertEqual(b"".join(frame[3] for frame in frames), b"abc!")

    def test_a_list_is_one_frame(self):
        self.assertEqual(self.answer(self.app(START + "    return [b'a', b'b']")), [(RESPONSE, 0, OK, b"ab")])
        self.assertEqual(self.answer(self.app(START + "    return []")), [(RESPONSE, 0, OK, b"")])

    def test_an_iterable_is_streamed(self):
        frames = self.answer(self.app(START + "    yield b'a'\n    yield b''\n    yield b'b'"))
        self.assertEqual(
            frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, MORE, b"", b"b"), (RESPONSE_BODY, 0, b"", b"")]
        )

    def test_an_announced_length_ends_the_answer(self):
        sandbox = self.app("    start('200 OK', [('Content-Length', '2')])\n    yield b'ab'")
        self.assertEqual(self.answer(sandbox), [(RESPONSE, 0, b"200\nContent-Length\n2\n", b"ab")])

    def test_a_piece_with_nothing_in_it_is_no_frame(self):
        frames = self.answer(self.app(START + "    write(b'a')\n    write(b'')\n    return [b'b']"))
        self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, 0, b"", b"b")])

    def test_write_streams(self):
        frames = self.answer(self.app(START + "    write(b'a')\n    return [b'b']"))
        self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, 0, b"", b"b")])

    def test_a_body_is_read_as_it_comes(self):
        sandbox = self.app(
            START + "    body = environ['wsgi.input']\n    yield body.readline()\n    yield body.readline()\n    yield body.read()"
        )
        sandbox.send(REQUEST, b"a", head=HEAD, number=1, flags=MORE)
        sandbox.send(BODY, b"b\n", number=1, flags=MORE)
        self.assertEqual(sandbox.receive(), (RESPONSE, MORE, 1, OK, b"ab\n"))
        sandbox.send(BODY, b"c\nd", number=1, flags=MORE)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, MORE, 1, b"", b"c\n"))
        sandbox.send(BODY, b"e", number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, MORE, 1, b"", b"de"))
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", b""))

    def test_a_body_that_is_not_read_is_skipped(self):
        sandbox = self.app(START + "    return [b'a']")
        self.assertEqual(self.answer(sandbox, b"x", flags=MORE), [(RESPONSE, 0, OK, b"a")])
        sandbox.send(BODY, b"y", number=1)
        self.assertEqual(self.answer(sandbox, number=2), [(RESPONSE, 0, OK, b"a")])
        self.assertEqual(self.answer(sandbox, b"x", number=3, flags=MORE), [(RESPONSE, 0, OK, b"a")])
        sandbox.send(CANCEL, number=3)
        self.assertEqual(self.answer(sandbox, number=4), [(RESPONSE, 0, OK, b"a")])

    def test_a_cancelled_body_ends_the_call(self):
        sandbox = self.app(START + "    return [environ['wsgi.input'].read()]")
        sandbox.send(REQUEST, b"x", head=HEAD, number=1, flags=MORE)
        sandbox.send(CANCEL, number=1)
        self.assertEqual(self.frames(sandbox, 1)[0][:3], (RESPONSE, 0, TEXT_400))
        self.assertEqual(self.answer(sandbox, b"ab", number=2), [(RESPONSE, 0, OK, b"ab")])

    def test_close_is_called_whatever_happens(self):
        source = """
class Pieces:
    def __init__(self, fails): self.fails = fails
    def __iter__(self):
        yield b"a"
        if self.fails: raise ValueError("amid")
    def close(self): print("closed")
def app(environ, start):
    start("200 OK", [("x", "y")])
    return Pieces(environ["QUERY_STRING"])
"""
        sandbox = self.serving(source)
        frames = self.answer(sandbox, head=b"GET\n/\n1\nr\n")
        self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, 0, b"", b"")])
        frames = self.answer(sandbox, head=b"GET\n/?1\n1\nr\n", number=2)
        self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, FAILED, b"", b"")])
        log = sandbox.ended()[1]
        self.assertEqual([log.count(b"o closed"), log.count(b"\x1e2 e ValueError: amid\n")], [2, 1])

    def test_failures_before_the_answer_are_told(self):
        for source, said in (
            ("    raise ValueError('no')", "ValueError: no"),
            ("    sys.exit(1)", "the function called sys.exit(1)"),
            ("    return [b'a']", "the app wrote before it called start_response"),
            (START + START + "    return []", "start_response was called twice"),
            ("    start('200 OK', [('x', 'a\\nb')])\n    return []", "a header holds a line break"),
            (START + "    return ['text']", "TypeError"),
            ("    start('200 OK', [('content-length', '1')])\n    return [b'ab']", "more than its content-length"),
        ):
            sandbox = self.app(source)
            ((kind, flags, head, body),) = self.answer(sandbox)
            self.assertEqual((kind, flags, head), (RESPONSE, FAILED, TEXT_500))
            self.assertIn(said, body.decode())

    def test_an_answer_may_be_replaced_until_it_has_begun(self):
        broken = """
    try: 1 / 0
    except ZeroDivisionError: start('500 Broken', [], sys.exc_info())
"""
        self.assertEqual(self.answer(self.app(START + broken + "    return [b'b']")), [(RESPONSE, 0, b"500\n", b"b")])
        frames = self.answer(self.app(START + "    write(b'a')\n" + broken + "    return [b'b']"))
        self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, FAILED, b"", b"")])

    def test_too_short_an_answer_is_broken_off(self):
        sandbox = self.app("    start('200 OK', [('content-length', '3')])\n    yield b'ab'")
        self.assertEqual(self.answer(sandbox)[-1], (RESPONSE_BODY, FAILED, b"", b""))
