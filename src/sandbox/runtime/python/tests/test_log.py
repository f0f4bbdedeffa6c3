"""What a function prints, as the worker reads it."""


import os

from sandbox import Case


class Log(Case):
    def log(self, source, *events, imports=""):
        """What is in the log after the calls."""
        sandbox = self.serving(f"import sys\n{imports}\ndef f(event):\n{source}\n")
        for number, event in enumerate(events or [0], 1):
            self.call_json(sandbox, event, number=number)
        status, log = sandbox.ended()
        self.assertEqual(status, 0)
        return log

    def test_a_line_is_a_record_with_its_invocation(self):
        log = self.log("    print('é', event)\n    print('no', file=sys.stderr)", "a", "b")
        self.assertEqual(log.decode(), "\x1e1 o é a\n\x1e1 e no\n\x1e2 o é b\n\x1e2 e no\n")

    def test_what_is_printed_while_loading_belongs_to_no_invocation(self):
        self.assertEqual(self.log("    pass", imports="print('loading')"), b"\x1e0 o loading\n")
        sandbox, _ = self.load("print('half', end='')\n1 / 0")
        self.assertEqual(sandbox.ended()[1], b"\x1e0 o half\n")

    def test_an_unfinished_line_ends_with_its_invocation(self):
        self.assertEqual(self.log("    print('a', end='')\n    print('b', end='')", 1, 2), b"\x1e1 o ab\n\x1e2 o ab\n")

    def test_a_failed_call_ends_its_line_too(self):
        sandbox = self.serving("def f(event):\n    print('a', end='')\n    1 / 0")
        self.call(sandbox)
        self.call(sandbox, number=2)
        self.assertEqual(sandbox.ended()[1], b"\x1e1 o a\n\x1e2 o a\n")

    def test_a_flush_ends_a_line(self):
        self.assertEqual(self.log("    print('a', end='', flush=True)\n    print('b')"), b"\x1e1 o a\n\x1e1 o b\n")

    def test_lines_in_one_write_are_records_each(self):
        self.assertEqual(self.log("    sys.stdout.write('a\\n\\nb\\nc')"), b"\x1e1 o a\n\x1e1 o \n\x1e1 o b\n\x1e1 o c\n")

    def test_a_long_line_is_cut_between_characters(self):
        log = self.log("    print('x' + 'é' * 4000)\n    print('y' * 9000, end='')").split(b"\n")
        self.assertEqual([len(line) - 5 for line in log], [3999, 4000, 2, 4000, 4000, 1000, -5])
        self.assertEqual(b"".join(line[5:] for line in log), b"x" + "é".encode() * 4000 + b"y" * 9000)
        for line in log:
            line.decode()

    def test_many_small_pieces_become_lines(self):
        log = self.log("    for _ in range(40_000): print('x', end='')")
        self.assertEqual([len(line) - 5 for line in log.splitlines()], [4000] * 10)

    def test_bytes_are_lines_too(self):
        log = self.log("    print('a', end='')\n    sys.stdout.buffer.write(b'\\xff b\\n')\n    sys.stdout.buffer.flush()")
        self.assertEqual(log, b"\x1e1 o a\xff b\n")

    def test_what_has_no_encoding_is_escaped(self):
        self.assertEqual(self.log("    print('\\ud800')"), b"\x1e1 o \\ud800\n")

    def test_the_streams_look_like_streams(self):
        self.log(
            """
    import io
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        assert isinstance(stream, io.TextIOBase)
        assert (stream.fileno(), stream.isatty(), stream.encoding, stream.writable()) == (fd, False, "utf-8", True)
        assert (stream.buffer.fileno(), stream.readable(), stream.closed) == (fd, False, False)
        stream.reconfigure(line_buffering=True)
        stream.writelines([])
        stream.close()
        assert stream.write("ab\\n") == 3
    assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    try: print(1, file=sys.stdout.buffer)
    except TypeError: pass
    else: assert False
"""
        )

    def test_logging_goes_to_the_log(self):
        for imports in ("import logging", ""):
            log = self.log("    import logging\n    logging.warning('careful')", imports=imports)
            self.assertEqual(log, b"\x1e1 e WARNING:root:careful\n")

    def test_threads_do_not_mix_their_lines(self):
        log = self.log(
            """
    import threading
    def speak(letter):
        for _ in range(500):
            print(letter, letter, letter)
    threads = [threading.Thread(target=speak, args=(letter,)) for letter in "abcd"]
    [t.start() for t in threads]
    [t.join() for t in threads]
"""
        ).splitlines()
        self.assertEqual(sorted(log), sorted(b"\x1e1 o %c %c %c" % (c, c, c) for c in b"abcd" for _ in range(500)))

    def test_a_log_that_is_gone_is_no_reason_to_fail(self):
        sandbox = self.serving("import os\ndef f(event):\n    print('a')\n    os.close(1)\n    print('b')\n    return 1")
        self.assertEqual(self.call_json(sandbox), 1)
        self.assertEqual(sandbox.ended(), (0, b"\x1e1 o a\n"))
        sandbox = self.serving("def f(event):\n    print('a')\n    return 1")
        os.close(sandbox.log)
        self.assertEqual(self.call_json(sandbox), 1)
        sandbox.log = os.dup(0)


