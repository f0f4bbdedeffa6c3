"""Leaves things everywhere, and looks for what somebody else has left."""

import ctypes
import glob
import os
import random
import secrets
import socket
import ssl
import subprocess
import tempfile
import uuid

KEPT = []
_libc = ctypes.CDLL(None, use_errno=True)
KEY = 0x6F6C7465


def f(event):
    return {"leave": leave, "look": look, "draw": draw, "environment": environment, "fill": fill, "sift": sift}[event["do"]](event)


def leave(event):
    word = event["word"]
    KEPT.append(word)
    os.environ["LEFT"] = word
    for directory in ("/tmp", "/dev/shm", "/var/tmp", "/host"):
        with open(f"{directory}/{word}", "w") as file:
            file.write(word)
    segment = _libc.shmget(KEY, 4096, 0o1666)
    queue = _libc.msgget(KEY, 0o1666)
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0left")
    server.listen()
    port = socket.create_server(("127.0.0.1", 7777))
    KEPT.extend([server, port])
    KEPT.append(subprocess.Popen(["/bin/sleep", "98765"]))
    # What a function does to its own interpreter, of which others are forks of the same.
    import json

    json.loads = None
    return {"left": [segment >= 0, queue >= 0]}


def look(event):
    import json

    return {
        "files": [path for place in ("/tmp", "/dev/shm", "/host", "/handler", "/packages", "/run") for path in glob.glob(place + "/**", recursive=True)],
        "environment": os.environ.get("LEFT"),
        "shared_memory": _libc.shmget(KEY, 4096, 0),
        "queue": _libc.msgget(KEY, 0),
        "socket": socket.socket(socket.AF_UNIX).connect_ex("\0left"),
        "port": socket.socket().connect_ex(("127.0.0.1", 7777)),
        "processes": [line(pid) for pid in os.listdir("/proc") if pid.isdigit()],
        "json": callable(json.loads),
    }


def line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def draw(event):
    """What must be nobody else's."""
    return {
        "random": random.getrandbits(128),
        "secrets": secrets.token_hex(16),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "ssl": ssl.RAND_bytes(16).hex(),
        "urandom": os.urandom(16).hex(),
        "tempfile": tempfile.mktemp(),
        "namespaces": [os.stat(f"/proc/self/ns/{name}").st_ino for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup")],
        "uid": os.getuid(),
    }


def environment(event):
    """Every environment that can be read, by whatever path."""
    found = [f"{name}={value}" for name, value in os.environ.items()]
    for pid in [pid for pid in os.listdir("/proc") if pid.isdigit()]:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                found += file.read().decode(errors="replace").split("\0")
        except OSError:
            pass
    return found


def fill(event):
    """Writes a word all over memory and files, so that whoever gets them next could find it."""
    page = (event["word"].encode() + b"\0").ljust(64, b".") * 64
    KEPT.append(bytearray(page * 4096))
    with open("/tmp/filled", "wb") as file:
        file.write(page * 1024)
    return "ok"


def sift(event):
    """Looks for a word in memory and in a file that nobody has written yet. It is given backwards, and what is looked
    through is turned round: the word itself must not come into this process by the question."""
    backwards = event["backwards"].encode()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    found = []
    for size in (64 << 10, 1 << 20, 16 << 20):
        if backwards in ctypes.string_at(libc.malloc(size), size)[::-1]:
            found.append(f"malloc of {size}")
    with open("/tmp/unwritten", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 16 << 20)
    with open("/tmp/unwritten", "rb") as file:
        if backwards in file.read()[::-1]:
            found.append("a file")
    return found
