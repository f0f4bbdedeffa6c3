"""ASGI apps and `async def`: the specification as seen from the frames."""

import json

from sandbox import BODY, CANCEL, FAILED, JSON, LOAD, MORE, READY, REQUEST, RESPONSE, RESPONSE_BODY, TEXT_400, TEXT_500, Case

MESSAGE, CLOSED, SOCKET_MESSAGE, SOCKET_CLOSE = 8, 9, 20, 21
SOCKET, TEXT = 8, 16
HEAD = b"POST\n/a%20b/%C3%A9?x=%20\n30000 127.0.0.1:5\nr-1\nhost\nexample:81\nx-a\n1\nx-a\n2\n"
OK = b"200\nx\ny\n"
START = '    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})\n'


def body(text, more=False):
    return f'    await send({{"type": "http.response.body", "body": {text}, "more_body": {more}}})\n'


class Asgi(Case):
    def app(self, source, **changes):
        begin = "import sys, asyncio\nasync def app(scope, receive, send):\n    assert scope['type'] != 'lifespan'\n"
        return self.serving(begin + source, **changes)

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
            if not flags & MORE and kind in (RESPONSE, RESPONSE_BODY):
                return frames


class Http(Asgi):
    def test_ready_says_asgi(self):
        sandbox, (kind, _, _, _, said) = self.load("async def app(scope, receive, send): assert scope['type'] == 'http'")
        self.assertEqual(kind, READY)
        self.assertEqual(json.loads(said), {"protocol": 1, "pid": sandbox.pid, "head": True, "entry": "asgi"})

    def test_the_scope_is_complete(self):
        sandbox = self.app(
            "    import json\n    assert scope['extensions']['ol'].pop('deadline') > 0\n"
            "    said = json.dumps(scope, default=bytes.decode).encode()\n" + START + body("said")
        )
        ((_, flags, _, said),) = self.answer(sandbox)
        self.assertEqual(flags, 0, said.decode())
        self.assertEqual(
            json.loads(said),
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": "/run/hello/a b/é",
                "raw_path": "/run/hello/a%20b/%C3%A9",
                "query_string": "x=%20",
                "root_path": "/run/hello",
                "headers": [["host", "example:81"], ["x-a", "1"], ["x-a", "2"]],
                "client": ["127.0.0.1", 5],
                "server": ["example", 81],
                "extensions": {"ol": {"request_id": "r-1"}},
            },
        )

    def test_who_is_not_known_is_nobody(self):
        sandbox = self.app("    said = repr((scope['client'], scope['server'])).encode()\n" + START + body("said"))
        for head, said in (
            (b"GET\n/\n1\nr\n", "(None, ('localhost', 80))"),
            (b"GET\n/\n1 [::1]:7\nr\nhost\n[::1]:8\n", "(('::1', 7), ('::1', 8))"),
            (b"GET\n/\n1\nr\nhost\nexample\n", "(None, ('example', 80))"),
        ):
            self.assertEqual(self.answer(sandbox, head=head), [(RESPONSE, 0, OK, said.encode())])

    def test_one_piece_is_one_frame_and_more_are_streamed(self):
        sandbox = self.app(START + body("b'a'"))
        for number in range(1, 4):
            self.assertEqual(self.answer(sandbox, number=number), [(RESPONSE, 0, OK, b"a")])
        sandbox = self.app(START + body("b''", True) + body("b'a'", True) + body("b''", True) + body("b'b'"))
        self.assertEqual(
            self.answer(sandbox),
            [(RESPONSE, MORE, OK, b""), (RESPONSE_BODY, MORE, b"", b"a"), (RESPONSE_BODY, 0, b"", b"b")],
        )

    def test_a_body_is_received_as_it_comes(self):
        sandbox = self.app(
            START + "    while True:\n        message = await receive()\n"
            "        await send({'type': 'http.response.body', 'body': repr(message).encode(), 'more_body': message['more_body']})\n"
            "        if not message['more_body']: break\n"
        )
        piece = "{'type': 'http.request', 'body': %s, 'more_body': %s}"
        sandbox.send(REQUEST, b"a", head=HEAD, number=1, flags=MORE)
        self.assertEqual(sandbox.receive()[4].decode(), piece % ("b'a'", True))
        sandbox.send(BODY, b"b", number=1, flags=MORE)
        self.assertEqual(sandbox.receive()[4].decode(), piece % ("b'b'", True))
        sandbox.send(BODY, b"c", number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", (piece % ("b'c'", False)).encode()))
        self.assertEqual(self.answer(sandbox, number=2), [(RESPONSE, 0, OK, (piece % ("b''", False)).encode())])

    def test_a_long_body_and_a_long_answer_go_through(self):
        sandbox = self.app(
            START + "    n = 0\n    while True:\n        message = await receive()\n        n += len(message['body'])\n"
            "        if not message['more_body']: break\n" + body("b'x' * n")
        )
        sandbox.send(REQUEST, b"a", head=HEAD, number=1, flags=MORE)
        for _ in range(30):
            sandbox.send(BODY, bytes(300_000), number=1, flags=MORE)
        sandbox.send(BODY, b"", number=1)
        self.assertEqual(self.frames(sandbox, 1), [(RESPONSE, 0, OK, b"x" * 9_000_001)])

    def test_a_body_that_is_not_read_is_skipped(self):
        sandbox = self.app(START + body("b'a'"))
        self.assertEqual(self.answer(sandbox, b"x", flags=MORE), [(RESPONSE, 0, OK, b"a")])
        for _ in range(5):
            sandbox.send(BODY, bytes(100_000), number=1, flags=MORE)
        sandbox.send(BODY, b"y", number=1)
        self.assertEqual(self.answer(sandbox, b"x", number=2, flags=MORE), [(RESPONSE, 0, OK, b"a")])
        sandbox.send(CANCEL, number=2)
        self.assertEqual(self.answer(sandbox, number=3), [(RESPONSE, 0, OK, b"a")])

    def test_who_goes_away_is_a_disconnect(self):
        sandbox = self.app(
            START + body("b'a'", True) + "    assert (await receive())['type'] == 'http.request'\n"
            "    message = await receive()\n    print(message, flush=True)\n" + body("b'nobody reads this'")
        )
        sandbox.send(REQUEST, head=HEAD, number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE, MORE, 1, OK, b"a"))
        sandbox.send(CANCEL, number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, FAILED, 1, b"", b""))
        # Amid the body.
        sandbox.send(REQUEST, b"x", head=HEAD, number=2, flags=MORE)
        self.assertEqual(sandbox.receive(), (RESPONSE, MORE, 2, OK, b"a"))
        sandbox.send(CANCEL, number=2)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, FAILED, 2, b"", b""))
        self.assertEqual(sandbox.ended()[1].count(b"o {'type': 'http.disconnect'}\n"), 2)

    def test_who_goes_away_before_the_answer_is_a_disconnect_too(self):
        sandbox = self.app("    await receive()\n    await receive()\n    print('gone')\n")
        sandbox.send(REQUEST, head=HEAD, number=1)
        # Read before: this one stands behind it.
        sandbox.send(CANCEL, number=1)
        sandbox.send(REQUEST, head=HEAD, number=2)
        self.assertEqual(sandbox.receive()[:4], (RESPONSE, 0, 1, TEXT_400))
        sandbox.send(CANCEL, number=2)
        self.assertEqual(sandbox.receive()[:4], (RESPONSE, 0, 2, TEXT_400))
        self.assertEqual(sandbox.ended()[1].count(b"o gone\n"), 2)

    def test_requests_that_stand_behind_one_another_are_answered_in_order(self):
        sandbox = self.app("    await asyncio.sleep(0.001)\n" + START + body("b'a'"))
        for number in range(1, 50):
            sandbox.send(REQUEST, head=HEAD, number=number)
        for number in range(1, 50):
            self.assertEqual(self.frames(sandbox, number), [(RESPONSE, 0, OK, b"a")])

    def test_what_goes_on_after_the_answer_goes_on_beside_the_next_calls(self):
        sandbox = self.app(
            START + body("b'%d' % len(DONE)") + "    await asyncio.sleep(0.01)\n    DONE.append(1)\n    EVENT.set()\nDONE = []\n"
            "class EVENT:\n    set = staticmethod(lambda: None)\n"
        )
        self.assertEqual(self.answer(sandbox), [(RESPONSE, 0, OK, b"0")])
        number = 2
        while self.answer(sandbox, number=number)[0][3] == b"0":
            number += 1
        self.assertLess(number, 1000)

    def test_a_task_of_the_app_lives_between_calls(self):
        sandbox = self.app(
            "    global n, task\n    if not n: task = asyncio.create_task(count())\n" + START + body("b'%d' % n") + "n = 0\n"
            "async def count():\n    global n\n    while True:\n        n += 1\n        await asyncio.sleep(0.001)\n"
        )
        seen = {self.answer(sandbox, number=number)[0][3] for number in range(1, 400)}
        self.assertGreater(len(seen), 1)

    def test_failures_before_the_answer_are_told(self):
        for source, said in (
            ("    raise ValueError('no')", "ValueError: no"),
            ("    sys.exit(1)", "the function called sys.exit(1)"),
            ("    raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("    raise asyncio.CancelledError", "CancelledError"),
            ("    pass", "the app returned without an answer"),
            (body("b''"), "the app sent 'http.response.body' where 'http.response.start' was due"),
            (START + START, "the app sent 'http.response.start' where 'http.response.body' was due"),
            ("    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'x', b'a\\nb')]})", "a header holds"),
            ("    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'x', 'a')]})", "TypeError"),
            (START + body("'text'"), "TypeError"),
            (START.replace("b'y'", "b'y' * 70_000").replace('b"y"', 'b"y" * 70_000') + body("b''"), "a head of 70"),
        ):
            sandbox = self.app(source)
            ((kind, flags, head, text),) = self.answer(sandbox)
            self.assertEqual((kind, flags, head), (RESPONSE, FAILED, TEXT_500), text)
            self.assertIn(said, text.decode())
            self.assertNotIn("_ol_runtime", text.decode())
            self.assertEqual(len(self.answer(sandbox, number=2)), 1)

    def test_failures_amid_the_answer_break_it_off(self):
        for source, said in (("    raise ValueError('amid')", b"ValueError: amid"), ("    pass", b"before the end of its answer")):
            sandbox = self.app(START + body("b'a'", True) + source)
            frames = self.answer(sandbox)
            self.assertEqual(frames, [(RESPONSE, MORE, OK, b"a"), (RESPONSE_BODY, FAILED, b"", b"")])
            self.assertIn(said, sandbox.ended()[1])

    def test_failures_after_the_answer_are_in_the_log(self):
        sandbox = self.app(START + body("b'a'") + "    raise ValueError('after')")
        self.assertEqual(self.answer(sandbox), [(RESPONSE, 0, OK, b"a")])
        self.assertEqual(self.answer(sandbox, number=2), [(RESPONSE, 0, OK, b"a")])
        self.assertEqual(sandbox.ended()[1].count(b"e ValueError: after\n"), 2)

    def test_a_task_that_exits_does_not_take_the_sandbox_along(self):
        sandbox = self.app(
            "    async def leave(): sys.exit(3)\n    asyncio.create_task(leave())\n    await asyncio.sleep(0.001)\n" + START + body("b'a'")
        )
        for number in (1, 2):
            self.assertEqual(self.answer(sandbox, number=number), [(RESPONSE, 0, OK, b"a")])
        self.assertIn(b"sys.exit(3)", sandbox.ended()[1])

    def test_what_a_call_sets_in_its_context_the_next_does_not_find(self):
        sandbox = self.app(
            "    said = VAR.get('nothing').encode()\n    VAR.set('something')\n" + START + body("said") + "import contextvars\nVAR = contextvars.ContextVar('x')\n"
        )
        for number in range(1, 5):
            sandbox.send(REQUEST, head=HEAD, number=number)
        for number in range(1, 5):
            self.assertEqual(self.frames(sandbox, number), [(RESPONSE, 0, OK, b"nothing")])

    def test_what_is_printed_is_counted_to_its_call(self):
        sandbox = self.app("    print('in')\n" + START + body("b'a'") + "    print('after')\n")
        for number in (1, 2):
            self.answer(sandbox, number=number)
        log = sandbox.ended()[1]
        self.assertEqual(log.count(b"\x1e1 o in\n") + log.count(b"\x1e1 o after\n") + log.count(b"\x1e2 o in\n"), 3, log)

    def test_the_first_request_may_come_with_the_order_to_load(self):
        from sandbox import frame

        self.write("f.py", "async def app(scope, receive, send):\n    assert scope['type'] == 'http'\n" + START + body("b'a'"))
        sandbox = self.sandbox()
        sandbox.socket.sendall(frame(LOAD, self.order()) + frame(REQUEST, b"", head=HEAD, number=1))
        self.assertEqual(sandbox.receive()[0], READY)
        self.assertEqual(self.frames(sandbox, 1), [(RESPONSE, 0, OK, b"a")])


class Life(Asgi):
    SOURCE = """
import asyncio, os
SAID = []
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        %s
        scope["state"]["list"] = SAID
        scope["state"]["n"] = 1
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await asyncio.sleep(0.001)
        print("bye", scope["state"]["n"], flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    scope["state"]["n"] += 1
    SAID.append(scope["state"]["n"])
    said = repr(scope["state"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})
"""

    def test_the_app_is_told_of_its_beginning_and_its_end(self):
        sandbox, (kind, _, _, _, said) = self.load(self.SOURCE % "pass")
        self.assertEqual((kind, json.loads(said)["end"]), (READY, True), said)
        for number, text in ((1, "{'list': [2], 'n': 2}"), (2, "{'list': [2, 2], 'n': 2}")):
            self.assertEqual(self.answer(sandbox, number=number)[0][3].decode(), text)
        status, log = sandbox.ended()
        self.assertEqual((status, log.count(b"o bye 1\n")), (0, 1), log)

    def test_a_startup_that_fails_is_told(self):
        for source, why in (
            ("return await send({'type': 'lifespan.startup.failed', 'message': 'no database'})", "no database"),
            ("return await send({'type': 'lifespan.startup.failed'})", "it gives no reason"),
            ("raise SystemExit(1)", "sys.exit(1)"),
        ):
            said = self.load_failure(self.SOURCE % source)
            self.assertTrue(said.startswith("app in f.py did not start (lifespan.startup)\n\n"), said)
            self.assertIn(why, said)

    def test_apps_without_lifespan_go_on_without(self):
        for source in ("raise ValueError", "return"):
            sandbox, (kind, _, _, _, said) = self.load(
                f"async def app(scope, receive, send):\n    if scope['type'] == 'lifespan': {source}\n"
                "    assert 'state' not in scope\n" + START + body("b'a'")
            )
            self.assertEqual((kind, json.loads(said).get("end")), (READY, None))
            self.assertEqual(self.answer(sandbox), [(RESPONSE, 0, OK, b"a")])
            self.assertEqual(sandbox.ended(), (0, b""))

    def test_what_goes_on_after_its_call_comes_to_its_end_before_the_app_does(self):
        source = self.SOURCE % "pass" + "    await asyncio.sleep(0.05)\n    print('work', flush=True)\n"
        sandbox = self.serving(source)
        self.answer(sandbox)
        log = sandbox.ended()[1]
        self.assertLess(log.index(b"work"), log.index(b"bye"))


class Sockets(Asgi):
    HEAD = b"GET\n/ws\n30000\nr-1\nhost\nexample\nsec-websocket-protocol\na, b\n"

    def open(self, source):
        sandbox = self.app("    assert (await receive()) == {'type': 'websocket.connect'}\n" + source)
        sandbox.send(REQUEST, head=self.HEAD, number=1, flags=SOCKET)
        return sandbox

    def test_messages_go_both_ways_and_the_app_closes(self):
        sandbox = self.open(
            "    assert scope['type'] == 'websocket' and scope['scheme'] == 'ws' and scope['path'] == '/run/hello/ws'\n"
            "    await send({'type': 'websocket.accept', 'subprotocol': scope['subprotocols'][1], 'headers': [(b'x', b'y')]})\n"
            "    for _ in range(2):\n        message = await receive()\n"
            "        await send({'type': 'websocket.send', 'text': repr(message)})\n"
            "    await send({'type': 'websocket.send', 'bytes': b'bytes'})\n"
            "    await send({'type': 'websocket.close', 'code': 3000, 'reason': 'é'})\n"
            "    await send({'type': 'websocket.send', 'text': str((await receive())['code'])})\n"
        )
        self.assertEqual(sandbox.receive(), (RESPONSE, MORE, 1, b"101\nx\ny\nsec-websocket-protocol\nb\n", b""))
        sandbox.send(MESSAGE, "é".encode(), number=1, flags=TEXT)
        said = "{'type': 'websocket.receive', 'text': 'é'}".encode()
        self.assertEqual(sandbox.receive(), (SOCKET_MESSAGE, TEXT, 1, b"", said))
        sandbox.send(MESSAGE, b"a", number=1, flags=MORE)
        sandbox.send(MESSAGE, b"b", number=1)
        said = b"{'type': 'websocket.receive', 'bytes': b'ab'}"
        self.assertEqual(sandbox.receive(), (SOCKET_MESSAGE, TEXT, 1, b"", said))
        self.assertEqual(sandbox.receive(), (SOCKET_MESSAGE, 0, 1, b"", b"bytes"))
        self.assertEqual(sandbox.receive(), (SOCKET_CLOSE, 0, 1, b"", b"\xb8\x0b" + "é".encode()))
        sandbox.send(CLOSED, b"\xb8\x0b", number=1)
        # To send then is an error, but nobody's fault.
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", b""))
        self.assertEqual(self.answer(sandbox, number=2, head=self.HEAD)[0][2], TEXT_500)

    def test_who_goes_away_is_a_disconnect(self):
        sandbox = self.open(
            "    await send({'type': 'websocket.accept'})\n    print(await receive(), flush=True)\n    print(await receive(), flush=True)\n"
        )
        sandbox.receive()
        sandbox.send(MESSAGE, b"last", number=1, flags=TEXT)
        sandbox.send(CLOSED, b"\xe9\x03bye", number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", b""))
        log = sandbox.ended()[1]
        self.assertIn(b"'text': 'last'", log)
        self.assertIn(b"o {'type': 'websocket.disconnect', 'code': 1001, 'reason': 'bye'}\n", log)

    def test_a_socket_may_be_refused(self):
        sandbox = self.open("    await send({'type': 'websocket.close'})\n")
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, b"403\n", b""))
        # It stays busy until the worker has said that there is nothing more of the request.
        sandbox.send(CLOSED, b"\xee\x03", number=1)
        sandbox.send(REQUEST, head=self.HEAD, number=2, flags=SOCKET)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 2, b"403\n", b""))
        sandbox = self.open(
            "    await send({'type': 'websocket.http.response.start', 'status': 418, 'headers': [(b'x', b'y')]})\n"
            "    await send({'type': 'websocket.http.response.body', 'body': b'a', 'more_body': True})\n"
            "    await send({'type': 'websocket.http.response.body', 'body': b'b'})\n"
        )
        frames = self.frames(sandbox, 1)
        self.assertEqual(frames, [(RESPONSE, MORE, b"418\nx\ny\n", b"a"), (RESPONSE_BODY, 0, b"", b"b")])

    def test_failures_are_told_or_broken_off(self):
        sandbox = self.open("    raise ValueError('no')")
        kind, flags, _, head, text = sandbox.receive()
        self.assertEqual((kind, flags, head), (RESPONSE, FAILED, TEXT_500))
        self.assertIn(b"ValueError: no", text)
        sandbox = self.open("    await send({'type': 'websocket.accept'})\n    raise ValueError('no')")
        sandbox.receive()
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, FAILED, 1, b"", b""))
        sandbox = self.open("    await send({'type': 'websocket.accept'})\n")
        sandbox.receive()
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", b""))
        sandbox = self.open("    pass")
        self.assertIn(b"returned without an answer", sandbox.receive()[4])

    def test_who_goes_away_before_he_is_accepted_is_a_disconnect(self):
        sandbox = self.open("    print(await receive())\n    await send({'type': 'websocket.accept'})\n")
        sandbox.send(CLOSED, b"\xee\x03", number=1)
        self.assertEqual(sandbox.receive()[:4], (RESPONSE, 0, 1, TEXT_400))
        self.assertIn(b"'code': 1006", sandbox.ended()[1])

    def test_no_more_is_taken_than_is_wanted(self):
        sandbox = self.open(
            "    await send({'type': 'websocket.accept'})\n    await asyncio.sleep(0.2)\n    n = 0\n"
            "    while (await receive())['type'] == 'websocket.receive': n += 1\n    print(n)\n"
        )
        sandbox.receive()
        for _ in range(2_000):
            sandbox.send(MESSAGE, bytes(2_000), number=1)
        sandbox.send(CLOSED, b"\xe8\x03", number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE_BODY, 0, 1, b"", b""))
        self.assertIn(b"o 2000\n", sandbox.ended()[1])


