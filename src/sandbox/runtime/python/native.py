"""The entry of native functions: `f.bin`, a program that is run anew for each call.

    argv[1]       the request's body, as it came
    /tmp/output   the answer: what is in this file when the program has ended with status 0

What it prints comes in by two pipes, and goes on to the log as what functions in Python print. The pipes stay from call to
call, so that a process that was left behind is not ended for printing. The program's end rings a bell, which is waited for
beside the pipes: SIGCHLD does that with any Python, a pidfd from 3.9 on.
"""

import os
import select
import shutil
import signal
from errno import EAGAIN, ELOOP, ENOENT, ENOEXEC
from stat import S_ISREG

from . import log
from .entries import JSON_200, TEXT_400, TEXT_500
from .frames import FAILED, MORE, response_head
from .invocation import NOT_BEGUN

FILE = "f.bin"
OUTPUT = "/tmp/output"
# execve(2): one argument takes at most 32 pages, and the last byte of them is NUL.
ARGUMENT_MAX = 32 * os.sysconf("SC_PAGE_SIZE") - 1
# An answer goes out in pieces of this size, so that it need not be in memory twice: /tmp is memory already.
PIECE = 256 << 10
# The kernel's default size of a pipe, and how often that is in the largest which a program may make of it (pipe(7)).
PIPE_BYTES = 64 << 10
N_READS_MAX = 16

EMPTY_200 = response_head(200, [])
TEXT_413 = response_head(413, [("content-type", "text/plain; charset=utf-8")])

# What the interpreter ignores, and a program does not expect to be ignored.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
HINTS = {
    EAGAIN: "there are as many processes as limits.procs allows",
    ENOENT: "the loader or interpreter that it names is not there; link it statically, or build it for this machine",
    ENOEXEC: "it is not a whole program",
}
# Of an ELF file: what it begins with, how much is looked at, and which of that tells machines apart (elf(5)).
ELF = b"\x7fELF"
N_HEAD = 20
KIND_OF_MACHINE = slice(4, 6)
MACHINE = slice(18, 20)


class Failure(Exception):
    """What is answered instead of a result."""

    def __init__(self, head, said, flags=0):
        self.head = head
        self.said = said.encode("utf-8", "backslashreplace")
        self.flags = flags


def failed(said):
    return Failure(TEXT_500, said, FAILED)


class Native:
    kind = "native"
    wants_head = False
    is_awaited = False

    def __init__(self, path):
        self._path = path
        self._environment = {b"RUST_LOG": b"debug", **os.environb}
        # Made at the first call: a zygote must have none that its forks would share.
        self._prints = None

    def call(self, invocation):
        try:
            self._run(argument(invocation))
            fd, length = open_output()
        except Failure as failure:
            invocation.answer(failure.head, failure.said, failure.flags)
            return
        if fd is None:
            invocation.answer(EMPTY_200, b"")
            return
        try:
            answer(invocation, fd, length)
        finally:
            os.close(fd)

    def _run(self, argument):
        """Runs the program to its end, which was a good one."""
        remove_output()
        prints = self._prints
        if not prints:
            try:
                prints = self._prints = Prints()
            except OSError as error:
                raise failed(f"{FILE} cannot be started: {error.strerror}\n") from None
        try:
            pid = os.posix_spawn(
                self._path,
                (self._path, argument),
                self._environment,
                file_actions=prints.file_actions,
                setsigmask=(),
                setsigdef=IGNORED,
            )
        except OSError as error:
            raise failed(f"{FILE} cannot be started: {HINTS.get(error.errno, error.strerror)}\n") from None
        status = prints.follow(pid)
        # The words of OpenLambda, to the byte: programs compare them.
        if os.WIFSIGNALED(status):
            raise failed(f"Function failed with signal: {os.WTERMSIG(status)}")
        if status:
            raise failed(f"Function failed with error_code: {os.WEXITSTATUS(status)}")


