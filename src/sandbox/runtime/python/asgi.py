"""The entry of ASGI apps (version 3.0): HTTP with bodies streamed both ways, WebSocket, and lifespan."""

from time import monotonic
from urllib.parse import unquote

from . import failure
from .awaited import Call, News, new_loop, report, until
from .frames import (
    CANCEL,
    CLOSED,
    MESSAGE,
    MORE,
    SOCKET,
    SOCKET_CLOSE,
    SOCKET_MESSAGE,
    TEXT,
    ProtocolError,
    address,
)
from .invocation import BEGUN, ENDED, NOT_BEGUN
from .load import LoadFailed

# 2.3, and not 2.4, because `send` to a client that has gone does nothing: apps then listen for `http.disconnect`, and end
# as soon as it comes, not when they have something to say.
VERSIONS = {"version": "3.0", "spec_version": "2.3"}
DISCONNECTED = {"type": "http.disconnect"}
# A message takes more than its bytes.
MESSAGE_OVERHEAD = 64
# The longest body of one frame: the protocol's limit is at twice that.
BODY_MAX = 1 << 30
# RFC 6455, 7.4.1: what a socket is closed with that nobody has closed.
NO_STATUS = 1005
GONE = 1006


class ClientGone(OSError):
    """What `send` raises on a WebSocket that is closed."""


class Asgi:
    kind = "asgi"
    wants_head = True
    is_awaited = True

    def __init__(self, app, root_path, name, entry):
        self.app = app
        self.root_path = root_path
        self.raw_root_path = root_path.encode()
        # For people: which object of which file it is.
        self._where = f"{name} in {entry}"
        self._lifespan = None
        self.loop = None

    def start(self):
        self.loop = new_loop()
        self._lifespan = Lifespan(self.app, self.loop)
        starting = self.loop.create_task(self._lifespan.start())
        until(self.loop, starting)
        if self._lifespan.failure is not None:
            raise LoadFailed(f"{self._where} did not start (lifespan.startup)\n\n{self._lifespan.failure}")

    async def stop(self):
        await self._lifespan.stop()

    @property
    def wants_end(self):
        return self._lifespan is not None and self._lifespan.is_running

    def begin(self, conversation, number, flags, head, body):
        call = SocketCall if flags & SOCKET else HttpCall
        return call(self, conversation, number, flags, head, body)

    def scope(self, head, **more):
        lines = head.split(b"\n")
        target, time_and_client = lines[1], lines[2].decode()
        path, _, query = target.partition(b"?")
        left_ms, _, client = time_and_client.partition(" ")
        # The last line ends with a line break too.
        headers = list(zip(lines[4::2], lines[5::2]))
        scope = {
            "asgi": VERSIONS.copy(),
            "http_version": "1.1",
            "path": self.root_path + unquote(path.decode("latin-1")),
            "raw_path": self.raw_root_path + path,
            "query_string": query,
            "root_path": self.root_path,
            "headers": headers,
            "client": address(client),
            "server": server(headers),
            "extensions": {
                "ol": {"request_id": lines[3].decode("latin-1"), "deadline": monotonic() + int(left_ms) / 1000}
            },
            **more,
        }
        if self._lifespan.is_running:
            scope["state"] = self._lifespan.state.copy()
        return scope


def server(headers):
    """Host and port, as the client calls them."""
    for name, value in headers:
        if name == b"host":
            host, colon, port = value.decode("latin-1").rpartition(":")
            if colon and port.isdigit():
                return host.strip("[]"), int(port)
            return (host + colon + port).strip("[]"), 80
    return "localhost", 80