class AsyncFunctions(Case):
    def test_an_async_function_is_a_function(self):
        sandbox = self.serving("import asyncio\nasync def f(event):\n    await asyncio.sleep(0)\n    return {'got': event}")
        for number in range(1, 4):
            self.assertEqual(self.call_json(sandbox, [number], number), {"got": [number]})
        self.assertEqual(self.call_json(sandbox, number=4), {"got": {}})
        self.assertEqual(sandbox.ended(), (0, b""))

    def test_it_may_want_to_see_the_request(self):
        sandbox = self.serving("async def f(event, context): return [event, context.method, context.path]")
        flags, head, said = self.call(sandbox, b"1", head=HEAD)
        self.assertEqual((flags, head, json.loads(said)), (0, JSON, [1, "POST", "/a b/é"]))

    def test_its_failures_are_those_of_functions(self):
        for source, event, flags, head, said in (
            ("raise ValueError('no')", b"", FAILED, TEXT_500, "ValueError: no"),
            ("import sys; sys.exit(1)", b"", FAILED, TEXT_500, "the function called sys.exit(1)"),
            ("return {1, 2}", b"", FAILED, TEXT_500, "the function returned an object that is not JSON"),
            ("return 1", b"{", 0, TEXT_400, "the request body is not JSON"),
        ):
            sandbox = self.serving(f"async def f(event): {source}")
            got = self.call(sandbox, event)
            self.assertEqual(got[:2], (flags, head))
            self.assertIn(said, got[2].decode())
            self.assertEqual(self.call(sandbox, event, number=2)[:2], (flags, head))

    def test_a_long_event_is_put_together(self):
        sandbox = self.serving("async def f(event): return len(event)")
        text = json.dumps("x" * 500_000).encode()
        sandbox.send(REQUEST, text[:10], number=1, flags=MORE)
        sandbox.send(BODY, text[10:400_000], number=1, flags=MORE)
        sandbox.send(BODY, text[400_000:], number=1)
        self.assertEqual(sandbox.receive()[4], b"500000")

    def test_a_child_that_comes_back_does_not_answer(self):
        sandbox = self.serving(
            "import os\nasync def f(event):\n    pid = os.fork()\n    if pid: os.waitpid(pid, 0)\n    return os.getpid()"
        )
        self.assertEqual([self.call_json(sandbox, number=n) for n in (1, 2)], [sandbox.pid] * 2)

