"""System calls that reach beyond the sandbox, each with arguments that harm nothing where it is allowed."""

import ctypes
import mmap
import os
import platform
import socket

from raw import attempt, in_child, syscall

HOLDER = ctypes.create_string_buffer(4096)
NULL = ctypes.c_void_p()
PATH = ctypes.c_char_p(b"/tmp")
NOWHERE = ctypes.c_char_p(b"/nowhere")

# Of asm-generic/unistd.h from 424 on; below, of x86_64.
CALLS = {
    "mount": (165, NOWHERE, PATH, NOWHERE, 0, NULL),
    "umount2": (166, NOWHERE, 0),
    "pivot_root": (155, NOWHERE, NOWHERE),
    "chroot": (161, PATH),
    "open_tree": (428, -100, PATH, 1),
    "move_mount": (429, -1, PATH, -1, PATH, 0),
    "fsopen": (430, ctypes.c_char_p(b"tmpfs"), 0),
    "fsconfig": (431, -1, 0, NULL, NULL, 0),
    "fsmount": (432, -1, 0, 0),
    "fspick": (433, -100, PATH, 0),
    "mount_setattr": (442, -1, PATH, 0, NULL, 0),
    "statmount": (457, NULL, NULL, 0, 0),
    "listmount": (458, NULL, NULL, 0, 0),
    "setns": (308, -1, 0),
    "unshare": (272, 0),
    "ptrace": (101, 16, 1, 0, 0),
    "process_vm_readv": (310, 1, NULL, 0, NULL, 0, 0),
    "process_vm_writev": (311, 1, NULL, 0, NULL, 0, 0),
    "process_madvise": (440, -1, NULL, 0, 0, 0),
    "pidfd_getfd": (438, -1, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "keyctl": (250, 0, -3, 0),
    "add_key": (248, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), HOLDER, 1, -3),
    "request_key": (249, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), NULL, -3),
    "bpf": (321, 99, NULL, 0),
    "perf_event_open": (298, NULL, 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 1, HOLDER),
    "io_uring_enter": (426, -1, 0, 0, 0, NULL),
    "io_uring_register": (427, -1, 0, NULL, 0),
    "kexec_load": (246, 0, 0, NULL, 0),
    "kexec_file_load": (320, -1, -1, 0, NULL, 0),
    "init_module": (175, NULL, 0, NOWHERE),
    "finit_module": (313, -1, NOWHERE, 0),
    "delete_module": (176, NOWHERE, 0),
    "iopl": (172, 0),
    "ioperm": (173, 0, 1, 1),
    "modify_ldt": (154, 99, NULL, 0),
    "swapon": (167, NOWHERE, 0),
    "swapoff": (168, NOWHERE),
    "quotactl": (179, 0, NULL, 0, NULL),
    "acct": (163, NOWHERE),
    "settimeofday": (164, NULL, NULL),
    "clock_settime": (227, 99, NULL),
    "clock_adjtime": (305, 99, NULL),
    "adjtimex": (159, NULL),
    "sethostname": (170, NOWHERE, -1),
    "setdomainname": (171, NOWHERE, -1),
    "syslog": (103, 10, NULL, 0),
    "mq_open": (240, ctypes.c_char_p(b"nowhere"), 0, 0, NULL),
    "fanotify_init": (300, 0, 0),
    "inotify_init1": (294, 0),
    "open_by_handle_at": (304, -100, HOLDER, 0),
    "name_to_handle_at": (303, -100, PATH, HOLDER, HOLDER, 0),
    "reboot": (169, 0, 0, 0, NULL),
    "vhangup": (153,),
    "vmsplice": (278, -1, NULL, 0, 0),
    "move_pages": (279, 0, 0, NULL, NULL, NULL, 0),
    "migrate_pages": (256, 0, 0, NULL, NULL),
    "capset": (126, NULL, NULL),
    "memfd_secret": (447, 0),
    "seccomp": (317, 99, 0, NULL),
    "nfsservctl": (180, 0, NULL, NULL),
    "uselib": (134, NOWHERE),
    "lookup_dcookie": (212, 0, NULL, 0),
    "remap_file_pages": (216, NULL, 0, 0, 0, 0),
    "ustat": (136, 0, NULL),
    "sysfs": (139, 3),
    "personality": (135, 0x0040000),
}

