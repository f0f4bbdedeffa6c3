"""Frames: how a sandbox and its worker talk over one socket (docs/PROTOCOL.md).

    | length 4 | kind 1 | flags 1 | head 2 | invocation 4 | head ... | body ... |

The lean path is one system call each way: one read brings a whole request, one write takes the whole answer.
A request is a packet of its own, so that those which follow stay in the socket until this one is answered, and the
worker can take them back. From a socket without packets one read may bring several; the rest is kept for the next call.
"""

from os import read, readv, write, writev
from struct import Struct

PROTOCOL = 1

# From the worker.
LOAD = 1
REQUEST = 2
REQUEST_BODY = 3
CANCEL = 4
WARM = 5
ZYGOTE = 6
RENEW = 7
MESSAGE = 8
CLOSED = 9

# From the sandbox.
READY = 16
RESPONSE = 17
RESPONSE_BODY = 18
LOAD_FAILED = 19
SOCKET_MESSAGE = 20
SOCKET_CLOSE = 21

# Flags.
MORE = 1
FAILED = 2
BATCH = 4
SOCKET = 8
TEXT = 16
BRIEF = 32

HEADER = Struct("<IBBHI")
HEADER_SIZE = HEADER.size
# Where in it the kind stands.
KIND_AT = 4
HEAD_MAX = 65_535
PAYLOAD_MAX = 2**31 - 1

# The protocol's packet. A larger buffer would leave malloc's heap for a mapping of its own, and every
# read would fault in fresh pages.
READ_SIZE = 65_536
# Up to here, copying head and body into one piece costs less than the vector of a writev.
COPY_MAX = 65_536


class ProtocolError(Exception):
    """The worker sent what docs/PROTOCOL.md does not allow here; there is no way to go on."""


class Channel:
    """Frames in from one blocking file descriptor, and out to another."""

    def __init__(self, fd_in, fd_out):
        self.fd_in = fd_in
        self.fd_out = fd_out
        # What was read and not yet taken: `_data` from `_at` on.
        self._data = b""
        self._at = 0

    def has_begun(self):
        """Whether something of the next frame has been read already."""
        return self._at < len(self._data)

    def put(self, data):
        """What somebody else has read, when nothing of the next frame had been."""
        self._data = data
        self._at = 0

    def next_kind(self):
        """The kind of the next frame, if so much of it has been read."""
        at = self._at + KIND_AT
        return self._data[at] if at < len(self._data) else None

    def read(self):
        """The next frame, as (kind, flags, invocation, head, body). EOFError when the worker is gone."""
        data = self._data
        at = self._at
        while len(data) - at < HEADER_SIZE:
            more = read(self.fd_in, READ_SIZE)
            if not more:
                raise EOFError
            data = data[at:] + more
            at = 0
        length, kind, flags, n_head, invocation = HEADER.unpack_from(data, at)
        if n_head > length or length > PAYLOAD_MAX:
            raise ProtocolError(f"a frame of {length} bytes with a head of {n_head}")
        begin = at + HEADER_SIZE
        end = begin + length
        if end > len(data):
            payload = self._read_long(data[begin:], length)
            begin, end = 0, length
            self._data = b""
            self._at = 0
            if not n_head:
                return kind, flags, invocation, b"", payload
            head = bytes(payload[:n_head])
            # A bytearray gives up its front without moving the rest.
            del payload[:n_head]
            return kind, flags, invocation, head, payload
        if end == len(data):
            self._data = b""
            self._at = 0
        else:
            self._data = data
            self._at = end
        middle = begin + n_head
        return kind, flags, invocation, data[begin:middle], data[middle:end]

    def _read_long(self, beginning, length):
        # Straight into its final place: collecting pieces would hold a large body twice.
        payload = bytearray(length)
        at = len(beginning)
        payload[:at] = beginning
        with memoryview(payload) as view:
            while at < length:
                n = readv(self.fd_in, [view[at:]])
                if not n:
                    raise EOFError
                at += n
        return payload

    def write(self, kind, flags, invocation, head, body):
        """One frame, whole. What is too long for one frame goes on in body frames."""
        n_head = len(head)
        if n_head > HEAD_MAX:
            raise ValueError(f"a head of {n_head} bytes; at most {HEAD_MAX} fit")
        length = n_head + len(body)
        if length <= COPY_MAX:
            data = HEADER.pack(length, kind, flags, n_head, invocation) + head + body
            n = write(self.fd_out, data)
            if n != len(data):
                self._write_all([memoryview(data)[n:]])
            return
        if length <= PAYLOAD_MAX:
            header = HEADER.pack(length, kind, flags, n_head, invocation)
            self._write_all([memoryview(header + head), memoryview(body)])
            return
        here = PAYLOAD_MAX - n_head
        with memoryview(body) as view:
            self.write(kind, flags | MORE, invocation, head, view[:here])
            self.write(RESPONSE_BODY, flags, invocation, b"", view[here:])

    def _write_all(self, views):
        while views:
            n = writev(self.fd_out, views)
            while views and n >= len(views[0]):
                n -= len(views[0])
                del views[0]
            if n:
                views[0] = views[0][n:]


def response_head(status, headers):
    """The head of a response. ValueError if a name or value holds what would end its line."""
    lines = [f"{status:03d}"]
    for name, value in headers:
        lines.append(name)
        lines.append(value)
    for line in lines:
        if "\n" in line or "\r" in line or "\0" in line:
            raise ValueError(f"a header holds a line break or NUL: {line!r}")
    lines.append("")
    return "\n".join(lines).encode("latin-1")


def request_head(head):
    """A request's head as (method, target, milliseconds left, client, request id, [(name, value), ...]).

    The client is for `address`.
    """
    lines = head.decode("latin-1").split("\n")
    method, target, time_and_client, request_id = lines[:4]
    left_ms, _, client = time_and_client.partition(" ")
    # The last line ends with a line break too, so the list's last element is empty and finds no partner.
    return method, target, int(left_ms), client, request_id, list(zip(lines[4::2], lines[5::2]))


def address(text):
    """`127.0.0.1:80` or `[::1]:80` as host and port; None if there is none."""
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon else None
