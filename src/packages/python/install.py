"""Runs one program in the installer sandbox, and says what came of it. Loaded as a function's code is."""

import os
import resource
import signal
import subprocess

# Of what the program prints, this much from the beginning and this much from the end is told.
HEAD_BYTES = 4096
TAIL_BYTES = 12288


def f(event):
    # No file larger than the whole may be. It holds for what is started, which cannot undo it.
    n = event["file_bytes_max"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    for name, text in event["files"].items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    for name in event["directories"]:
        os.makedirs(name, exist_ok=True)
    try:
        process = subprocess.Popen(
            event["command"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=event["cwd"],
            env=event["environment"],
            start_new_session=True,
        )
    except OSError as error:
        return {"code": 127, "output": f"cannot run {event['command'][0]}: {error.strerror}"}
    said = read(process.stdout)
    code = process.wait()
    if code < 0:
        said += f"\n(ended by {name_of(-code)})"
    return {"code": code, "output": said}


def read(pipe):
    """What is said in the pipe until nobody holds it any more; the middle is left out if it is long."""
    head, tail, n_lost = b"", b"", 0
    while piece := pipe.read1(65536):
        room = HEAD_BYTES - len(head)
        head += piece[:room]
        tail += piece[room:] if room > 0 else piece
        if len(tail) > TAIL_BYTES:
            n_lost += len(tail) - TAIL_BYTES
            tail = tail[-TAIL_BYTES:]
    between = f"\n[... {n_lost} bytes ...]\n".encode() if n_lost else b""
    return (head + between + tail).decode("utf-8", "replace")


def name_of(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
