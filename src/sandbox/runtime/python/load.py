"""Loading: from what the worker says this sandbox is to be (LOAD) to an entry that can be called."""

import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

from . import failure, identity, invocation, jsontext
from .entries import Event
from .frames import PROTOCOL


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
    path = os.path.join(directory, entry)
    sys.argv = [path]
    return find_entry(import_file(entry, path), entry, order["name"])


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


def find_entry(module, entry, name_of_lambda):
    function = getattr(module, "f", None)
    name = "f"
    if function is None and entry == "lambda_func.py":
        function = getattr(module, "handler", None)
        name = "handler"
    if function is not None:
        return event_entry(function, name, entry)
    app = getattr(module, "app", None)
    if app is not None:
        return app_entry(app, entry, name_of_lambda)
    if entry == "lambda_func.py":
        raise LoadFailed(f"{entry} defines neither f(event) nor handler(event)")
    raise LoadFailed(f"{entry} defines neither a function f(event) nor a WSGI app")


def event_entry(function, name, entry):
    if not callable(function):
        raise LoadFailed(f"{name} in {entry} is not a function but of type {type(function).__name__}")
    if is_async(function):
        raise LoadFailed(f"{name} in {entry} is an `async def`; this version calls plain functions")
    n = n_required(function)
    if n > 2:
        raise LoadFailed(f"{name} in {entry} wants {n} arguments; it is called as {name}(event) or {name}(event, context)")
    return Event(function, wants_head=n == 2)


def app_entry(app, entry, name_of_lambda):
    if not callable(app):
        raise LoadFailed(f"app in {entry} cannot be called; it is of type {type(app).__name__}")
    if is_async(app) or is_async(type(app).__call__):
        raise LoadFailed(f"app in {entry} is an ASGI app; this version serves WSGI apps and functions f(event)")
    # Not needed for functions, which are most.
    from .wsgi import Wsgi

    return Wsgi(app, f"/run/{name_of_lambda}")


def is_async(function):
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & 0x80)  # CO_COROUTINE, in inspect


def n_required(function):
    """How many arguments it cannot be called without."""
    if type(function) is type(n_required) and not hasattr(function, "__wrapped__"):
        return function.__code__.co_argcount - len(function.__defaults__ or ())
    # Decorated, or an object with __call__. Imported for those alone: inspect is large.
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)