class HttpCall(Call):
    def __init__(self, entry, *args):
        super().__init__(*args)
        self._entry = entry
        self._head = None
        self._is_body_given = False

    async def run(self):
        error = None
        method = self.head.partition(b"\n")[0].decode("latin-1")
        try:
            scope = self._entry.scope(self.head, type="http", method=method, scheme="http")
            await self._entry.app(scope, self.receive, self.send)
        # All of them: what a task raises of these would end the sandbox.
        except BaseException as raised:
            error = raised
        if error is not None or self.progress != ENDED:
            self.finish(error)

    async def receive(self):
        while not self.is_cancelled and self.progress != ENDED:
            if not self._is_body_given and (self._pieces or not self.more):
                body = self.take() if self._pieces else b""
                self._is_body_given = not (self._pieces or self.more)
                return {"type": "http.request", "body": bytes(body), "more_body": not self._is_body_given}
            await self.news.wait()
        return DISCONNECTED.copy()

    async def send(self, message):
        kind = message["type"]
        if self.is_cancelled:
            # An app that goes on all the same lets others go on.
            await pause()
        elif self.progress == ENDED:
            raise RuntimeError(f"the app sent {kind!r} after the end of its answer")
        elif self._head is None:
            expect(kind, "http.response.start")
            self._head = head_of(message["status"], message.get("headers") or ())
        else:
            expect(kind, "http.response.body")
            await send_body(self, self._head, message)


async def send_body(call, head, message):
    """A piece of an answer, of which this is the head."""
    body = message.get("body", b"")
    more = bool(message.get("more_body", False))
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body is bytes, not {type(body).__name__}")
    while len(body) > BODY_MAX:
        await send_body(call, head, {"body": memoryview(body)[:BODY_MAX], "more_body": True})
        body = memoryview(body)[BODY_MAX:]
    flags = MORE if more else 0
    if call.progress == NOT_BEGUN:
        call.answer(head, body, flags)
    elif body or not more:
        call.go_on(body, flags)
    if not more:
        call.ended()
    if call.line.waiting:
        await call.line.drained()


def expect(kind, due):
    if kind != due:
        raise RuntimeError(f"the app sent {kind!r} where {due!r} was due")


def head_of(status, headers):
    """The head of a response. ValueError if a name or value holds what would end its line."""
    lines = [b"%d" % status]
    for name, value in headers:
        lines.append(name)
        lines.append(value)
    lines.append(b"")
    head = b"\n".join(lines)
    if head.count(b"\n") >= len(lines) or b"\r" in head or b"\0" in head:
        raise ValueError(f"a header holds a line break or NUL: {head!r}")
    return head


async def pause():
    from asyncio import sleep

    await sleep(0)


