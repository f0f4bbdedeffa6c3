"""A zygote of packages: an interpreter that has them imported and serves nothing, but is forked.

What it holds every function gets that is forked from it, wanted or not. So it imports what belongs to the packages
that it was told, and forgets a package that could not be imported. Its sys.path in the end is what it was: functions
find only what they asked for.
"""

import importlib
import os
import select
import signal
import sys
import time
import traceback

from . import huge, sprout

# Beside a package's own modules, wheels carry these by mistake; scripts among them do things when they are imported.
NOT_WANTED = {"tests", "test", "testing", "docs", "doc", "examples", "example", "samples", "benchmarks", "bin", "setup", "conftest"}
# How long one package may take when it is tried, in seconds.
TRIAL_PATIENCE = 10
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# How a trial ends when the import went well, but must not be forked.
UNFORKABLE = 77


def plant(order):
    """Imports; gives what READY tells of it: {"held": {path: milliseconds}, "grown": {path: bytes}, "failed": {path: why},
    "unforkable": why}."""
    paths = order["packages"]
    before = sys.path[:]
    sys.path[:0] = paths
    held, grown, failed, unforkable = {}, {}, {}, None
    huge.begin()
    for path in paths:
        why = try_out(path) if order["careful"] else None
        if why:
            failed[path] = why
            continue
        known = set(sys.modules)
        before_it = private_bytes()
        began = time.perf_counter()
        try:
            import_all(path)
        # All of them: sys.exit() while it is imported must not end the others.
        except BaseException as error:
            forget(path, known)
            failed[path] = "".join(traceback.format_exception_only(type(error), error)).strip()[:500]
            continue
        held[path] = (time.perf_counter() - began) * 1e3
        grown[path] = max(0, private_bytes() - before_it)
        unforkable = sprout.unforkable()
        if unforkable:
            # There is no way back: the next zygote does without it.
            failed[path] = unforkable
            break
    sys.path[:] = before
    return {"held": held, "grown": grown, "failed": failed, "unforkable": unforkable}


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


def forget(path, known):
    """Takes back what an import that has failed has left of this package's own."""
    inside = path + os.sep
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules.get(name), "__file__", None) or "").startswith(inside):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)


def try_out(path):
    """Imports it in a child. Why it cannot be done, or None."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            import_all(path)
            status = UNFORKABLE if sprout.unforkable({os.getppid()}) else 0
        # An import that only raises is told better by the one that counts.
        except BaseException:
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + TRIAL_PATIENCE
    pause = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"importing it took more than {TRIAL_PATIENCE} s"
        select.select([], [], [], pause)
        pause = min(2 * pause, 0.05)
    if os.WIFSIGNALED(status):
        return f"importing it crashed: signal {os.WTERMSIG(status)}"
    if os.WEXITSTATUS(status) == UNFORKABLE:
        return "its import has started threads or opened files that a fork must not share"
    if status:
        return f"importing it ended the interpreter with status {os.WEXITSTATUS(status)}"
    return None
