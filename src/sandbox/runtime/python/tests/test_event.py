"""Calls of f(event): what comes back for what goes in."""

import json
import os

from sandbox import (
    BATCH, BODY, CANCEL, FAILED, JSON, LOAD, MORE, READY, REQUEST, RESPONSE, TEXT_400, TEXT_500, Case, frame,
)

ECHO = "def f(event):\n    return event\n"
HEAD = b"POST\n/items/%C3%A9?x=%20\n30000\nr-1\nhost\nexample\naccept\na\naccept\nb\ncookie\nc=1\ncookie\nd=2\n"


class Results(Case):
    def test_json_comes_back_as_json_dumps_types_it(self):
        sandbox = self.serving("def f(event):\n    return {'hello': 'world', 'é': [1, 2.5, None, True]}\n")
        self.assertEqual(
            self.call(sandbox, b"{}"), (0, JSON, b'{"hello": "world", "\\u00e9": [1, 2.5, null, true]}')
        )

    def test_every_kind_of_json_goes_in_and_out(self):
        sandbox = self.serving(ECHO)
        for value in ({}, [], "", "é\ud800", 0, -1.5, True, False, None, [[{"a": [1]}]], 10**30):
            flags, head, body = self.call(sandbox, json.dumps(value).encode())
            self.assertEqual((flags, head, json.loads(body)), (0, JSON, value))

    def test_json_with_margins_or_another_encoding_is_json(self):
        sandbox = self.serving(ECHO)
        for body in (b' \n"\xc3\xa9"\r\n ', '"é"'.encode("utf-8-sig"), '"é"'.encode("utf-16"), '"é"'.encode("utf-32-le")):
            self.assertEqual(self.call(sandbox, body), (0, JSON, b'"\\u00e9"'), body)

    def test_no_body_is_an_empty_event(self):
        self.assertEqual(self.call(self.serving(ECHO)), (0, JSON, b"{}"))

    def test_requests_may_wait_in_the_socket(self):
        sandbox = self.serving(ECHO)
        sandbox.socket.sendall(b"".join(frame(REQUEST, b"%d" % n, number=n) for n in range(1, 201)))
        for n in range(1, 201):
            self.assertEqual(sandbox.receive(), (RESPONSE, 0, n, JSON, b"%d" % n))

    def test_who_is_one_of_many_is_woken_as_batch_until_it_is_not(self):
        sandbox = self.serving("import os\ndef f(event):\n    return os.sched_getscheduler(0)\n")
        for number, flags in enumerate([0, BATCH, BATCH, 0, 0, BATCH], 1):
            sandbox.send(REQUEST, flags=flags, number=number)
            policy = os.SCHED_BATCH if flags else os.SCHED_OTHER
            self.assertEqual(sandbox.receive(), (RESPONSE, 0, number, JSON, b"%d" % policy))

    def test_a_function_that_has_chosen_how_it_is_scheduled_is_served_all_the_same(self):
        code = "import os\ndef f(event):\n    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n    return 1\n"
        sandbox = self.serving(code)
        for number, flags in enumerate([0, BATCH, 0, BATCH], 1):
            sandbox.send(REQUEST, flags=flags, number=number)
            self.assertEqual(sandbox.receive(), (RESPONSE, 0, number, JSON, b"1"))

    def test_requests_may_lie_behind_load(self):
        self.write("f.py", ECHO)
        sandbox = self.sandbox()
        sandbox.socket.sendall(frame(LOAD, self.order()) + frame(REQUEST, b"1", number=1))
        self.assertEqual(sandbox.receive()[0], READY)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, JSON, b"1"))

    def test_ten_megabytes_go_both_ways(self):
        sandbox = self.serving(ECHO)
        body = json.dumps("x" * 10_000_000).encode()
        self.assertEqual(self.call(sandbox, body), (0, JSON, body))
        self.assertEqual(self.call(sandbox, body, number=2), (0, JSON, body))

    def test_a_body_in_pieces_is_put_together(self):
        sandbox = self.serving(ECHO)
        sandbox.send(REQUEST, b'["a', flags=MORE, number=1)
        sandbox.send(BODY, b"b", flags=MORE, number=1)
        sandbox.send(BODY, b"", flags=MORE, number=1)
        sandbox.send(BODY, b'c"]', number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, JSON, b'["abc"]'))
        self.assertEqual(self.call_json(sandbox, 2, number=2), 2)

    def test_ten_megabytes_in_pieces_are_put_together(self):
        sandbox = self.serving("def f(event):\n    return len(event)\n")
        sandbox.send(REQUEST, b'"', flags=MORE, number=1)
        for _ in range(10):
            sandbox.send(BODY, b"x" * 1_000_000, flags=MORE, number=1)
        sandbox.send(BODY, b'"', number=1)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, JSON, b"10000000"))


