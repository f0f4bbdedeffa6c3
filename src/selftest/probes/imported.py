"""What a module can do while it is imported: in a zygote it is so with more rights than in a sandbox."""

import ctypes
import os
import time

from raw import attempt, in_child, syscall

# Long enough to be worth a zygote.
time.sleep(0.05)

MS_BIND = 4096
NEW = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000}


def status(name):
    with open("/proc/self/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(name + ":"))


def write_to(path):
    with open(path, "r+b", buffering=0) as file:
        file.write(b"\0")


def look_into(path):
    with open(path, "rb", buffering=0) as file:
        file.read(1)


def others():
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def become_init_and_look():
    for call in (os.setuid, os.seteuid, lambda user: os.setreuid(user, user), lambda user: os.setresuid(user, user, user)):
        attempt(call, 0)
    ctypes.CDLL(None).setfsuid(0)
    return os.getuid(), attempt(look_into, "/proc/1/mem")


SEEN = {
    "capabilities": status("CapEff"),
    "no_new_privs": status("NoNewPrivs"),
    "seccomp": status("Seccomp"),
    "uid": os.getuid(),
    "processes": others(),
    "refused": {
        **{f"unshare {name}": syscall(272, flag) for name, flag in NEW.items()},
        "mount": syscall(165, b"/tmp", b"/tmp", None, MS_BIND, None),
        "unmount": syscall(166, b"/proc", 2),
        "chroot": syscall(161, b"/tmp"),
        "pivot_root": syscall(155, b"/tmp", b"/tmp"),
        "ptrace": syscall(101, 16, 1, 0, 0),
        "process_vm_writev": syscall(311, 1, 0, 0, 0, 0, 0),
        "open_tree": syscall(428, -100, b"/", 1),
        "bpf": syscall(321, 0, 0, 0),
        "keyctl": syscall(250, 0, -3, 0),
        "setuid 0": attempt(os.setuid, 0),
        "setresuid 0": attempt(os.setresuid, -1, 0, -1),
        "setreuid 0": attempt(os.setreuid, 0, -1),
        "seteuid 0": attempt(os.seteuid, 0),
        "kill init": attempt(os.kill, 1, 9),
        "sethostname": syscall(170, b"evil", 4),
    },
    "init": {name: attempt(os.listdir if name == "fd" else os.readlink, f"/proc/1/{name}") for name in ("root", "cwd", "exe", "fd", "ns/user", "ns/mnt")},
    "init_memory": attempt(look_into, "/proc/1/mem"),
    "init_memory_as_its_user": in_child(become_init_and_look),
    "read_only": {path: attempt(write_to, path) for path in ("/proc/1/mem", "/handler/f.py", "/runtime/zygote.py", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname")},
}
# The module must be fit to be forked.
COUNT = 0


def f(event):
    global COUNT
    COUNT += 1
    return {"import": SEEN, "count": COUNT, "now": status("CapEff"), "uid": os.getuid()}
