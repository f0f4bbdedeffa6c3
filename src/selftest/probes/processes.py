"""Which processes can be seen, signalled and looked into."""

import os
import signal
import subprocess

from raw import attempt


def f(event):
    child = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        return {
            "seen": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
            "mine": sorted([1, os.getpid(), child.pid]),
            "parent": os.getppid(),
            "signal": {str(pid): attempt(os.kill, pid, 0) for pid in event["pids"]},
            "look_into": {str(pid): attempt(os.listdir, f"/proc/{pid}") for pid in event["pids"]},
            "init": {str(number): attempt(os.kill, 1, number) for number in (9, 15, 17, 19)},
            "inside_init": {name: attempt(look, f"/proc/1/{name}") for name in INSIDE},
            # Looked into first: of a process that has just been ended there may be nothing left to see.
            "inside_child": attempt(look, f"/proc/{child.pid}/root"),
            "child": attempt(os.kill, child.pid, signal.SIGTERM),
        }
    finally:
        child.kill()
        child.wait()


INSIDE = ("root", "cwd", "exe", "environ", "fd", "mem", "maps", "ns/mnt", "map_files", "stack", "syscall")


def look(path):
    if os.path.islink(path):
        os.readlink(path)
    elif os.path.isdir(path):
        os.listdir(path)
    else:
        with open(path, "rb") as file:
            file.read(1)
