"""The zygote: an interpreter with modules imported, which is forked into sandboxes.

    python3 -S -E -s -B -X utf8 /runtime/zygote.py CONTROL_FD

The native module `_ol` waits at the control descriptor, forks and confines; what it returns from is the new
sandbox. This file is all of the runtime that has a name of its own. The rest is the package `_ol_runtime`, which
exists only in sys.modules: so that nothing of it stands in the way of a user's own `frames.py` or `log.py`.
"""

import gc
import os
import sys

PACKAGE = "_ol_runtime"


def main():
    control_fd = int(sys.argv[1])
    directory = os.path.dirname(os.path.abspath(__file__))
    # Python put it in front for the script's sake.
    sys.path.remove(directory)
    open_package(directory)
    preimport()
    from _ol_runtime import _ol, runtime, warm

    warm.warm()
    prepare_zygote()
    fd = _ol.serve(control_fd)
    if fd is None:
        raise SystemExit("zygote: the native module stopped serving")
    become_sandbox()
    runtime.main(fd)


def open_package(directory):
    """Makes the files of `directory` importable as members of a package, and as nothing else."""
    package = type(sys)(PACKAGE)
    package.__path__ = [directory]
    sys.modules[PACKAGE] = package


def preimport():
    for name in MODULES:
        __import__(name)


def prepare_zygote():
    """Last thing before the forks: what lives now lives for ever, and the collector need not write to it."""
    gc.collect()
    gc.freeze()


def become_sandbox():
    """The function's `__main__` is not the zygote's: multiprocessing would run it again in its children."""
    sys.modules["__main__"] = type(sys)("__main__")


MODULES = ("json",)

if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)
