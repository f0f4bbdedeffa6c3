"""From LOAD to READY or LOAD_FAILED."""

import json
import os

from sandbox import JSON, LOAD, LOAD_FAILED, READY, REQUEST, RESPONSE, WARM, Case, frame

NEITHER = "f.py defines neither a function f(event) nor an app (WSGI or ASGI)"
ASGI_2 = (
    "app in f.py is called with the scope alone, as in ASGI 2; here apps are called as app(scope, receive, send)"
    " (asgiref.compatibility.guarantee_single_callable makes one of the other)"
)


class Loaded(Case):
    def test_ready_says_what_was_loaded(self):
        sandbox, answer = self.load("def f(event): pass")
        body = b'{"protocol": 1, "pid": %d, "head": false, "entry": "event"}' % sandbox.pid
        self.assertEqual(answer, (READY, 0, 0, b"", body))

    def test_the_module_is_itself(self):
        path = self.write("helper.py", "import f\ndef same(function): return f.f is function\n")
        sandbox = self.serving(
            """
import os, sys, pickle, inspect
class C: pass
def f(event):
    import helper
    module = sys.modules["f"]
    assert helper.same(f) and module.__dict__ is globals()
    assert type(pickle.loads(pickle.dumps(C()))) is C
    assert inspect.getsource(C) == "class C: pass\\n"
    import __main__
    assert "_ol_runtime" not in str(__main__)
    return [__name__, __file__, __package__, __spec__.name, __spec__.origin, os.getcwd(), sys.argv]
"""
        )
        path = os.path.join(self.directory, "f.py")
        self.assertEqual(self.call_json(sandbox), ["f", path, "", "f", path, os.path.realpath(self.directory), [path]])

    def test_the_entry_file_may_have_any_name(self):
        for entry, name in (("app.py", "app"), ("json.py", "json"), ("my-f.py", "my-f"), ("sub/app.py", "sub.app")):
            sandbox = self.serving("def f(event): return __name__", entry=entry)
            self.assertEqual(self.call_json(sandbox), name)

    def test_the_runtimes_names_are_free(self):
        for name in ("frames", "runtime", "log", "load", "failure", "zygote", "warm"):
            self.write(f"{name}.py", "mine = True")
        sandbox = self.serving(
            "import frames, runtime, log, load, failure, zygote, warm\ndef f(event): return log.mine and warm.mine"
        )
        self.assertEqual(self.call_json(sandbox), True)

    def test_the_classic_handler_is_found(self):
        sandbox = self.serving("def handler(event): return 'classic'", entry="lambda_func.py")
        self.assertEqual(self.call_json(sandbox), "classic")
        sandbox = self.serving("def handler(event): pass\ndef f(event): return 'f'", entry="lambda_func.py")
        self.assertEqual(self.call_json(sandbox), "f")

    def test_packages_and_the_directory_come_before_the_library(self):
        self.write("packages/a/one.py", "where = 'a'")
        self.write("packages/b/one.py", "where = 'b'")
        self.write("packages/b/cgitb.py", "where = 'b'")
        packages = [os.path.join(self.directory, "packages", name) for name in "ab"]
        sandbox = self.serving(
            "import one, cgitb, sys\ndef f(event): return [one.where, cgitb.where, sys.path[:3]]", packages=packages
        )
        self.assertEqual(self.call_json(sandbox), ["a", "b", [*packages, self.directory]])

    def test_the_environment_is_set(self):
        sandbox = self.serving(
            "import os, time\nA = os.environ['A']\ndef f(event): return [A, os.getenv('B'), time.localtime(0).tm_hour]",
            environment={"A": "é=1", "B": "", "TZ": "UTC-5"},
        )
        self.assertEqual(self.call_json(sandbox), ["é=1", "", 5])