class Cancelled(Case):
    def test_a_late_cancel_is_ignored(self):
        sandbox = self.serving(ECHO)
        self.assertEqual(self.call_json(sandbox, 1), 1)
        sandbox.send(CANCEL, number=1)
        self.assertEqual(self.call_json(sandbox, 2, number=2), 2)

    def test_a_cancel_ends_a_body_and_is_answered(self):
        sandbox = self.serving(ECHO)
        sandbox.send(REQUEST, b"[1", flags=MORE, number=1)
        sandbox.send(CANCEL, number=1)
        said = b"the request was cancelled before its body was complete\n"
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, TEXT_400, said))
        self.assertEqual(self.call_json(sandbox, 2, number=2), 2)

    def test_a_late_cancel_amid_the_next_body_is_ignored(self):
        sandbox = self.serving(ECHO)
        self.assertEqual(self.call_json(sandbox, 1), 1)
        sandbox.send(REQUEST, b"[1", flags=MORE, number=2)
        sandbox.send(CANCEL, number=1)
        sandbox.send(BODY, b"]", number=2)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 2, JSON, b"[1]"))


class Refused(Case):
    def test_a_body_that_is_not_json_is_the_callers_fault(self):
        sandbox = self.serving(ECHO)
        for body, shown, why in (
            (b"{ a}", b"{ a}", b"Expecting property name enclosed in double quotes: line 1 column 3 (char 2)"),
            (b"[ x", b"[ x", b"Expecting value: line 1 column 3 (char 2)"),
            (b"1 2", b"1 2", b"Extra data: line 1 column 3 (char 2)"),
            (b" ", b" ", b"Expecting value: line 1 column 2 (char 1)"),
            (b"x" * 80, b"x" * 80, b"Expecting value: line 1 column 1 (char 0)"),
            (b"x" * 81, b"x" * 80 + "…".encode(), b"Expecting value: line 1 column 1 (char 0)"),
            (b'"\xff"', b'"\\xff"', b"'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
        ):
            said = b'bad POST data: "' + shown + b'": the request body is not JSON: ' + why + b"\n"
            self.assertEqual(self.call(sandbox, body), (0, TEXT_400, said))
        flags, head, body = self.call(sandbox, b"[" * 100_000)
        self.assertEqual((flags, head), (0, TEXT_400))
        self.assertIn(b"nested too deep", body)
        self.assertEqual(self.call_json(sandbox, 1), 1)

    def test_a_result_that_is_not_json_is_named_with_its_place(self):
        sandbox = self.serving(
            """
import enum
class Thing: pass
class Colour(enum.IntEnum): RED = 1
circle = []
circle.append([circle])
deep = []
for _ in range(100_000): deep = [deep]
def numbers(): yield 1
async def later(): pass
def f(event):
    result = eval(event)
    return result
"""
        )
        for expression, what in (
            ("{1}", 'set'),
            ("{'a': [{1}]}", 'set at result["a"][0]'),
            ("{'a': {'é': (1, Thing())}}", 'Thing at result["a"]["\\u00e9"][1]'),
            ("b'x'", "bytes"),
            ("numbers()", "generator"),
            ("float('nan')", "nan"),
            ("[1, -float('inf')]", "-inf at result[1]"),
            ("{'a': {(1, 2): 3}}", 'a key of type tuple at result["a"]'),
            ("{float('nan'): 3}", "a key nan"),
            ("{1: {2}}", "set at result[1]"),
            ("circle", "a list inside itself at result[0][0]"),
            ("deep", "nested too deep"),
            ("Thing", "type"),
        ):
            said = f"the function returned an object that is not JSON: {what}\n"
            answer = self.call(sandbox, json.dumps(expression).encode())
            self.assertEqual(answer, (FAILED, TEXT_500, said.encode()), expression)
            # What fails leaves nothing behind for the next.
            self.assertEqual(self.call_json(sandbox, "[Colour.RED, True]"), [1, True])


class Failing(Case):
    def failing(self, source, event=None):
        """The text of the failure; and the sandbox goes on."""
        once = "failed = False\ndef f(event):\n    global failed\n    if failed: return 'warm'\n    failed = True\n"
        sandbox = self.serving(once + source)
        flags, head, body = self.call(sandbox, json.dumps(event).encode())
        self.assertEqual((flags, head), (FAILED, TEXT_500), body)
        self.assertEqual(self.call_json(sandbox, number=2), "warm")
        return body.decode()

    def test_an_exception_is_told_with_the_functions_own_frames(self):
        said = self.failing("    g(event)\ndef g(event):\n    return event['a'] / 0\n", {"a": 1})
        path = os.path.join(self.directory, "f.py")
        self.assertEqual(
            # Later versions of Python underline the place.
            [line for line in said.splitlines() if set(line.strip()) - set("^~")],
            [
                "Traceback (most recent call last):",
                f'  File "{path}", line 6, in f',
                "    g(event)",
                f'  File "{path}", line 8, in g',
                "    return event['a'] / 0",
                "ZeroDivisionError: division by zero",
            ],
        )

    def test_sys_exit_is_an_error(self):
        said = self.failing("    import sys\n    sys.exit(3)\n")
        self.assertTrue(said.startswith("the function called sys.exit(3); it ends by returning a result\n\nTraceback"), said)

    def test_keyboard_interrupt_is_an_error(self):
        said = self.failing("    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    while True: pass\n")
        self.assertTrue(said.startswith("the function was interrupted (KeyboardInterrupt)\n\nTraceback"), said)

    def test_endless_recursion_is_an_error(self):
        said = self.failing("    def g(): g()\n    g()\n")
        self.assertIn("RecursionError: maximum recursion depth exceeded", said)
        self.assertLess(len(said), 5_000)

    def test_an_impossible_allocation_is_an_error(self):
        self.assertIn("MemoryError", self.failing("    return 'x' * (1 << 60)\n"))

    def test_memory_that_runs_out_is_an_error(self):
        said = self.failing(
            "    import resource\n"
            "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "    resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20), -1))\n"
            "    hoard = []\n"
            "    while True: hoard.append(bytes(500))\n"
        )
        self.assertIn("MemoryError", said)

    def test_an_error_that_cannot_be_told_is_named(self):
        said = self.failing("    class Odd(Exception):\n        __str__ = __repr__ = lambda self: 1 / 0\n    raise Odd\n")
        self.assertIn("Odd", said)

    def test_an_error_text_may_hold_anything(self):
        self.assertIn("\\ud800 \0 é", self.failing("    raise ValueError('\\ud800 \\0 é')\n"))

    def test_a_result_whose_reading_fails_is_an_error(self):
        said = self.failing("    class D(dict):\n        def items(self): raise KeyError('no')\n    return D(a=1)\n")
        self.assertIn("KeyError: 'no'", said)

    def test_a_thread_that_fails_is_not_the_functions_failure(self):
        sandbox = self.serving(
            "import threading\n"
            "def f(event):\n"
            "    t = threading.Thread(target=lambda: 1 / 0)\n"
            "    t.start()\n"
            "    t.join()\n"
            "    return 1\n"
        )
        self.assertEqual(self.call_json(sandbox), 1)
        self.assertIn(b"ZeroDivisionError", sandbox.ended()[1])