CLONE = {"NEWTIME": 0x80, "NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000}
CLONE.update({"NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000})


def f(event):
    """All of it, or the parts that `parts` names; of the plain calls, those of `calls`."""
    chosen = event.get("calls") or CALLS
    parts = event.get("parts") or PARTS
    PARTS["calls"] = lambda: {name: syscall(*CALLS[name]) for name in chosen}
    return {name: PARTS[name]() for name in parts}


PARTS = {
    "calls": None,
    "unshare": lambda: {name: in_child(lambda: syscall(272, flag)) for name, flag in CLONE.items()},
    # 0x80 is part of the exit signal there, and no flag.
    "clone": lambda: {name: clone(flag) for name, flag in CLONE.items() if name != "NEWTIME"},
    "clone_parent": lambda: clone(0x8000),
    "clone3": lambda: syscall(435, NULL, 0),
    "plain_clone": lambda: clone(0),
    "setns": lambda: {name: setns(name) for name in os.listdir("/proc/self/ns")},
    "devices": lambda: {
        "character": attempt(os.mknod, "/tmp/null", 0o20666, os.makedev(1, 3)),
        "block": attempt(os.mknod, "/tmp/disk", 0o60666, os.makedev(254, 0)),
        "pipe": attempt(os.mkfifo, "/tmp/pipe"),
    },
    "terminal": lambda: {name: syscall(16, 0, number, HOLDER) for name, number in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C))},
    "watch": lambda: watch(),
    "huge_pages": lambda: {
        "mmap": attempt(lambda: mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)),
        "memfd_create": syscall(319, NOWHERE, 4),
        "shmget": syscall(29, 0, 2 << 20, 0o4600),
    },
    "other_tables": lambda: other_tables(),
    "allowed": lambda: {"getpid": syscall(39), "memfd_create": syscall(319, NOWHERE, 0), "unknown": syscall(1000)},
    "uncounted": lambda: uncounted(),
    "sockets": lambda: {name: family(*words) for name, words in SOCKETS.items()},
}


SOCKETS = {
    "stream": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "datagram": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "local": (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
    "raw": (socket.AF_INET, socket.SOCK_RAW, 1),
    "ping": (socket.AF_INET, socket.SOCK_DGRAM, 1),
    "dccp": (socket.AF_INET, 6, 0),
    "old_packet": (socket.AF_INET, 10, 0),
    "reliable": (socket.AF_INET, socket.SOCK_RDM, 0),
    "udp_stream": (socket.AF_INET, socket.SOCK_STREAM, 17),
    "sctp": (socket.AF_INET, socket.SOCK_STREAM, 132),
    "packet": (17, socket.SOCK_RAW, 0),
    "netlink": (16, socket.SOCK_RAW, 0),
    "alg": (38, socket.SOCK_SEQPACKET, 0),
    "vsock": (40, socket.SOCK_STREAM, 0),
    "bluetooth": (31, socket.SOCK_RAW, 1),
    "tipc": (30, socket.SOCK_SEQPACKET, 0),
    "rds": (21, socket.SOCK_SEQPACKET, 0),
    "can": (29, socket.SOCK_RAW, 1),
    "xdp": (44, socket.SOCK_RAW, 0),
    "smc": (43, socket.SOCK_STREAM, 0),
}


def family(number, kind, protocol):
    return attempt(lambda: socket.socket(number, kind, protocol).close())


class Program(ctypes.Structure):
    """struct sock_fprog: here, one instruction that returns a number."""

    _fields_ = [("n", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def uncounted():
    """Memory of the kernel's that is counted to nobody: programs for it, and datagrams that are not sent yet."""
    keep_all = bytes(Program(1, (0x06).to_bytes(2, "little") + bytes(2) + (0xFFFF).to_bytes(4, "little")))
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    with receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(receiver.getsockname())
        return {
            "socket_filter": attempt(sender.setsockopt, socket.SOL_SOCKET, 26, keep_all),
            "socket_bpf": attempt(sender.setsockopt, socket.SOL_SOCKET, 50, -1),
            "reuseport_filter": attempt(sender.setsockopt, socket.SOL_SOCKET, 51, keep_all),
            "reuseport_bpf": attempt(sender.setsockopt, socket.SOL_SOCKET, 52, -1),
            # PR_SET_SECCOMP, without a program.
            "call_filter": in_child(lambda: syscall(157, 22, 2, NULL)),
            "cork": attempt(sender.setsockopt, 17, 1, 1),
            "send_more": attempt(sender.send, b"x", 0x8000),
            "sendmsg_more": attempt(sender.sendmsg, [b"x"], [], 0x8000),
            "sendmmsg_more": syscall(307, sender.fileno(), NULL, 0, 0x8000),
        }


def clone(flags):
    def child():
        pid = ctypes.CDLL(None).syscall(56, ctypes.c_long(flags | 17), NULL, NULL, NULL, NULL)
        if pid == 0:
            os._exit(0)
        return "ok" if pid > 0 else "refused"

    return in_child(child)


def setns(name):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    try:
        return in_child(lambda: syscall(308, fd, 0))
    finally:
        os.close(fd)


def watch():
    """Whether what others do with the files of /usr can be observed, without inotify: fcntl's F_NOTIFY."""
    fd = os.open("/usr/bin", os.O_RDONLY)
    try:
        return syscall(72, fd, 1026, 0x80000001)
    finally:
        os.close(fd)


def other_tables():
    """getpid by the rules of x32 and of 32 bits."""
    if platform.machine() != "x86_64":
        return {}

    def by_interrupt():
        # mov eax, 20; int 0x80; ret
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)()

    return {"x32": syscall(0x40000000 + 39), "i386": in_child(by_interrupt)}
