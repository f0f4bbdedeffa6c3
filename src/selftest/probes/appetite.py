"""Takes as much of something as it gets, or as it was told to."""

import ctypes
import errno
import mmap
import os
import socket
import threading
import time

MIB = 1 << 20
KEPT = []


def f(event):
    return globals()[event["of"]](event)


def processes(event):
    """How many forks come to be, of `n` asked for. All live until the answer is known."""
    children = []
    error = None
    try:
        for _ in range(event["n"]):
            pid = os.fork()
            if pid == 0:
                time.sleep(1000)
                os._exit(0)
            children.append(pid)
    except OSError as refused:
        error = errno.errorcode[refused.errno]
    for pid in children:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return {"n": len(children), "error": error}


def endless_processes(event):
    os.write(1, b"\x1e1 o it begins\n")
    while True:
        try:
            os.fork()
        except OSError:
            pass


def threads(event):
    stop = threading.Event()
    started = []
    error = None
    try:
        for _ in range(event["n"]):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
    except (RuntimeError, OSError) as refused:
        error = str(refused)
    stop.set()
    for thread in started:
        thread.join()
    return {"n": len(started), "error": error}


def zombies(event):
    """Children that are not waited for, of children that have gone."""
    for _ in range(event["n"]):
        pid = os.fork()
        if pid == 0:
            # Its child becomes init's.
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(pid, 0)
    return "ok"


def memory(event):
    """Megabytes, one after the other; says on the way how far it is."""
    n = 0
    while n < event["mb"]:
        KEPT.append(b"\xaa" * MIB)
        n += 1
        os.write(1, b"\x1e1 o %d MB\n" % n)
    return n


def shared_memory(event):
    area = mmap.mmap(-1, event["mb"] * MIB)
    for at in range(0, event["mb"] * MIB, 4096):
        area[at] = 1
    KEPT.append(area)
    return event["mb"]


def file_in_memory(event):
    fd = os.memfd_create("appetite")
    for _ in range(event["mb"]):
        os.write(fd, b"\xaa" * MIB)
    return event["mb"]


def disk(event):
    """Fills /tmp; says how many megabytes fit and what stopped it. Gives them back."""
    n = 0
    error = None
    try:
        with open("/tmp/big", "wb", buffering=0) as file:
            while n < event["mb"] * MIB:
                n += file.write(b"\xaa" * MIB)
    except OSError as refused:
        error = errno.errorcode[refused.errno]
    os.unlink("/tmp/big")
    return {"mb": n / MIB, "error": error}


def hole(event):
    """A file that claims to be long, and one that is promised to be."""
    outcome = {}
    with open("/tmp/hole", "wb") as file:
        for name, action in (("truncate", os.ftruncate), ("allocate", lambda fd, n: os.posix_fallocate(fd, 0, n))):
            try:
                action(file.fileno(), event["mb"] * MIB)
                outcome[name] = "ok"
            except OSError as refused:
                outcome[name] = errno.errorcode[refused.errno]
    os.unlink("/tmp/hole")
    return outcome


def inodes(event):
    n = 0
    error = None
    try:
        while n < event["n"]:
            os.close(os.open(f"/tmp/{n}", os.O_CREAT | os.O_WRONLY))
            n += 1
    except OSError as refused:
        error = errno.errorcode[refused.errno]
    for number in range(n):
        os.unlink(f"/tmp/{number}")
    return {"n": n, "error": error}


def page_cache(event):
    """Reads more of the machine's files than it may have memory."""
    n = 0
    for directory, _, names in os.walk("/usr/lib"):
        for name in names:
            try:
                with open(os.path.join(directory, name), "rb", buffering=0) as file:
                    while piece := file.read(MIB):
                        n += len(piece)
            except OSError:
                pass
            if n > event["mb"] * MIB:
                return n // MIB
    return n // MIB


def descriptors(event):
    fds = []
    error = None
    try:
        while len(fds) < event["n"]:
            fds.append(os.dup(0))
    except OSError as refused:
        error = errno.errorcode[refused.errno]
    for fd in fds:
        os.close(fd)
    return {"n": len(fds), "error": error}


