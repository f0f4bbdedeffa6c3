"""Entries that are awaited: an event loop of the sandbox's own, and the channel to the worker on it.

The loop is made when the sandbox begins to be somebody: not in a zygote, whose forks would share what it is made of.
asyncio is imported by nothing but entries that need it.

    Line           the channel: nothing waits for it but who awaits `drained`
    Conversation   one call after the other, as they come in
    Call           one of them: what its entry makes of an invocation

A call is over for the worker when its answer and its request have come to their ends; what the function does after that,
it does beside the calls that follow.
"""

import sys
from collections import deque
from socket import MSG_DONTWAIT, MSG_PEEK, socket

from . import entries, failure, jsontext, log
from .entries import TEXT_400, TEXT_500, Context
from .frames import (
    BATCH,
    CANCEL,
    COPY_MAX,
    FAILED,
    HEAD_MAX,
    HEADER,
    HEADER_SIZE,
    MORE,
    READ_SIZE,
    REQUEST,
    REQUEST_BODY,
    ProtocolError,
)
from .invocation import BEGUN, ENDED, NOT_BEGUN, Invocation, set_batch

# How much of a request is read before the function asks for it, in bytes: a packet, so that its end is seen.
READ_AHEAD = 65_536
# While a request lies behind the one that runs, the worker's word about the latter may come behind it, and nothing tells
# of that: so it is looked for, in seconds.
LOOK_AGAIN = 0.02
# How many calls may go on after their answers. Each keeps what it holds; one more, and the next call waits.
AFTER_MAX = 100


def new_loop():
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def serve(channel, entry):
    """Serves until the worker is gone, and then lets the function end what it has begun."""
    loop = entry.loop
    conversation = Conversation(channel, entry, loop)
    loop.call_soon(conversation.look)
    until(loop, conversation.over)
    until(loop, loop.create_task(conversation.close()))
    conversation.line.leave()


def until(loop, future):
    """Runs the loop until the future is done, whatever the function's own tasks do."""
    while not future.done():
        try:
            loop.run_until_complete(future)
        # asyncio passes these two on, out of whichever task they come.
        except (SystemExit, KeyboardInterrupt) as error:
            report(error)
    future.result()


def report(error):
    """Writes to the log what nobody can be told any more."""
    sys.stderr.write(failure.report(error).decode("utf-8"))


