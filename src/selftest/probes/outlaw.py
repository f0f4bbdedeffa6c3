"""A module that never lets go of its zygote: it answers the worker itself, and not as the runtime would.

`WAY`, from the environment: what it does when it is asked for a fork.
"""

import ctypes
import os
import signal
import socket
import struct
import time

# Long enough to be worth a zygote.
time.sleep(0.05)

FORKED, FAILED = 16, 17
CLONE_NEWPID = 0x20000000
WAY = os.environ["WAY"]
HEADER = struct.Struct("<IBBHI")


def frame(kind, number, head, body):
    return HEADER.pack(len(head) + len(body), kind, 0, len(head), number) + head + body


READY = frame(16, 0, b"", b'{"protocol": 1, "pid": 2, "head": false, "entry": "event"}')


def is_zygote():
    with open("/proc/self/status") as file:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in file)


def outlaw():
    # The last of what a zygote has been given.
    control = socket.socket(fileno=max(fd for fd in range(3, 10) if is_open(fd)))
    os.write(3, READY)
    while True:
        request, fds, _, _ = socket.recv_fds(control, 4096, 32)
        if not request:
            break
        magic, _, number = struct.unpack_from("<IIQ", request)

        def say(kind, number, pid=0):
            control.send(struct.pack("<IIQiiII", magic, kind, number, pid, 5, 3, 0))

        if not WAYS[WAY](say, number, fds):
            print("done", flush=True)
            os._exit(0)
    # It was told to end.
    while True:
        time.sleep(1000)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def complain(say, number, fds):
    for _ in range(20_000):
        say(FAILED, number + 1_000_000)


def look(say, number, fds):
    print("given:", [os.readlink(f"/proc/self/fd/{fd}") for fd in fds], flush=True)


def leave_unburied(say, number, fds):
    ctypes.CDLL(None).setns(fds[0], CLONE_NEWPID)
    child = os.fork()
    if not child:
        serve_once(fds[1], fds[3])
        os._exit(0)
    say(FORKED, number, child)
    for fd in fds:
        os.close(fd)
    return True


def keep_logs(say, number, fds):
    """What each fork would print into stays open in here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ctypes.CDLL(None).setns(fds[0], CLONE_NEWPID)
    child = os.fork()
    if not child:
        serve_once(fds[1], fds[3])
        os._exit(0)
    say(FORKED, number, child)
    for at, fd in enumerate(fds):
        if at != 2:
            os.close(fd)
    return True


def serve_once(answers, requests):
    """Outside of the shell, but in its pid namespace."""
    os.read(requests, 65_536)
    os.write(answers, READY)
    request = os.read(requests, 65_536)
    _, _, _, n_head, number = HEADER.unpack_from(request)
    os.write(answers, frame(17, number, b"200\n", request[HEADER.size + n_head :]))


WAYS = {"complain": complain, "look": look, "leave_unburied": leave_unburied, "keep_logs": keep_logs}

if is_zygote():
    outlaw()


def f(event):
    return event