class Failed(Case):
    def test_a_syntax_error_is_shown(self):
        said = self.load_failure("x = 1\ny = = 2\n")
        self.assertTrue(said.startswith("f.py has a syntax error in line 2: "), said)
        self.assertIn(f'  File "{self.directory}/f.py", line 2\n    y = = 2\n', said)
        self.assertNotIn("_ol_runtime", said)
        self.assertNotIn("load.py", said)

    def test_a_failed_import_is_shown(self):
        self.write("helper.py", "import nonesuch\n")
        said = self.load_failure("import helper\n")
        self.assertEqual(
            said.splitlines()[:3],
            ["f.py could not be imported: ModuleNotFoundError", "", "Traceback (most recent call last):"],
        )
        self.assertIn(f'  File "{self.directory}/f.py", line 1, in <module>', said)
        self.assertNotIn("load.py", said)
        self.assertTrue(said.endswith("ModuleNotFoundError: No module named 'nonesuch'\n"))

    def test_an_exit_while_importing_is_shown(self):
        said = self.load_failure("import sys\nsys.exit(0)\n")
        self.assertTrue(said.startswith("f.py called sys.exit(0) while it was imported\n\nTraceback"), said)

    def test_what_cannot_be_called_is_refused(self):
        for source, why in (
            ("", NEITHER),
            ("def handler(event): pass", NEITHER),
            ("app = 1", "app in f.py cannot be called; it is of type int"),
            ("def app(scope):\n  async def inner(receive, send): pass\n  return inner", ASGI_2),
            ("class app:\n  def __init__(self, scope): pass\n  async def __call__(self, receive, send): pass", ASGI_2),
            (
                "async def app(event): pass",
                "app in f.py is async and wants 1 arguments; an ASGI app is called as app(scope, receive, send)",
            ),
            ("f = 1", "f in f.py is not a function but of type int"),
            (
                "async def f(a, b, c): pass",
                "f in f.py wants 3 arguments; it is called as f(event) or f(event, context)",
            ),
            ("def f(a, b, c): pass", "f in f.py wants 3 arguments; it is called as f(event) or f(event, context)"),
        ):
            self.assertEqual(self.load_failure(source), why)
        self.assertEqual(
            self.load_failure("", entry="lambda_func.py"), "lambda_func.py defines neither f(event) nor handler(event)"
        )

    def test_what_is_not_there_is_named(self):
        said = self.load_failure("", directory="/nonesuch")
        self.assertEqual(said, "the code is not at /nonesuch: No such file or directory")
        sandbox = self.sandbox()
        sandbox.send(LOAD, self.order(entry="g.py"))
        self.assertEqual(sandbox.receive(), (LOAD_FAILED, 0, 0, b"", b"g.py cannot be read: No such file or directory"))

    def test_another_python_finds_the_packages_after_what_the_function_names_itself(self):
        code = """
import os, subprocess, sys
def f(event):
    ended = subprocess.run([sys.executable, "-m", "tool"], capture_output=True, text=True)
    return [os.environ.get("PYTHONPATH"), ended.stdout.strip()]
"""
        places = [self.make(place, "tool.py", f"print({place!r})") for place in ("first", "second")]
        own = self.make("own", "tool.py", "print('own')")
        for environment, packages, expected in (
            ({}, places, [":".join(places), "first"]),
            ({"PYTHONPATH": own}, places, [":".join([own, *places]), "own"]),
            ({"PYTHONPATH": ""}, places, [":".join(places), "first"]),
            ({"PYTHONPATH": own}, [], [own, "own"]),
            ({}, [], [None, ""]),
            ({}, ["/" + "x" * 200_000], [None, ""]),
        ):
            sandbox = self.serving(code, environment=environment, packages=packages)
            self.assertEqual(self.call_json(sandbox), expected)

    def make(self, directory, name, text):
        """The path of a directory with this file."""
        return os.path.dirname(self.write(os.path.join(directory, name), text))

    def test_an_impossible_environment_is_refused(self):
        self.assertIn("'A=B' cannot be set", self.load_failure("", environment={"A=B": "1"}))

    def test_another_protocol_is_refused(self):
        self.assertEqual(
            self.load_failure("", protocol=2), "the worker speaks frame protocol 2; this runtime speaks 1"
        )


