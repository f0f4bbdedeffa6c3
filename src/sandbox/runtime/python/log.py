"""What the function prints: standard output and error as records on one pipe.

    0x1e invocation space o|e space the line \\n

The worker cuts the pipe at line breaks and tells by the 0x1e which lines name their invocation.
"""

import io
import sys
from _thread import get_ident
from os import write

# The invocation that runs now, or ran last; 0 while the function is being loaded. The loop sets it.
invocation = 0

# A pipe takes up to 4,096 bytes whole (PIPE_BUF, pipe(7)), whoever else is writing. The rest is for the prefix.
WRITE_MAX = 4_096
LINE_MAX = 4_000


class Lines:
    """Bytes of one stream, cut into records.

    The unfinished line is kept per thread: no lock is needed then (which a fork could inherit locked), and
    two threads that print do not mix within a line.
    """

    def __init__(self, letter, fd):
        self._letter = letter
        self._fd = fd
        self.unfinished = {}

    def feed(self, data):
        thread = get_ident()
        if thread in self.unfinished:
            data = self.unfinished.pop(thread) + data
        if data.endswith(b"\n"):
            self._write(data[:-1].split(b"\n"))
            return
        *lines, rest = data.split(b"\n")
        # A line without end is not collected without end.
        while len(rest) > LINE_MAX:
            piece, rest = cut(rest)
            lines.append(piece)
        if rest:
            self.unfinished[thread] = rest
        if lines:
            self._write(lines)

    def finish(self):
        """Ends the lines that are unfinished."""
        for thread in list(self.unfinished):
            line = self.unfinished.pop(thread, None)
            if line:
                self._write([line])

    def _write(self, lines):
        batch = b""
        for line in lines:
            while True:
                piece, line = (line, b"") if len(line) <= LINE_MAX else cut(line)
                record = b"\x1e%d %b %b\n" % (invocation, self._letter, piece)
                if len(batch) + len(record) > WRITE_MAX:
                    self._put(batch)
                    batch = record
                else:
                    batch += record
                if not line:
                    break
        self._put(batch)

    def _put(self, batch):
        # Nobody who reads the log, or no room for it, is no reason for the function to fail.
        try:
            write(self._fd, batch)
        except OSError:
            pass


def cut(line):
    """The line's first LINE_MAX bytes or a little less, and the rest: characters stay whole."""
    at = LINE_MAX
    while at > LINE_MAX - 4 and line[at] & 0xC0 == 0x80:
        at -= 1
    return line[:at], line[at:]


class Text(io.TextIOBase):
    """Stands for sys.stdout and sys.stderr."""

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True
    mode = "w"

    def __init__(self, lines, fd, name):
        self.buffer = Bytes(lines, fd, name)
        self.name = name
        self._feed = lines.feed
        self._lines = lines
        self._fd = fd

    def write(self, text):
        self._feed(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self):
        if self._lines.unfinished:
            self._lines.finish()

    # The base class would refuse to write from then on; the next invocation wants its output too.
    def close(self):
        self.flush()

    def reconfigure(self, **_settings):
        self.flush()

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True


class Bytes(io.BufferedIOBase):
    """Stands for sys.stdout.buffer and sys.stderr.buffer; shares the unfinished line with the text."""

    mode = "wb"

    def __init__(self, lines, fd, name):
        self.name = name
        self._lines = lines
        self._fd = fd

    @property
    def raw(self):
        return self

    def write(self, data):
        data = bytes(data)
        self._lines.feed(data)
        return len(data)

    def flush(self):
        if self._lines.unfinished:
            self._lines.finish()

    def close(self):
        self.flush()

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True


out = Lines(b"o", 1)
err = Lines(b"e", 1)


def install():
    """Puts the records in the place of the interpreter's own streams."""
    sys.stdout = sys.__stdout__ = Text(out, 1, "<stdout>")
    sys.stderr = sys.__stderr__ = Text(err, 2, "<stderr>")


def finish():
    """Ends what is unfinished, so that it is counted to the invocation that wrote it."""
    if out.unfinished:
        out.finish()
    if err.unfinished:
        err.finish()
