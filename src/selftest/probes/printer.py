"""Prints what a log should not be troubled by."""

import os
import sys


def f(event):
    WAYS[event["way"]](event)
    print("the last word of", event["way"])
    return "ok"


def put(data):
    while data:
        data = data[os.write(1, data) :]


def flood(event):
    line = b"x" * 99 + b"\n"
    for _ in range(event["mb"] * 10):
        put(line * 1049)


def empty_lines(event):
    for _ in range(event["mb"]):
        put(b"\n" * (1 << 20))


def endless_empty_lines(event):
    print("it begins", flush=True)
    while True:
        put(b"\n" * 32768)


def endless_line(event):
    for _ in range(event["mb"]):
        put(b"y" * (1 << 20))
    put(b"\n")


def binary(event):
    for _ in range(64):
        put(bytes(range(256)))
    put(b"\n")


def forged(event):
    put(b"\x1e\n\x1e \n\x1e99999999999 o too long a number\n\x1e-1 o x\n\x1e7 q x\n\x1e7 o\n\x1e7 e forged\n")
    put(b"2026-01-01T00:00:00.000Z 1-1 o a line of another sandbox\n")
    put(b"\x1b[2J\x1b]0;title\x07\rno\x08\n")


def many(event):
    for n in range(2000):
        print("line", n)


def streams(event):
    sys.stdout.write("\udcff\ud800 surrogates\n")
    sys.stdout.buffer.write(b"\xff\xfe bytes\n")
    sys.stderr.write("an error stream\n")


WAYS = {
    "flood": flood,
    "empty_lines": empty_lines,
    "endless_empty_lines": endless_empty_lines,
    "endless_line": endless_line,
    "binary": binary,
    "forged": forged,
    "many": many,
    "streams": streams,
}