class News:
    """Wakes whoever waits for something to have changed."""

    def __init__(self, loop):
        self._loop = loop
        self._waiting = []

    async def wait(self):
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    def tell(self):
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Line:
    """The channel on an event loop."""

    def __init__(self, channel, loop):
        self._channel = channel
        self._loop = loop
        self._in = socket(fileno=channel.fd_in)
        self._out = self._in if channel.fd_out == channel.fd_in else socket(fileno=channel.fd_out)
        # What the socket had no room for.
        self.waiting = deque()
        self._room = News(loop)

    def watch(self, heard):
        """Has `heard` called as long as there is something to be received; None: no more."""
        if heard:
            self._loop.add_reader(self._channel.fd_in, heard)
        else:
            self._loop.remove_reader(self._channel.fd_in)

    def receive(self):
        """The next frame; None if there is none yet. EOFError when the worker is gone."""
        if not self._channel.has_begun():
            data = self._read(READ_SIZE, MSG_DONTWAIT)
            if data is None:
                return None
            self._channel.put(data)
        # If there is a rest, the worker is writing it.
        return self._channel.read()

    def holds_more(self):
        """Whether something was read that nobody has taken: what is not packets may come together."""
        return self._channel.has_begun()

    def next_kind(self):
        """The kind of the next frame, which stays where the worker can take it back; None if there is none yet."""
        if self._channel.has_begun():
            return self._channel.next_kind()
        header = self._read(HEADER_SIZE, MSG_DONTWAIT | MSG_PEEK)
        return header[4] if header else None

    def _read(self, size, flags):
        try:
            data = self._in.recv(size, flags)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            raise EOFError from None
        if not data:
            raise EOFError
        return data

    # As that of the channel, but for waiting.
    def write(self, kind, flags, invocation, head, body):
        n_head = len(head)
        if n_head > HEAD_MAX:
            raise ValueError(f"a head of {n_head} bytes; at most {HEAD_MAX} fit")
        length = n_head + len(body)
        header = HEADER.pack(length, kind, flags, n_head, invocation)
        if length <= COPY_MAX:
            self._put(header + head + body)
        else:
            self._put(header + head)
            self._put(body)

    def _put(self, data):
        if not self.waiting:
            n = self._send(data)
            if n == len(data):
                return
            data = memoryview(data)[n:]
            self._loop.add_writer(self._channel.fd_out, self._go_on)
        self.waiting.append(memoryview(data))

    def _go_on(self):
        waiting = self.waiting
        while waiting:
            n = self._send(waiting[0])
            if n < len(waiting[0]):
                waiting[0] = waiting[0][n:]
                return
            waiting.popleft()
        self._loop.remove_writer(self._channel.fd_out)
        self._room.tell()

    def _send(self, data):
        try:
            return self._out.send(data, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return 0
        except ConnectionError:
            # The worker is gone, which is seen at the other descriptor.
            return len(data)

    def leave(self):
        """The descriptors are somebody else's."""
        for end in (self._in, self._out):
            if end.fileno() >= 0:
                end.detach()

    async def drained(self):
        """Waits until all that was written has been taken."""
        while self.waiting:
            await self._room.wait()


class Conversation:
    """What comes in, in order."""

    def __init__(self, channel, entry, loop):
        from contextvars import copy_context

        self.line = Line(channel, loop)
        self.over = loop.create_future()
        self._entry = entry
        self._loop = loop
        # Of no call: what one sets in its own must not be found by the next.
        self._context = copy_context()
        self._call = None
        self._n_after = 0
        self._tasks = set()
        self._batch = 0
        self._is_watched = False
        self._look_again = None

    def look(self):
        """Takes what is there, as far as it is wanted now."""
        try:
            while not self.over.done():
                call = self._call
                if call is None:
                    if self._n_after >= AFTER_MAX:
                        return self._watch(False)
                elif call.more:
                    if call.n_unread >= READ_AHEAD:
                        return self._watch(False)
                else:
                    kind = self.line.next_kind()
                    if kind == REQUEST:
                        self._watch(False)
                        return self._look_later()
                    if kind is None:
                        return self._watch(True)
                frame = self.line.receive()
                if frame is None:
                    return self._watch(True)
                self._hear(*frame)
                if call is None and self._call is not None and not self._call.more and not self.line.holds_more():
                    # Most calls are over before it was worth it to watch for the worker's change of mind.
                    return None if self._is_watched else self._look_later()
        except EOFError:
            self._end(None)
        except BaseException as error:
            self._end(error)

    def _watch(self, is_watched):
        if is_watched != self._is_watched:
            self._is_watched = is_watched
            self.line.watch(self.look if is_watched else None)

    def _look_later(self):
        if self._look_again is None:
            self._look_again = self._loop.call_later(LOOK_AGAIN, self._looked_again)

    def _looked_again(self):
        self._look_again = None
        self.look()

    def _end(self, error):
        self._watch(False)
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)

    def _hear(self, kind, flags, number, head, body):
        call = self._call
        if call is None and kind == REQUEST:
            if flags & BATCH != self._batch:
                self._batch = flags & BATCH
                set_batch(self._batch)
            self._call = call = self._entry.begin(self, number, flags, head, body)
            task = self._context.run(self._loop.create_task, self._run(call))
            # The loop itself does not hold on to them.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif call is not None and number == call.number and kind != REQUEST:
            call.hear(kind, flags, body)
            self.answered(call)
        # What crossed with the end of its call.
        elif kind != CANCEL:
            raise ProtocolError(f"frame {kind} of invocation {number} where none was due")

    def answered(self, call):
        """The answer has come to its end, or the request."""
        if self._call is call and call.progress == ENDED and not call.more:
            self._call = None
            self._n_after += not call.is_done
            call.is_after = not call.is_done
            self.look()

    def wanted(self):
        """The function has taken something of its request."""
        if not self._is_watched:
            self.look()

    async def _run(self, call):
        # What is printed after the answer is counted to it as well, until the next begins.
        log.invocation = call.number
        try:
            await call.run()
        # Nobody would be told.
        except BaseException as error:
            report(error)
        call.is_done = True
        if call.is_after:
            self._n_after -= 1
            self.wanted()
        else:
            self.answered(call)

    async def close(self):
        """What goes on after its call comes to its end, and then the function."""
        import asyncio

        if self._call is not None:
            self._call.is_cancelled = True
            self._call.news.tell()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._entry.stop()