class Prints:
    """What the program prints, and the bell that its end rings."""

    def __init__(self):
        self._bell, ring = os.pipe()
        out, out_in = os.pipe()
        err, err_in = os.pipe()
        self.file_actions = ((os.POSIX_SPAWN_DUP2, out_in, 1), (os.POSIX_SPAWN_DUP2, err_in, 2))
        self._lines = {out: log.out, err: log.err}
        self._poll = select.poll()
        for fd in (self._bell, out, err):
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        os.set_blocking(ring, False)
        # Without a handler there is no signal that could ring.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)

    def follow(self, pid):
        """Puts into the log what the program prints until it ends; gives the status that it has ended with."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._bell:
                    take(fd)
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        self._finish()
                        return status
                else:
                    self._lines[fd].feed(take(fd))

    def _finish(self):
        """All that it has printed is in the pipes. What others go on printing does not keep the answer waiting."""
        for fd, _ in self._poll.poll(0):
            if fd == self._bell:
                continue
            for _ in range(N_READS_MAX):
                data = take(fd)
                self._lines[fd].feed(data)
                if len(data) < PIPE_BYTES:
                    break


def take(fd):
    try:
        return os.read(fd, PIPE_BYTES)
    except BlockingIOError:
        # Somebody else has read it: the program may open what its parent has open.
        return b""


def argument(invocation):
    """The request's body as an argument. An empty one is an empty argument."""
    pieces = [invocation.body]
    n = len(invocation.body)
    while invocation.more and n <= ARGUMENT_MAX:
        pieces.append(invocation.piece())
        n += len(pieces[-1])
    if n > ARGUMENT_MAX:
        said = f"the request body is too long: {FILE} gets it as an argument, which has at most {ARGUMENT_MAX} bytes\n"
        raise Failure(TEXT_413, said)
    body = b"".join(pieces)
    if b"\0" in body:
        raise Failure(TEXT_400, f"the request body has a NUL byte, and {FILE} gets it as an argument, which cannot have one\n")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Failure(TEXT_400, f"the request body is not UTF-8 text: byte {error.start} is wrong\n") from None
    return body


def remove_output():
    """What an earlier call has left must not be the answer of this one."""
    try:
        os.unlink(OUTPUT)
    except FileNotFoundError:
        pass
    except OSError:
        # A directory.
        try:
            shutil.rmtree(OUTPUT)
        # The latter when there are a thousand directories inside of each other.
        except (OSError, RecursionError) as error:
            raise failed(f"{OUTPUT} of an earlier call cannot be removed: {error}\n") from None


def open_output():
    """The file with the answer, and its length. It may be what the program likes, so nothing is followed or waited for."""
    try:
        fd = os.open(OUTPUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        why = "it is a symbolic link" if error.errno == ELOOP else error.strerror
        raise failed(f"{OUTPUT} cannot be read: {why}\n") from None
    status = os.fstat(fd)
    problem = None
    if not S_ISREG(status.st_mode):
        problem = "it is not a plain file"
    elif status.st_size > PIECE:
        place = os.fstatvfs(fd)
        # It has holes then, which cost nothing until they are read.
        if status.st_size > place.f_blocks * place.f_frsize:
            problem = f"it has {status.st_size} bytes, which is more than there is room for in /tmp"
    if problem:
        os.close(fd)
        raise failed(f"{OUTPUT} cannot be read: {problem}\n")
    return fd, status.st_size


def answer(invocation, fd, length):
    """Answers with the file, and with no more than it had: somebody may still write to it."""
    # What has been answered takes no memory until the next call.
    try:
        os.unlink(OUTPUT)
    except OSError:
        # A process that was left behind has done something to it: seen to by the next call.
        pass
    more = MORE
    while more:
        piece = os.read(fd, min(length, PIECE))
        length -= len(piece)
        more = MORE if piece and length else 0
        if invocation.progress == NOT_BEGUN:
            invocation.answer(JSON_200 if piece else EMPTY_200, piece, more)
        else:
            invocation.go_on(piece, more)


def fault(path):
    """Why the file is no program for this machine, as far as its first bytes tell; None if it may be one."""
    head = first_bytes(path)
    if head.startswith(b"#!"):
        return None
    if not head.startswith(ELF):
        return f"{FILE} is neither a program for Linux (ELF) nor a script that begins with #!"
    own = first_bytes("/proc/self/exe")
    if head[KIND_OF_MACHINE] != own[KIND_OF_MACHINE] or head[MACHINE] != own[MACHINE]:
        return f"{FILE} is a program for another kind of processor: build it for {os.uname().machine}"
    return None


def first_bytes(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, N_HEAD)
    finally:
        os.close(fd)
