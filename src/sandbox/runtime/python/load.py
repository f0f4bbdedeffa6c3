"""Loading: from what the worker says this sandbox is to be (LOAD) to an entry that can be called."""

import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

from . import failure, identity, invocation, jsontext, native
from .awaited import AsyncEvent
from .entries import Event
from .frames import PROTOCOL
from .wsgi import Wsgi


# The kernel starts no program with a variable of more than 128 KiB. A longer search path is left out: better a Python that finds
# no packages than no programs at all. It has room for a thousand packages.
SEARCH_PATH_BYTES_MAX = 100_000


class LoadFailed(Exception):
    """Why the code could not be loaded, in a sentence, with the traceback below."""


def load(body):
    # By the same way as an event, which comes next: one reader of JSON for both to wake up.
    order = jsontext.decode(body)
    if order["protocol"] != PROTOCOL:
        raise LoadFailed(f"the worker speaks frame protocol {order['protocol']}; this runtime speaks {PROTOCOL}")
    directory = order["directory"]
    entry = order["entry"]
    # First of all: what is imported below may draw random numbers.
    seed = order.get("random")
    if seed is None:
        identity.ensure()
    else:
        identity.renew(bytes.fromhex(seed))
    set_environment(order["environment"])
    try:
        os.chdir(directory)
    except OSError as error:
        raise LoadFailed(f"the code is not at {directory}: {error.strerror}") from None
    sys.path[:0] = [*order["packages"], directory]
    set_search_path(order["packages"])
    path = os.path.join(directory, entry)
    sys.argv = [path]
    if entry == native.FILE:
        return program(path)
    return find_entry(import_file(entry, path), entry, order["name"], order["environment"])


def program(path):
    """An entry that runs this file."""
    try:
        fault = native.fault(path)
    except OSError as error:
        raise LoadFailed(f"{native.FILE} cannot be read: {error.strerror}") from None
    if fault:
        raise LoadFailed(fault)
    return native.Native(path)


def set_environment(environment):
    for name, value in environment.items():
        try:
            os.environ[name] = value
        except ValueError:
            raise LoadFailed(f"the environment variable {name!r} cannot be set: {value!r}") from None
    if "TZ" in environment:
        # The C library read it once, in the zygote.
        import time

        time.tzset()


def set_search_path(packages):
    """Another Python that the function starts finds its packages, after what the function's own PYTHONPATH names. This one was
    started long before, and looks where sys.path says."""
    if not packages:
        return
    own = os.environ.get("PYTHONPATH")
    search_path = os.pathsep.join([own, *packages] if own else packages)
    if len(os.fsencode(search_path)) <= SEARCH_PATH_BYTES_MAX:
        os.environ["PYTHONPATH"] = search_path


def import_file(entry, path):
    """The entry file as a module of its own name."""
    stem = entry[:-3] if entry.endswith(".py") else entry
    name = stem.replace("/", ".")
    loader = SourceFileLoader(name, path)
    try:
        source = read(path)
    except OSError as error:
        raise LoadFailed(f"{entry} cannot be read: {error.strerror}") from None
    try:
        module = import_source(loader, source)
    # All of them: a file that ends in sys.exit() is not a function, and the worker wants to know why.
    except BaseException as error:
        invocation.leave_if_forked(error)
        sys.modules.pop(name, None)
        raise LoadFailed(f"{why(entry, path, error)}\n\n{failure.text(error)}") from None
    invocation.leave_if_forked()
    return module