class Contexts(Case):
    SOURCE = """
import time
def f(event, context):
    assert 0 < context.deadline - time.monotonic() <= 30
    assert 29_000 < context.remaining_ms() <= 30_000
    context.deadline -= 60
    assert context.remaining_ms() == 0
    return [context.method, context.path, context.query, context.target, context.request_id, context.headers]
"""

    def test_a_function_may_want_to_know_its_call(self):
        sandbox, (_, _, _, _, body) = self.load(self.SOURCE)
        self.assertEqual(
            json.loads(body), {"protocol": 1, "pid": sandbox.pid, "head": True, "entry": "event"}
        )
        flags, _, body = self.call(sandbox, b"{}", head=HEAD)
        self.assertEqual(flags, 0, body.decode())
        headers = {"host": "example", "accept": "a, b", "cookie": "c=1; d=2"}
        self.assertEqual(json.loads(body), ["POST", "/items/é", "x=%20", "/items/%C3%A9?x=%20", "r-1", headers])

    def test_the_number_of_arguments_tells(self):
        for source, head in (
            ("def f(event): pass", False),
            ("def f(event, more=1): pass", False),
            ("def f(event, *more): pass", False),
            ("def f(event, *, more=1): pass", False),
            ("def f(event, context): pass", True),
            ("def f(event, context, more=1): pass", True),
            ("class F:\n  def __call__(self, event): pass\nf = F()", False),
            ("class F:\n  def __call__(self, event, context): pass\nf = F()", True),
            ("class F:\n  def g(self, event): pass\nf = F().g", False),
            ("import functools\ndef g(a, event, context): pass\nf = functools.partial(g, 1)", True),
            ("import functools\ndef g(e, c): pass\n@functools.wraps(g)\ndef f(*a): return g(*a)", True),
            ("f = len", False),
        ):
            sandbox, (kind, _, _, _, body) = self.load(source)
            self.assertEqual((kind, json.loads(body)["head"]), (READY, head), source)


