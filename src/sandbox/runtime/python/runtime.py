"""The life of a sandbox: warmed if the worker asks for it, loaded once, then one invocation after the other.

Or of a zygote. One of a lambda is loaded, and then forked; its forks begin where others have been loaded. One of
packages imports these, and then is forked; its forks wait to be loaded, as it has done itself.
"""

import json
import os

from . import awaited, huge, identity, invocation, log, plant, sprout, warm
from .entries import TEXT_400
from .frames import (
    BATCH,
    BRIEF,
    CANCEL,
    FAILED,
    LOAD,
    LOAD_FAILED,
    MORE,
    PROTOCOL,
    READY,
    RENEW,
    REQUEST,
    WARM,
    ZYGOTE,
    Channel,
    ProtocolError,
)
from .invocation import BEGUN, NOT_BEGUN, Cancelled, Invocation, set_batch
from .load import LoadFailed, load


def main(fd_requests, fd_answers, fork=None):
    """Serves what comes in at one descriptor on the other, until the worker goes away. For a process of its own.

    `fork(control_fd)` returns in each fork, with its descriptor for answers, and requests come in at the next; in the
    zygote, with 0, when the worker is gone.
    """
    entry = None
    goes_on = True
    while goes_on:
        # A program that the function starts has no business here.
        os.set_inheritable(fd_requests, False)
        os.set_inheritable(fd_answers, False)
        invocation.pid = os.getpid()
        identity.is_renewed = False
        if entry is None:
            log.install()
        channel = Channel(fd_requests, fd_answers)
        goes_on = False
        try:
            if entry is None:
                entry, is_zygote = wait_for_load(channel)
                if is_zygote:
                    # The zygote stays in there, and what comes out is a fork of it, in a shell of its own.
                    fd_answers = fork(CONTROL_FD)
                    fd_requests = fd_answers + 1
                    goes_on = fd_answers > 0
                    continue
            elif not wait_for_renewal(channel, entry):
                entry = None
            if entry and entry.is_awaited:
                awaited.serve(channel, entry)
            elif entry:
                serve(channel, entry)
        except EOFError:
            pass
    log.finish()


# Where a zygote is asked for forks.
CONTROL_FD = 5


def wait_for_load(channel):
    """The entry, if a function was loaded; and whether this is a zygote from now on."""
    while True:
        kind, flags, _, _, body = channel.read()
        if kind == WARM:
            identity.ensure()
            if not flags & BRIEF:
                warm.warm()
            ready(channel, False, "none")
        elif kind == ZYGOTE and "entry" not in (order := json.loads(body)):
            try:
                planted = plant.plant(order)
            except LoadFailed as failed:
                load_failed(channel, failed)
                return None, False
            log.finish()
            if not planted["unforkable"]:
                sprout.settle()
                huge.settle()
            ready(channel, False, "none", **planted)
            return None, not planted["unforkable"]
        elif kind in (LOAD, ZYGOTE):
            try:
                entry = load(body)
                if kind == LOAD and entry.is_awaited:
                    entry.start()
            except LoadFailed as failed:
                load_failed(channel, failed)
                return None, False
            log.finish()
            reason = None
            if kind == ZYGOTE:
                reason = sprout.unforkable()
                if not reason:
                    sprout.settle()
            ready_with(channel, entry, reason)
            return (None if reason else entry), kind == ZYGOTE and not reason
        else:
            raise ProtocolError(f"frame {kind} before LOAD")


def load_failed(channel, failed):
    log.finish()
    channel.write(LOAD_FAILED, 0, 0, b"", str(failed).encode("utf-8", "backslashreplace"))


def wait_for_renewal(channel, entry):
    """In a fork of a lambda's zygote: everything is there, but it is nobody yet. Whether it can serve."""
    kind, _, _, _, body = channel.read()
    if kind != RENEW:
        raise ProtocolError(f"frame {kind} before RENEW")
    warm.call()
    identity.renew(bytes.fromhex(json.loads(body)["random"]))
    if entry.is_awaited:
        try:
            entry.start()
        except LoadFailed as failed:
            load_failed(channel, failed)
            return False
        log.finish()
    ready_with(channel, entry)
    return True


def ready_with(channel, entry, unforkable=None):
    if entry.is_awaited and entry.wants_end:
        ready(channel, entry.wants_head, entry.kind, unforkable, end=True)
    else:
        ready(channel, entry.wants_head, entry.kind, unforkable)


def ready(channel, wants_head, entry, unforkable=None, **more):
    # Names and numbers: not worth an encoder.
    head = "true" if wants_head else "false"
    if unforkable:
        more["unforkable"] = unforkable
    more = "".join(f', "{name}": {json.dumps(value)}' for name, value in more.items())
    body = f'{{"protocol": {PROTOCOL}, "pid": {os.getpid()}, "head": {head}, "entry": "{entry}"{more}}}'
    channel.write(READY, 0, 0, b"", body.encode())


def serve(channel, entry):
    """The loop. EOFError when the worker is gone."""
    batch = 0
    while True:
        kind, flags, number, head, body = channel.read()
        if kind != REQUEST:
            if kind == CANCEL:
                # It crossed with its answer.
                continue
            raise ProtocolError(f"frame {kind} between invocations")
        if flags & BATCH != batch:
            batch = flags & BATCH
            set_batch(batch)
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
