"""A zygote of one lambda: an interpreter that has the function loaded and serves nothing, but is forked.

It is confined like a sandbox, but for what it takes to fork into shells of its own user namespace (docs/SANDBOX.md).
What must not be forked it says itself, after the import; the worker then goes without. What code that was imported might hide
(descriptors, memory that is shared, and all of this once more) the worker looks at from outside.
"""

import gc
import os
import sys

from . import holes


def unforkable():
    """Why a fork of this process would not be what the import has made; None if it would, as far as can be told in here."""
    threads = sys.modules.get("threading")
    if threads and threads.active_count() > 1:
        names = sorted(thread.name for thread in threads.enumerate() if thread is not threads.main_thread())
        return f"its import has started threads ({', '.join(names)[:200]}), and a fork has none of them"
    if len(os.listdir("/proc/self/task")) > 1:
        return "its import has started a thread in a library, and a fork would not have it"
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
    if others:
        return "its import has started a process, which is not the child of a fork"
    if os.listdir("/tmp"):
        return "its import has written files to /tmp, which a fork has a new one of"
    return None


def settle():
    """Last thing before the forks: what lives now lives for ever, and the collector need not write to it."""
    gc.collect()
    holes.fill()
    gc.freeze()