class Kinds(Case):
    ASGI = "async def asgi(scope, receive, send): pass\n"

    def kind(self, source, **environment):
        _, (kind, _, _, _, body) = self.load(source, environment=environment)
        return json.loads(body)["entry"] if kind == READY else body.decode()

    def test_what_an_app_is_can_be_seen(self):
        for source, kind in (
            ("def app(environ, start): pass", "wsgi"),
            ("class App:\n  def __call__(self, environ, start_response): pass\napp = App()", "wsgi"),
            ("class app:\n  def __init__(self, environ, start): pass\n  def __iter__(self): pass", "wsgi"),
            (self.ASGI + "app = asgi", "asgi"),
            ("class App:\n  async def __call__(self, scope, receive, send): pass\napp = App()", "asgi"),
            ("class App:\n  async def go(self, scope, receive, send): pass\napp = App().go", "asgi"),
            ("import functools\nasync def g(x, scope, receive, send): pass\napp = functools.partial(g, 1)", "asgi"),
            (self.ASGI + "def app(scope, receive, send): return asgi(scope, receive, send)", "asgi"),
            (
                self.ASGI + "import functools\n@functools.wraps(asgi)\ndef app(*args): return asgi(*args)",
                "asgi",
            ),
            ("async def f(event): pass", "event"),
            ("async def f(event, context): pass", "event"),
            (self.ASGI + "app = asgi\ndef f(event): pass", "event"),
        ):
            self.assertEqual(self.kind(source), kind, source)

    def test_an_app_may_have_a_name_of_its_own(self):
        source = self.ASGI + "def f(event): pass\ndef wsgi(environ, start): pass"
        self.assertEqual(self.kind(source, OL_WSGI_ENTRY="wsgi"), "wsgi")
        self.assertEqual(self.kind(source, OL_ASGI_ENTRY="asgi"), "asgi")
        self.assertEqual(self.kind(source, OL_ASGI_ENTRY=""), "event")

    def test_a_name_that_is_not_there_is_said(self):
        said = self.kind(self.ASGI, OL_WSGI_ENTRY="nonesuch")
        self.assertEqual(said, "OL_WSGI_ENTRY is 'nonesuch', and f.py defines nothing of that name")
        said = self.kind(self.ASGI, OL_ASGI_ENTRY="nonesuch")
        self.assertEqual(said, "OL_ASGI_ENTRY is 'nonesuch', and f.py defines nothing of that name")
        said = self.kind(self.ASGI, OL_ASGI_ENTRY="asgi", OL_WSGI_ENTRY="asgi")
        self.assertEqual(said, "OL_WSGI_ENTRY and OL_ASGI_ENTRY are both set: a function has one of them")
        said = self.kind("x = 1", OL_ASGI_ENTRY="x")
        self.assertEqual(said, "x in f.py cannot be called; it is of type int")

    def test_nothing_that_is_not_awaited_imports_asyncio(self):
        for source in ("def f(event): return 'asyncio' in sys.modules", "async def f(event): return 'asyncio' in sys.modules"):
            sandbox = self.serving("import sys\nfor name in list(sys.modules):\n  if name.startswith('asyncio'): del sys.modules[name]\n" + source)
            self.assertEqual(self.call_json(sandbox), source.startswith("async"))


class Identity(Case):
    SOURCE = """
import os, random, uuid, tempfile
def f(event):
    return [random.random(), str(uuid.uuid4()), next(tempfile._get_candidate_names()), tempfile.gettempdir()]
"""

    def results(self, **changes):
        return self.call_json(self.serving(self.SOURCE, **changes))

    def test_two_forks_differ_and_the_seed_decides(self):
        import random
        import tempfile
        import uuid

        next(tempfile._get_candidate_names())
        tempfile.gettempdir()
        uuid.getnode()
        random.seed(1)
        a = self.results(random="01" * 32)
        b = self.results(random="02" * 32)
        again = self.results(random="01" * 32)
        self.assertEqual(a[0], again[0])
        for x, y in zip(a[:3], b):
            self.assertNotEqual(x, y)
        self.assertNotEqual(a[2], again[2])

    def test_tmpdir_of_the_function_counts(self):
        import tempfile

        tempfile.gettempdir()
        self.assertEqual(self.results(environment={"TMPDIR": self.directory})[3], self.directory)

    def test_everything_that_is_known_is_renewed(self):
        import multiprocessing.process
        import ssl
        import uuid

        from _ol_runtime import identity

        uuid._node = uuid._last_timestamp = 1
        key = bytes(multiprocessing.process.current_process().authkey)
        identity.renew(bytes(range(32)))
        self.assertEqual((uuid._node, uuid._last_timestamp), (None, None))
        self.assertNotEqual(key, bytes(multiprocessing.process.current_process().authkey))
        self.assertTrue(ssl.RAND_status())