class Processes(Case):
    def test_a_fork_that_comes_back_does_not_answer(self):
        sandbox = self.serving(
            """
import os, sys
def f(event):
    pid = os.fork()
    if not pid:
        if event == 1: return 1
        if event == 2: sys.exit(7)
        if event == 3: sys.exit("left")
        if event == 4: raise ValueError("broken")
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
"""
        )
        self.assertEqual([self.call_json(sandbox, n, number=n) for n in (1, 2, 3, 4)], [0, 7, 1, 1])
        log = sandbox.ended()[1]
        self.assertIn(b"\x1e3 e left\n", log)
        self.assertIn(b"\x1e4 e ValueError: broken\n", log)

    def test_programs_threads_and_pools_work(self):
        sandbox = self.serving(
            """
import subprocess, sys, multiprocessing, concurrent.futures
def double(x): return 2 * x
def f(event):
    said = subprocess.run(["echo", "a"], stdout=subprocess.PIPE, check=True).stdout.decode()
    subprocess.run(["sh", "-c", "echo raw; ! test -e /proc/self/fd/3 && echo closed"])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        threads = list(pool.map(double, [1, 2]))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return [said, threads, pool.map(double, [3, 4])]
"""
        )
        self.assertEqual(self.call_json(sandbox), ["a\n", [2, 4], [6, 8]])
        self.assertIn(b"raw\nclosed\n", sandbox.ended()[1])

    def test_hanging_up_ends_the_sandbox(self):
        self.assertEqual(self.serving(ECHO).ended(), (0, b""))
        self.assertEqual(self.sandbox().ended(), (0, b""))

    def test_nonsense_ends_the_sandbox(self):
        sandbox = self.serving(ECHO)
        sandbox.send(99)
        status, log = sandbox.ended()
        self.assertNotEqual(status, 0)
        self.assertIn(b"ProtocolError: frame 99 between invocations", log)