def pipes(event):
    """Full pipes, each as large as it can be made."""
    import fcntl

    n = 0
    try:
        while n < event["mb"] * MIB:
            reader, writer = os.pipe()
            KEPT.append((reader, writer))
            os.set_blocking(writer, False)
            try:
                fcntl.fcntl(writer, 1031, MIB)
            except OSError:
                pass
            try:
                while True:
                    n += os.write(writer, b"\xaa" * 65536)
            except BlockingIOError:
                pass
    except OSError as refused:
        return {"mb": n // MIB, "error": errno.errorcode[refused.errno]}
    return {"mb": n // MIB, "error": None}


def sockets(event):
    """Connections to itself that nobody reads from, full."""
    pair = {"tcp": tcp_pair, "udp": udp_pair, "unix": socket.socketpair}[event["kind"]]
    n = 0
    try:
        while n < event["mb"] * MIB:
            client, other = pair()
            KEPT.extend([client, other])
            for end in (client, other):
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    end.setsockopt(socket.SOL_SOCKET, option, 64 * MIB)
                end.setblocking(False)
            try:
                # Datagrams that find no room are lost without a word: a hundred of them fill any buffer.
                for _ in range(100 if event["kind"] == "udp" else 1 << 30):
                    n += client.send(b"\xaa" * 32768)
            except BlockingIOError:
                pass
    except OSError as refused:
        return {"mb": n // MIB, "error": errno.errorcode.get(refused.errno, str(refused))}
    return {"mb": n // MIB, "error": None}


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def udp_pair():
    client, other = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 0))
    client.connect(other.getsockname())
    return client, other


def timers(event):
    """Timers of the kernel, each of which is one pending signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = ctypes.c_int()
    for n in range(event["n"]):
        if libc.syscall(222, 1, None, ctypes.byref(timer)) != 0:
            return {"n": n, "error": errno.errorcode[ctypes.get_errno()]}
    return {"n": event["n"], "error": None}


def queues(event):
    """POSIX message queues of the ordinary size."""
    libc = ctypes.CDLL(None, use_errno=True)
    for n in range(event["n"]):
        if libc.mq_open(b"/%d" % n, os.O_CREAT | os.O_RDWR, 0o600, None) < 0:
            return {"n": n, "error": errno.errorcode[ctypes.get_errno()]}
    return {"n": event["n"], "error": None}


def locked(event):
    """Memory that may not be swapped out."""
    libc = ctypes.CDLL(None, use_errno=True)
    area = mmap.mmap(-1, event["mb"] * MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    n = 0
    while n < event["mb"] * MIB and libc.mlock(ctypes.c_void_p(address + n), ctypes.c_size_t(65536)) == 0:
        n += 65536
    return n


def processor(event):
    while True:
        pass


def deaf_processor(event):
    import signal

    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass


def standstill(event):
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def suicide(event):
    os.kill(os.getpid(), event["signal"])


def sleep(event):
    os.write(1, b"\x1e1 o asleep\n")
    time.sleep(event["seconds"])
    return "rested"


def grow_afterwards(event):
    """Answers, and then goes on taking memory, or ends."""
    import threading

    def grow():
        time.sleep(event["after_s"])
        if event["then"] == "end":
            os._exit(7)
        for _ in range(event["mb"]):
            KEPT.append(b"\xaa" * MIB)

    threading.Thread(target=grow, daemon=True).start()
    return "ok"


def daemon(event):
    """Leaves a process behind that has nothing to do with this one any more."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            # PR_SET_NAME: so that it can be found from outside.
            ctypes.CDLL(None).prctl(15, b"left-behind", 0, 0, 0)
            for fd in range(0, 64):
                try:
                    os.close(fd)
                except OSError:
                    pass
            while True:
                time.sleep(1)
        os._exit(0)
    os.wait()
    return "ok"


def priority(event):
    """How far it gets with pushing in front of others."""
    outcome = {}
    for name, action in (
        ("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -1)),
        ("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        ("round robin", lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))),
        ("lower", lambda: os.setpriority(os.PRIO_PROCESS, 0, 1)),
    ):
        try:
            action()
            outcome[name] = "ok"
        except OSError as refused:
            outcome[name] = errno.errorcode[refused.errno]
    return outcome