class Call(Invocation):
    """An invocation whose request is heard, not read."""

    # How much of the request the function has not asked for.
    n_unread = 0
    # Whether its entry has returned; and whether the worker was done with it before.
    is_done = False
    is_after = False
    # Whether nobody waits for the answer any more.
    is_cancelled = False

    def __init__(self, conversation, number, flags, head, body):
        super().__init__(conversation.line, number, flags & MORE, head, body)
        self.line = conversation.line
        self._conversation = conversation
        self._pieces = deque([body] if body else ())
        self.news = News(conversation._loop)

    def hear(self, kind, flags, body):
        if kind == CANCEL:
            self.more = 0
            self.is_cancelled = True
        elif kind == REQUEST_BODY:
            self.more = flags & MORE
            if self.progress != ENDED and body:
                self._pieces.append(body)
                self.n_unread += len(body)
        else:
            raise ProtocolError(f"frame {kind} amid a request")
        self.news.tell()

    def take(self):
        """The next piece of the request that is there."""
        piece = self._pieces.popleft()
        self.n_unread = max(0, self.n_unread - len(piece))
        if self.more:
            self._conversation.wanted()
        return piece

    def ended(self):
        """The answer has been given, or given up. What the function has not read of the request, nobody will."""
        self._pieces.clear()
        self.n_unread = 0
        self.news.tell()
        if self.more:
            self._conversation.wanted()
        else:
            self._conversation.answered(self)

    def finish(self, error=None):
        """The entry has returned, or raised `error`: there will be no more of an answer than there is."""
        if self.progress == ENDED:
            if error is not None:
                self.fail(TEXT_500, error)
            return
        if self.is_cancelled:
            if error is not None and not isinstance(error, OSError) and type(error).__name__ != "CancelledError":
                report(error)
            if self.progress == NOT_BEGUN:
                self.answer(TEXT_400, b"the request was cancelled\n")
            else:
                self.go_on(b"", FAILED)
        elif error is not None:
            self.fail(TEXT_500, error)
        elif self.progress == BEGUN:
            self.fail(TEXT_500, RuntimeError("the app returned before the end of its answer"))
        else:
            self.fail(TEXT_500, RuntimeError("the app returned without an answer"))
        self.ended()


class AsyncEvent:
    """`async def f(event)`, or `async def f(event, context)`: from JSON to JSON."""

    kind = "event"
    is_awaited = True
    # Nothing wants to be told before the sandbox ends.
    wants_end = False

    def __init__(self, function, wants_head):
        self.function = function
        self.wants_head = wants_head
        self.loop = None

    def start(self):
        self.loop = new_loop()

    async def stop(self):
        pass

    def begin(self, conversation, number, flags, head, body):
        return EventCall(self, conversation, number, flags, head, body)


class EventCall(Call):
    def __init__(self, entry, *args):
        super().__init__(*args)
        self._entry = entry

    async def run(self):
        pieces = []
        while self.more or self._pieces:
            while self._pieces:
                pieces.append(self.take())
            if self.more:
                await self.news.wait()
        if self.is_cancelled:
            self.finish()
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            event = jsontext.decode(body) if body else {}
        except (RecursionError, ValueError) as error:
            entries.refuse(self, body, error)
        else:
            try:
                if self._entry.wants_head:
                    result = await self._entry.function(event, Context(self.head))
                else:
                    result = await self._entry.function(event)
            # As in a plain function.
            except BaseException as error:
                self.fail(TEXT_500, error)
            else:
                entries.answer(self, result)
        self.ended()