def read(path):
    """A file's content, without the layers of `open`: they take longer than the kernel."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 65_536):
            pieces.append(piece)
    finally:
        os.close(fd)
    return b"".join(pieces)


def import_source(loader, source):
    """What `import` does with a file that it has found.

    Not by `import`, because it might find another one: a package, or a module that the zygote has imported
    already, may have the same name. And without looking for a .pyc: nobody can have written one here.
    """
    spec = ModuleSpec(loader.name, loader, origin=loader.path)
    spec.has_location = True
    module = type(sys)(loader.name)
    module.__file__ = loader.path
    module.__loader__ = loader
    module.__spec__ = spec
    module.__package__ = spec.parent
    sys.modules[loader.name] = module
    exec(loader.source_to_code(source, loader.path), module.__dict__)
    # A module may have put something else in its place.
    return sys.modules.get(loader.name, module)


def why(entry, path, error):
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{entry} has a syntax error in line {error.lineno}: {error.msg}"
    if isinstance(error, SystemExit):
        return f"{entry} called sys.exit({error.code!r}) while it was imported"
    return f"{entry} could not be imported: {type(error).__name__}"


def find_entry(module, entry, name_of_lambda, environment):
    named = named_app(module, entry, environment)
    if named:
        return app_entry(*named, entry, name_of_lambda)
    function = getattr(module, "f", None)
    name = "f"
    if function is None and entry == "lambda_func.py":
        function = getattr(module, "handler", None)
        name = "handler"
    if function is not None:
        return event_entry(function, name, entry)
    app = getattr(module, "app", None)
    if app is not None:
        return app_entry(app, "app", None, entry, name_of_lambda)
    if entry == "lambda_func.py":
        raise LoadFailed(f"{entry} defines neither f(event) nor handler(event)")
    raise LoadFailed(f"{entry} defines neither a function f(event) nor an app (WSGI or ASGI)")


def named_app(module, entry, environment):
    """The app that the function's environment names, its name and its kind; None if it names none."""
    wsgi, asgi = environment.get("OL_WSGI_ENTRY"), environment.get("OL_ASGI_ENTRY")
    if not wsgi and not asgi:
        return None
    if wsgi and asgi:
        raise LoadFailed("OL_WSGI_ENTRY and OL_ASGI_ENTRY are both set: a function has one of them")
    name = wsgi or asgi
    app = getattr(module, name, None)
    if app is None:
        variable = "OL_WSGI_ENTRY" if wsgi else "OL_ASGI_ENTRY"
        raise LoadFailed(f"{variable} is {name!r}, and {entry} defines nothing of that name")
    return app, name, "wsgi" if wsgi else "asgi"


def event_entry(function, name, entry):
    if not callable(function):
        raise LoadFailed(f"{name} in {entry} is not a function but of type {type(function).__name__}")
    n = n_required(function)
    if n > 2:
        raise LoadFailed(f"{name} in {entry} wants {n} arguments; it is called as {name}(event) or {name}(event, context)")
    if is_async(function):
        import_asyncio()
        return AsyncEvent(function, wants_head=n == 2)
    return Event(function, wants_head=n == 2)


def app_entry(app, name, kind, entry, name_of_lambda):
    """`kind`: which it is said to be; None if it has to be found out."""
    if not callable(app):
        raise LoadFailed(f"{name} in {entry} cannot be called; it is of type {type(app).__name__}")
    if (kind or kind_of_app(app, name, entry)) == "wsgi":
        return Wsgi(app, f"/run/{name_of_lambda}")
    import_asyncio()
    # Here, because asgi.py raises what is defined above.
    from .asgi import Asgi

    return Asgi(app, f"/run/{name_of_lambda}", name, entry)


def import_asyncio():
    """Here and not when the loop is made: the zygote of a lambda, which has no loop, shares it with its forks."""
    import asyncio  # noqa: F401


def kind_of_app(app, name, entry):
    if isinstance(app, type):
        if is_async(getattr(app, "__call__", None)):
            raise LoadFailed(two_callables(name, entry))
        # An instance for each request, which is what it answers with: WSGI allows that.
        return "wsgi"
    n = n_required(app, otherwise=2)
    if is_async(app):
        if n != 3:
            raise LoadFailed(
                f"{name} in {entry} is async and wants {n} arguments; an ASGI app is called as {name}(scope, receive, send)"
            )
        return "asgi"
    if n == 1:
        raise LoadFailed(two_callables(name, entry))
    # Something around an ASGI app, that gives what the app gives.
    return "asgi" if n == 3 else "wsgi"


def two_callables(name, entry):
    return (
        f"{name} in {entry} is called with the scope alone, as in ASGI 2; here apps are called as {name}(scope, receive, send)"
        " (asgiref.compatibility.guarantee_single_callable makes one of the other)"
    )


def is_async(function):
    """Whether what it gives has to be awaited: a coroutine function, a partial of one, an object that is called like one."""
    while hasattr(function, "func") and hasattr(function, "keywords"):
        function = function.func
    if has_async_code(function):
        return True
    return not isinstance(function, type) and has_async_code(getattr(type(function), "__call__", None))


def has_async_code(function):
    # A method's function has the code, and a wrapper may have been marked (asgiref, inspect.markcoroutinefunction).
    function = getattr(function, "__func__", function)
    if getattr(function, "_is_coroutine_mark", None) is not None or getattr(function, "_is_coroutine", None) is not None:
        return True
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & 0x80)  # CO_COROUTINE, in inspect


def n_required(function, otherwise=1):
    """How many arguments it cannot be called without; `otherwise`, if it does not tell."""
    if type(function) is type(n_required) and not hasattr(function, "__wrapped__"):
        return function.__code__.co_argcount - len(function.__defaults__ or ())
    # Decorated, or an object with __call__. Imported for those alone: inspect is large.
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return otherwise
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)
