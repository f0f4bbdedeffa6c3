"""The life of a sandbox: warmed if the worker asks for it, loaded once, then one invocation after the other."""

import json
import os

from . import invocation, log
from .entries import TEXT_400
from .frames import CANCEL, FAILED, LOAD, LOAD_FAILED, MORE, PROTOCOL, READY, REQUEST, WARM, Channel, ProtocolError
from .invocation import BEGUN, NOT_BEGUN, Cancelled, Invocation
from .load import LoadFailed, load
from .warm import warm


def main(fd):
    """Speaks with the worker at `fd` until it goes away. For a process of its own, forked and confined."""
    # A program that the function starts has no business here.
    os.set_inheritable(fd, False)
    invocation.pid = os.getpid()
    log.install()
    channel = Channel(fd)
    try:
        entry = wait_for_load(channel)
        if entry:
            serve(channel, entry)
    except EOFError:
        pass
    log.finish()


def wait_for_load(channel):
    while True:
        kind, _, _, _, body = channel.read()
        if kind == WARM:
            warm()
            ready(channel, False, "none")
        elif kind == LOAD:
            try:
                entry = load(body)
            except LoadFailed as failed:
                log.finish()
                channel.write(LOAD_FAILED, 0, 0, b"", str(failed).encode("utf-8", "backslashreplace"))
                return None
            log.finish()
            ready(channel, entry.wants_head, entry.kind)
            return entry
        else:
            raise ProtocolError(f"frame {kind} before LOAD")


def ready(channel, wants_head, entry):
    body = {"protocol": PROTOCOL, "pid": os.getpid(), "head": wants_head, "entry": entry}
    channel.write(READY, 0, 0, b"", json.dumps(body).encode())


def serve(channel, entry):
    """The loop. EOFError when the worker is gone."""
    while True:
        kind, flags, number, head, body = channel.read()
        if kind != REQUEST:
            if kind == CANCEL:
                # It crossed with its answer.
                continue
            raise ProtocolError(f"frame {kind} between invocations")
        # What the function's threads print after its answer is counted to it as well, until the next begins.
        log.invocation = number
        call = Invocation(channel, number, flags & MORE, head, body)
        try:
            entry.call(call)
            if call.more:
                call.drain()
        except Cancelled:
            if call.progress == BEGUN:
                call.go_on(b"", FAILED)
            elif call.progress == NOT_BEGUN:
                call.answer(TEXT_400, b"the request was cancelled before its body was complete\n")