class SocketCall(Call):
    """A WebSocket. Its request goes on until the worker says that it is closed."""

    def __init__(self, entry, *args):
        super().__init__(*args)
        self._entry = entry
        self.more = MORE
        self._is_told = False
        # `websocket.disconnect`, when there is nothing more to come.
        self._closed = None
        self._is_closing = False
        self._denial = None
        # The beginning of a message of which the rest is on its way.
        self._beginning = b""

    async def run(self):
        error = None
        try:
            scope = self._entry.scope(self.head, type="websocket", scheme="ws")
            scope["subprotocols"] = subprotocols(scope["headers"])
            scope["extensions"]["websocket.http.response"] = {}
            await self._entry.app(scope, self.receive, self.send)
        except BaseException as raised:
            error = raised
        if error is None and self.progress == BEGUN and self._denial is None:
            self.go_on(b"", 0)
            self.ended()
        elif error is not None and self.progress == BEGUN and self._closed:
            # That the client has gone is no failure of the function's.
            if not isinstance(error, ClientGone):
                report(error)
            self.go_on(b"", 0)
            self.ended()
        elif error is not None or self.progress != ENDED:
            self.finish(error)

    def hear(self, kind, flags, body):
        if kind == MESSAGE:
            if flags & MORE:
                self._beginning += body
                return
            body, self._beginning = self._beginning + body, b""
            if self.progress != ENDED:
                self._pieces.append((flags & TEXT, body))
                self.n_unread += len(body) + MESSAGE_OVERHEAD
        elif kind == CLOSED:
            self.more = 0
            code = int.from_bytes(body[:2], "little")
            self._closed = {"type": "websocket.disconnect", "code": code, "reason": str(body[2:], "utf-8", "replace")}
            self.is_cancelled = self.progress == NOT_BEGUN
        elif kind != CANCEL:
            raise ProtocolError(f"frame {kind} amid a WebSocket")
        self.news.tell()

    async def receive(self):
        if not self._is_told:
            self._is_told = True
            return {"type": "websocket.connect"}
        while not self._pieces:
            if self._closed:
                return self._closed.copy()
            if self.progress == ENDED:
                return {"type": "websocket.disconnect", "code": GONE, "reason": ""}
            await self.news.wait()
        is_text, body = self._pieces.popleft()
        self.n_unread -= len(body) + MESSAGE_OVERHEAD
        self._conversation.wanted()
        if is_text:
            return {"type": "websocket.receive", "text": str(body, "utf-8")}
        return {"type": "websocket.receive", "bytes": bytes(body)}

    async def send(self, message):
        kind = message["type"]
        if self.progress == NOT_BEGUN and not self._denial:
            await self._answer(kind, message)
        elif self._denial:
            expect(kind, "websocket.http.response.body")
            await send_body(self, self._denial, message)
        elif self._closed or self.progress == ENDED:
            raise ClientGone("the WebSocket is closed")
        elif self._is_closing:
            raise RuntimeError(f"the app sent {kind!r} after 'websocket.close'")
        elif kind == "websocket.close":
            self._is_closing = True
            reason = (message.get("reason") or "").encode()
            code = int(message.get("code") or 1000)
            self.line.write(SOCKET_CLOSE, 0, self.number, b"", code.to_bytes(2, "little") + reason)
        else:
            expect(kind, "websocket.send")
            text = message.get("text")
            body, flags = (message["bytes"], 0) if text is None else (text.encode(), TEXT)
            if not isinstance(body, (bytes, bytearray, memoryview)):
                raise TypeError(f"a message is bytes or text, not {type(body).__name__}")
            self.line.write(SOCKET_MESSAGE, flags, self.number, b"", body)
            if self.line.waiting:
                await self.line.drained()

    async def _answer(self, kind, message):
        """Accepts, or says why not."""
        if kind == "websocket.http.response.start":
            self._denial = head_of(message["status"], message.get("headers") or ())
            return
        if self._closed:
            # Who has gone need not be answered; `finish` tells the worker.
            raise ClientGone("the WebSocket is closed")
        if kind == "websocket.close":
            self.answer(head_of(403, ()), b"")
            self.ended()
            return
        expect(kind, "websocket.accept")
        headers = list(message.get("headers") or ())
        if message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
        self.answer(head_of(101, headers), b"", MORE)


def subprotocols(headers):
    values = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


class Lifespan:
    """What an app wants to be told of the sandbox's beginning and end. Many do not, and say so by failing."""

    def __init__(self, app, loop):
        self._app = app
        self._loop = loop
        self._news = News(loop)
        self._task = None
        self._n_asked = 0
        self._is_ending = False
        # What the app has said last, without `lifespan.`.
        self._said = None
        self.state = {}
        # Why it cannot start.
        self.failure = None

    @property
    def is_running(self):
        return self._said == "startup.complete"

    async def start(self):
        self._task = self._loop.create_task(self._run())
        await self._until("startup.complete", "startup.failed")

    async def stop(self):
        """How long this may take, the worker decides."""
        if self.is_running:
            self._is_ending = True
            self._news.tell()
            await self._until("shutdown.complete", "shutdown.failed")

    async def _until(self, *messages):
        while self._said not in messages and not self._task.done():
            await self._news.wait()

    async def _run(self):
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except (SystemExit, KeyboardInterrupt) as error:
            self._failed(failure.report(error).decode("utf-8"))
        except BaseException as error:
            # Before it has begun: it does not know lifespan. After it has failed: it has said so.
            if self._said == "startup.complete":
                report(error)
        finally:
            if self._said == "startup.complete":
                self._said = "over"
            # When the task is done, too.
            self._loop.call_soon(self._news.tell)

    def _failed(self, why):
        if self._said is None:
            self._said, self.failure = "startup.failed", why

    async def _receive(self):
        self._n_asked += 1
        if self._n_asked == 1:
            return {"type": "lifespan.startup"}
        while not self._is_ending or self._n_asked > 2:
            await self._news.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message):
        said = message["type"].partition(".")[2]
        if said == "startup.failed":
            self._failed(message.get("message") or "it gives no reason")
        else:
            self._said = said
            if said == "shutdown.failed":
                report(RuntimeError(message.get("message") or "the shutdown failed"))
        self._news.tell()