class Seeds(Case):
    def test_without_bytes_from_the_worker_each_sandbox_draws_its_own(self):
        import random

        source = "import random\nn = random.random()\ndef f(event): return [n, random.random()]"
        order = json.loads(self.order())
        del order["random"]
        drawn = []
        # As in a zygote, whose forks would all go on from here.
        random.seed(1)
        for warm in (True, False, True, False):
            self.write("f.py", source)
            sandbox = self.sandbox()
            if warm:
                sandbox.send(WARM)
                self.assertEqual(sandbox.receive()[0], READY)
            sandbox.send(LOAD, json.dumps(order).encode())
            self.assertEqual(sandbox.receive()[0], READY)
            drawn += self.call_json(sandbox)
        self.assertEqual(len(set(drawn)), 8, drawn)


class First(Case):
    def test_a_request_that_comes_with_the_order_to_load_is_answered_after_it(self):
        self.write("f.py", "print('loading')\ndef f(event, context): return [event, context.path]")
        sandbox = self.sandbox()
        head = b"POST\n/x\n1000\n1-1\n"
        sandbox.socket.sendall(frame(LOAD, self.order()) + frame(REQUEST, b"1", head=head, number=1))
        kind, _, number, _, body = sandbox.receive()
        self.assertEqual((kind, number, json.loads(body)["head"]), (READY, 0, True))
        kind, flags, number, head, body = sandbox.receive()
        self.assertEqual((kind, flags, number, head, json.loads(body)), (RESPONSE, 0, 1, JSON, [1, "/x"]))

    def test_a_head_that_the_function_does_not_want_does_no_harm(self):
        self.write("f.py", "def f(event): return event")
        sandbox = self.sandbox()
        sandbox.socket.sendall(frame(LOAD, self.order()) + frame(REQUEST, b"1", head=b"POST\n/x\n1\n1-1\n", number=1))
        self.assertEqual(sandbox.receive()[0], READY)
        self.assertEqual(sandbox.receive()[4], b"1")

    def test_a_request_that_comes_with_code_that_does_not_load_is_not_answered(self):
        self.write("f.py", "raise ValueError('no')")
        sandbox = self.sandbox()
        sandbox.socket.sendall(frame(LOAD, self.order()) + frame(REQUEST, b"1", number=1))
        self.assertEqual(sandbox.receive()[0], LOAD_FAILED)
        # With the request unread, the socket may be reset rather than closed.
        self.assertRaises((EOFError, ConnectionResetError), sandbox.receive)


class Warm(Case):
    def test_warming_is_answered_and_leaves_no_trace(self):
        source = """
import os, sys
def f(event):
    return [sorted(os.listdir("/proc/self/fd")), sorted(sys.modules), os.getcwd() == event]
"""
        never_warmed = self.serving(source)
        cold = self.call_json(never_warmed)
        never_warmed.ended()
        sandbox = self.sandbox()
        for _ in range(3):
            sandbox.send(5)
            kind, flags, number, head, body = sandbox.receive()
            self.assertEqual((kind, flags, number, head), (READY, 0, 0, b""))
            self.assertEqual(
                json.loads(body), {"protocol": 1, "pid": sandbox.pid, "head": False, "entry": "none"}
            )
        sandbox.send(LOAD, self.order())
        self.assertEqual(sandbox.receive()[0], READY)
        self.assertEqual(self.call_json(sandbox), cold)
        self.assertEqual(sandbox.ended(), (0, b""))


