"""The zygote: an interpreter with modules imported, which is forked into sandboxes.

    python3 -S -E -s -B -X utf8 /runtime/zygote.py CONTROL_FD

The native module `_ol` waits at the control descriptor, forks and confines; what it returns from is the new
sandbox. This file is all of the runtime that has a name of its own. The rest is the package `_ol_runtime`, which
exists only in sys.modules: so that nothing of it stands in the way of a user's own `frames.py` or `log.py`.
"""

import builtins
import gc
import os
import sys
import traceback
from importlib import import_module

PACKAGE = "_ol_runtime"


# What functions commonly import, and what that imports: 23 MB in the zygote, all but 0.6 MB of it shared
# with its forks, and 20 to 50 ms of imports that a new sandbox does not wait for. Imports
# that take long but are rare stay out (asyncio, which what needs it imports with its function, sqlite3, multiprocessing, xml: 3 MB, 50 us more for each fork).
MODULES = """
    json re random datetime _strptime collections functools itertools math operator copy enum typing
    contextlib dataclasses decimal statistics string textwrap time traceback
    base64 csv gzip hashlib hmac secrets uuid zlib
    io os pathlib shutil subprocess tempfile signal
    logging threading queue concurrent.futures.thread
    select socket ssl http.client urllib.parse urllib.request
""".split()


def main():
    control_fd = int(sys.argv[1])
    # Python put the script's directory in front. The function's files must not meet the runtime's.
    directory = sys.path.pop(0)
    open_package(directory)
    from _ol_runtime import _ol, at_fork, huge

    huge.native = _ol
    huge.begin()
    at_fork.begin()
    for name in MODULES:
        import_module(name)
    at_fork.end()
    # `-S` leaves out the module that defines them; scripts expect them.
    builtins.exit = builtins.quit = sys.exit

    # asgi.py is here for those who will want it: the sandbox need not see this directory.
    from _ol_runtime import asgi, runtime, warm  # noqa: F401

    warm.warm()
    prepare_zygote()
    fork = at_fork.for_worker(_ol.serve)
    fd = fork(control_fd)
    if not isinstance(fd, int):
        raise RuntimeError(f"_ol.serve returned {fd!r} instead of a descriptor")
    # The function's `__main__` is not this file: multiprocessing would run it again in its children.
    sys.modules["__main__"] = type(sys)("__main__")
    runtime.main(fd + 1, fd, fork)


def open_package(directory):
    """Makes the files of `directory` importable as members of a package, and as nothing else."""
    package = type(sys)(PACKAGE)
    package.__path__ = [directory]
    sys.modules[PACKAGE] = package


def prepare_zygote():
    """Last thing before the forks: what lives now lives for ever, and the collector need not write to it."""
    from _ol_runtime import holes, huge

    gc.collect()
    holes.fill()
    gc.freeze()
    huge.settle()


if __name__ == "__main__":
    status = 0
    try:
        main()
    # All of them: there is nobody above who would notice.
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        status = 1
    # Not by way of exit handlers: some of them were meant for the zygote.
    os._exit(status)
