"""One call: its request, of which the body may still be on its way, and its one answer."""

import os
import sys

from . import failure, log
from .frames import CANCEL, FAILED, MORE, REQUEST_BODY, RESPONSE, RESPONSE_BODY, ProtocolError

# The process that may speak to the worker. `runtime.main` sets it anew after the fork.
pid = os.getpid()


# How far the answer is.
NOT_BEGUN = 0
BEGUN = 1
ENDED = 2


class Cancelled(Exception):
    """The rest of the request's body will not come: nobody waits for the answer any more."""


class Invocation:
    """What an entry gets for a call. It reads the body as it likes, and answers once."""

    __slots__ = ("_channel", "number", "head", "body", "more", "progress")

    def __init__(self, channel, number, more, head, body):
        self._channel = channel
        self.number = number
        self.head = head
        # The body, or its beginning if there is `more`.
        self.body = body
        self.more = more
        self.progress = NOT_BEGUN

    def piece(self):
        """The next piece of the request's body; only if there is `more`."""
        kind, flags, number, _, body = self._channel.read()
        if kind == CANCEL:
            if number != self.number:
                # Of an earlier one, whose answer has left already.
                return b""
            self.more = False
            raise Cancelled
        if kind != REQUEST_BODY or number != self.number:
            raise ProtocolError(f"frame {kind} of invocation {number} amid the body of {self.number}")
        self.more = flags & MORE
        return body

    def whole_body(self):
        if self.more:
            pieces = [self.body]
            while self.more:
                pieces.append(self.piece())
            self.body = b"".join(pieces)
        return self.body

    def drain(self):
        """Reads over what nobody wanted of the body, so that the next frame is a request."""
        try:
            while self.more:
                self.piece()
        except Cancelled:
            pass

    def answer(self, head, body, flags=0):
        """The whole answer; or its beginning, if `flags` say `MORE`."""
        leave_if_forked()
        # Before the answer: who reads the answer and then the log finds all of it.
        log.finish()
        self._channel.write(RESPONSE, flags, self.number, head, body)
        # Now, because a head that is too long is refused above, and that has to be answered.
        self.progress = BEGUN if flags & MORE else ENDED

    def go_on(self, body, flags):
        """The next piece of an answer that was begun; the last has no `MORE`, and `FAILED` if it broke off."""
        leave_if_forked()
        log.finish()
        self._channel.write(RESPONSE_BODY, flags, self.number, b"", body)
        self.progress = BEGUN if flags & MORE else ENDED

    def fail(self, head, error):
        """Answers that the function raised `error`, or breaks off the answer that was begun."""
        leave_if_forked(error)
        report = failure.report(error)
        if self.progress == NOT_BEGUN:
            self.answer(head, report, FAILED)
            return
        # It is too late to tell the caller.
        sys.stderr.write(report.decode("utf-8"))
        if self.progress == BEGUN:
            self.go_on(b"", FAILED)


def leave_if_forked(error=None):
    """Ends a child that the function forked and that came back here instead of exiting.

    It would answer a second time in its parent's name. It ends as it would at the end of a script.
    """
    if os.getpid() == pid:
        return
    status = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code & 0xFF
        elif error.code is not None:
            sys.stderr.write(f"{error.code}\n")
            status = 1
    elif error is not None:
        sys.stderr.write(failure.text(error))
        status = 1
    log.finish()
    os._exit(status)


def set_batch(batch):
    """Whether to wait, when woken, until whoever runs is done: each that does not is a switch of processes more."""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH if batch else os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        # The function has chosen something else, from which there is no way back. It runs all the same.
        pass
