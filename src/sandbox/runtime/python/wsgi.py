"""The entry of WSGI apps (PEP 3333): whole HTTP requests, bodies streamed both ways."""

import io
import sys
from time import monotonic
from urllib.parse import unquote_to_bytes

from .entries import TEXT_500, joined
from .frames import MORE, address, request_head, response_head
from .invocation import BEGUN, NOT_BEGUN, Cancelled


class Wsgi:
    kind = "wsgi"
    wants_head = True
    is_awaited = False

    def __init__(self, app, script_name):
        self._app = app
        self._script_name = script_name

    def call(self, invocation):
        response = Response(invocation)
        try:
            pieces = self._app(environ(invocation, self._script_name), response.start)
            try:
                if isinstance(pieces, (list, tuple)):
                    # All there: one frame.
                    response.write(b"".join(pieces), more=False)
                else:
                    for piece in pieces:
                        if piece:
                            response.write(piece)
                response.end()
            finally:
                close = getattr(pieces, "close", None)
                if close:
                    close()
        except Cancelled:
            raise
        except BaseException as error:
            invocation.fail(TEXT_500, error)


class Response:
    """What PEP 3333 asks of start_response and write, on top of an invocation's answer."""

    def __init__(self, invocation):
        self._invocation = invocation
        self._head = None
        # How much the app has announced and not yet written, if it has announced it.
        self._left = None

    def start(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self._invocation.progress != NOT_BEGUN:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called twice, and not to report an error")
        self._head = response_head(int(status[:3]), headers)
        self._left = None
        for name, value in headers:
            if name.lower() == "content-length":
                self._left = int(value)
        return self.write

    def write(self, piece, more=True):
        if self._head is None:
            raise AssertionError("the app wrote before it called start_response")
        if self._left is not None:
            if len(piece) > self._left:
                raise ValueError("the app wrote more than its content-length")
            self._left -= len(piece)
            # The last piece can be known: that saves a frame that says so.
            more = more and self._left > 0
        if self._invocation.progress == NOT_BEGUN:
            self._invocation.answer(self._head, piece, MORE if more else 0)
        elif self._invocation.progress == BEGUN:
            # An app may say nothing and go on; a frame may not.
            if piece or not more:
                self._invocation.go_on(piece, MORE if more else 0)
        elif piece:
            raise ValueError("the app wrote after the end of its answer")

    def end(self):
        if self._invocation.progress == NOT_BEGUN:
            self.write(b"", more=False)
        elif self._invocation.progress == BEGUN:
            if self._left:
                raise ValueError(f"the app wrote {self._left} bytes less than its content-length")
            self._invocation.go_on(b"", 0)


def environ(invocation, script_name):
    now = monotonic()
    method, target, left_ms, client, request_id, headers = request_head(invocation.head)
    path, _, query = target.partition("?")
    values = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # The input ends where the body ends, also if there is no CONTENT_LENGTH.
        "wsgi.input_terminated": True,
        "ol.request_id": request_id,
        "ol.deadline": now + left_ms / 1000,
    }
    for name, value in joined(headers).items():
        if name == "content-type":
            values["CONTENT_TYPE"] = value
        elif name == "content-length":
            values["CONTENT_LENGTH"] = value
        # `a_b` would pass for `a-b`; and a client's `Proxy` must not become the setting HTTP_PROXY (httpoxy).
        elif "_" not in name and name != "proxy":
            values["HTTP_" + name.upper().replace("-", "_")] = value
    if client:
        values["REMOTE_ADDR"], port = address(client)
        values["REMOTE_PORT"] = str(port)
    host, colon, port = values.get("HTTP_HOST", "localhost").rpartition(":")
    values["SERVER_NAME"], values["SERVER_PORT"] = (host, port) if colon and port.isdigit() else (host + colon + port, "80")
    if invocation.more:
        values["wsgi.input"] = io.BufferedReader(Body(invocation))
    else:
        values["wsgi.input"] = io.BytesIO(invocation.body)
        values.setdefault("CONTENT_LENGTH", str(len(invocation.body)))
    return values


class Body(io.RawIOBase):
    """A request's body that is read as it comes, and no further than the app reads."""

    def __init__(self, invocation):
        self._invocation = invocation
        self._piece = memoryview(invocation.body)

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._piece and self._invocation.more:
            self._piece = memoryview(self._invocation.piece())
        n = min(len(buffer), len(self._piece))
        buffer[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n
