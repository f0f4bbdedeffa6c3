"""A zygote of packages: an interpreter that has them imported and serves nothing, but is forked.

What it holds every function gets that is forked from it, wanted or not; so it imports what belongs to the packages that it was
told, and is of no use if one of them cannot be imported: what that has done until then cannot be taken back. Its sys.path in
the end is what it was: functions find only what they asked for.
"""

import importlib
import os
import sys
import time
import traceback

from . import huge, sprout
from .load import LoadFailed

# Beside a package's own modules, wheels carry these by mistake; scripts among them do things when they are imported.
NOT_WANTED = {"tests", "test", "testing", "docs", "doc", "examples", "example", "samples", "benchmarks", "bin", "setup", "conftest"}
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def plant(order):
    """Imports; gives what READY tells of it: {"held": {path: milliseconds}, "grown": {path: bytes}, "unforkable": why}.
    LoadFailed if one of them cannot be imported."""
    paths = order["packages"]
    before = sys.path[:]
    sys.path[:0] = paths
    held, grown, unforkable = {}, {}, None
    huge.begin()
    for path in paths:
        before_it = private_bytes()
        began = time.perf_counter()
        try:
            import_all(path)
        # All of them: sys.exit() while it is imported is to be told too.
        except BaseException as error:
            why = "".join(traceback.format_exception_only(type(error), error)).strip()
            raise LoadFailed(f"{path}: {why}") from None
        held[path] = (time.perf_counter() - began) * 1e3
        grown[path] = max(0, private_bytes() - before_it)
        why = sprout.unforkable()
        if why:
            unforkable = f"{path}: {why}"
            break
    sys.path[:] = before
    return {"held": held, "grown": grown, "unforkable": unforkable}


def private_bytes():
    """What this interpreter has for itself, and what it shares with the one that it was forked from."""
    with open("/proc/self/statm", "rb") as file:
        _, resident, of_files = file.read().split()[:3]
    return (int(resident) - int(of_files)) * PAGE_BYTES


def import_all(path):
    for name in top_level(path):
        importlib.import_module(name)


def top_level(path):
    """Names of the modules that lie in a directory, in a fixed order. No namespace packages: those are nobody's own."""
    names = set()
    for entry in os.listdir(path):
        name = entry.split(".", 1)[0]
        if not name.isidentifier() or name.startswith("_") or name in NOT_WANTED:
            continue
        if entry.endswith((".py", ".so")) or os.path.isfile(os.path.join(path, entry, "__init__.py")):
            names.add(name)
    return sorted(names)
