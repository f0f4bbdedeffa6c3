"""What the function is, has and sees of itself."""

import ctypes
import os
import resource
import subprocess
import sys


def f(event):
    return {
        "status": status(),
        "descriptors": descriptors(),
        "child_descriptors": child_descriptors(),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "session": os.getsid(0) == os.getpid(),
        "terminal": has_terminal(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "host_name": os.uname().nodename,
        "shared_memory": [line for line in lines("/proc/self/maps") if "s" in line.split()[1]],
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))},
        "cgroups": [line.split(":", 2)[2] for line in lines("/proc/self/cgroup")],
        "mount_flags": {path: os.statvfs(path).f_flag for path in ("/", "/usr", "/tmp", "/proc", "/handler") if os.path.exists(path)},
        "set_uid": sorted(set_uid("/tmp", "/usr/bin")),
    }


LIMITS = ("RLIMIT_NOFILE", "RLIMIT_RTPRIO", "RLIMIT_NICE", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK")


def lines(path):
    with open(path) as file:
        return file.read().splitlines()


def status():
    return dict(line.split(":\t", 1) for line in lines("/proc/self/status") if ":\t" in line)


def descriptors():
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            # The directory that is listed.
            pass
    return found


def child_descriptors():
    code = "import os; print(*[n for n in range(256) if os.path.exists(f'/proc/self/fd/{n}')])"
    output = subprocess.run([sys.executable or "/usr/bin/python3", "-S", "-c", code], close_fds=False, stdout=subprocess.PIPE, check=True)
    return [int(word) for word in output.stdout.split()]


def has_terminal():
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def set_uid(copy_to, programs):
    """Who one is in a copy of a program that is set-uid, and which of the machine's programs are so."""
    found = set()
    for name in ("su", "mount", "passwd", "sudo"):
        path = os.path.join(programs, name)
        if os.path.exists(path) and os.stat(path).st_mode & 0o4000:
            found.add(f"{name} {os.statvfs(path).f_flag & os.ST_NOSUID}")
    return found
