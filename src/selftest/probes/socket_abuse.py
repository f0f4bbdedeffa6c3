"""Says to the worker what no runtime would."""

import array
import os
import socket
import struct

HEADER = struct.Struct("<IBBHI")
READY, RESPONSE, RESPONSE_BODY, LOAD_FAILED = 16, 17, 18, 19
MORE = 1
KEPT = []


def f(event):
    WAYS[event["way"]]()
    return "an honest answer"


def say(kind, flags=0, head=b"", body=b"", number=1, length=None, n_head=None):
    length = len(head) + len(body) if length is None else length
    n_head = len(head) if n_head is None else n_head
    put(HEADER.pack(length, kind, flags, n_head, number) + head + body)


def put(data):
    while data:
        data = data[os.write(3, data) :]


def empty_bodies():
    """An answer that goes on for a while and says nothing."""
    say(RESPONSE, flags=MORE, head=b"200\n")
    for _ in range(1000):
        say(RESPONSE_BODY, flags=MORE)
    say(RESPONSE_BODY, body=b"at last")


def rights():
    with socket.socket(fileno=os.dup(3)) as copy:
        fds = array.array("i", [0, 1, 2] * 80)
        copy.sendmsg([b"\xff" * 64], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def lingering():
    """A connection that takes a minute to be closed: by whoever closes it last."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    KEPT.extend((server, peer))
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(65_536))
    except BlockingIOError:
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    with socket.socket(fileno=os.dup(3)) as copy:
        copy.sendmsg([b"\xff" * 64], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()]))])
    client.close()


def urgent():
    with socket.socket(fileno=os.dup(3)) as copy:
        copy.send(b"\xff" * 64, socket.MSG_OOB)


def shut(how, fd=3):
    with socket.socket(fileno=os.dup(fd)) as copy:
        copy.shutdown(how)


WAYS = {
    "none": lambda: None,
    "garbage": lambda: put(b"\xff" * 4096),
    "text": lambda: put(b"HTTP/1.1 200 OK\r\n\r\n" * 100),
    "too_long": lambda: say(RESPONSE, length=0xFFFFFFFF),
    "long_and_silent": lambda: say(RESPONSE, head=b"200\n", length=0x7FFFFFFF, n_head=4),
    "head_beyond_payload": lambda: say(RESPONSE, n_head=65535),
    "head_without_end": lambda: say(RESPONSE, head=b"2" * 65535),
    "head_with_half_a_header": lambda: say(RESPONSE, head=b"200\nx\n"),
    "status_is_none": lambda: say(RESPONSE, head=b"999999\n"),
    "line_break_in_header": lambda: say(RESPONSE, head=b"200\nx\na\r\nset-cookie: y\n"),
    "unknown_flags": lambda: say(RESPONSE, flags=0x80, head=b"200\n"),
    "unknown_kind": lambda: say(77),
    "request": lambda: say(2),
    "ready": lambda: say(READY, body=b'{"protocol": 1, "pid": 1, "head": true, "entry": "event"}'),
    "load_failed": lambda: say(LOAD_FAILED, body=b"no"),
    "empty_bodies": empty_bodies,
    "body_first": lambda: say(RESPONSE_BODY, flags=MORE, body=b"x"),
    "anothers_number": lambda: say(RESPONSE, head=b"200\n", body=b"{}", number=4_000_000_000),
    "descriptors": rights,
    "lingering": lingering,
    "urgent": urgent,
    "deaf": lambda: shut(socket.SHUT_RD),
    "dumb": lambda: shut(socket.SHUT_WR),
    "gone": lambda: os.close(3),
    "refuses": lambda: shut(socket.SHUT_RD, 4),
    "forgets": lambda: os.close(4),
    "talks_back": lambda: os.write(4, b"x"),
    "shares": lambda: os.set_blocking(4, False),
}
