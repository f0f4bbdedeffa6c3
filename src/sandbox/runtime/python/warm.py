"""Warming: the ways of LOAD and of a first request are walked once on a dummy, before the first real ones.

After a fork every page is shared with the zygote until it is written to, which costs a fault each; and Python writes
to what it only reads, since it counts references and takes notes in code that it runs. A sandbox that waits in a
pool has the time for that; a caller has not. So it is the same code that runs here, not code like it: what is left
out here is paid for by whoever calls first. But each page is processor time and memory of every sandbox: for a call
that fails, which would be 80 pages more, those pay that fail.
"""

import gc
import linecache
import os
import sys

from .frames import MORE, PROTOCOL, REQUEST, Channel
from .invocation import Invocation
from .load import load

# As short as a short function: each thing more is a page more, which those pay whose functions have it.
SOURCE = b'''"""A dummy."""
import json
class Dummy:
    def __init__(self, value):
        self.value = value
def f(event, context):
    return {**event, "dummy": [Dummy(x).value for x in event["list"]], "text": f"{event!r} {context.path}"}
'''
EVENT = b'{"name": "value", "number": 1.5, "list": [1, 2, 3], "nested": {"true": true, "null": null}}'
HEAD = b"POST\n/dummy?x=y\n1000\n0-0\nhost\nlocalhost\ncontent-type\napplication/json\n"
# A file that is there without having been written: what is in a pipe. The sandbox has it in its own /proc.
FILES = "/proc/self/fd"
VARIABLE = "OL_DUMMY"
# Not by `json.dumps`, which has pages of its own: who calls it pays for them.
ORDER = """{"protocol": %d, "name": "dummy", "directory": "%s", "entry": "%s", "environment": {"%s": "value"}, "packages": []}"""

# The dummy that was loaded last.
_entry = None


def warm():
    """Loads a function and calls it. Leaves no trace but pages that are its own."""
    global _entry
    _entry = load_dummy()
    call()
    # A collection that came due amid the first request would be its.
    gc.collect()


def call():
    """Calls the dummy, over a pipe to itself: for a fork of a zygote that has loaded what there is to be loaded."""
    global _entry
    _entry = _entry or load_dummy()
    fd_in, fd_out = os.pipe()
    try:
        channel = Channel(fd_in, fd_out)
        channel.write(REQUEST, 0, 0, HEAD, EVENT)
        _, flags, number, head, body = channel.read()
        _entry.call(Invocation(channel, number, flags & MORE, head, body))
        # The answer.
        channel.read()
    finally:
        os.close(fd_in)
        os.close(fd_out)


def load_dummy():
    """What LOAD does, and back again."""
    fd, fd_out = os.pipe()
    os.write(fd_out, SOURCE)
    os.close(fd_out)
    entry = str(fd)
    order = ORDER % (PROTOCOL, FILES, entry, VARIABLE)
    directory, path, argv = os.getcwd(), sys.path[:], sys.argv
    try:
        return load(order.encode())
    finally:
        os.close(fd)
        os.chdir(directory)
        sys.path[:], sys.argv = path, argv
        os.environ.pop(VARIABLE, None)
        sys.modules.pop(entry, None)
        linecache.clearcache()
