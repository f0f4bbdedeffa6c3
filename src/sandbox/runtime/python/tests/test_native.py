"""Native functions: programs that are run anew for each call. Scripts stand for them; compiled ones are in integration/."""

import json
import os
import signal
import socket
import subprocess
import time
import unittest

from sandbox import (
    BODY,
    FAILED,
    JSON,
    LOAD,
    MORE,
    READY,
    REQUEST,
    RESPONSE,
    RESPONSE_BODY,
    TEXT_400,
    TEXT_500,
    Case,
    Sandbox,
    runtime,
)
from test_sprout import RENEW, ZYGOTE, forks_to

from _ol_runtime import native, sprout

EMPTY = b"200\n"
TEXT_413 = b"413\ncontent-type\ntext/plain; charset=utf-8\n"


class Native(Case):
    def setUp(self):
        super().setUp()
        self.output = os.path.join(self.directory, "output")
        # Each test has a file of its own, which its sandbox and its program know by these names.
        self.addCleanup(setattr, native, "OUTPUT", native.OUTPUT)
        native.OUTPUT = self.output

    def program(self, script, **changes):
        """A sandbox that serves this shell script; `$OUT` is where its answer belongs."""
        self.script(script)
        sandbox = self.sandbox()
        environment = {"OUT": self.output, **changes.pop("environment", {})}
        sandbox.send(LOAD, self.order(entry="f.bin", environment=environment, **changes))
        kind, _, _, _, body = sandbox.receive()
        self.assertEqual(kind, READY, body)
        self.ready = json.loads(body)
        return sandbox

    def script(self, script):
        os.chmod(self.write("f.bin", "#!/bin/sh\n" + script), 0o755)

    def fails(self, sandbox, status=TEXT_500, flags=FAILED, **kwargs):
        got_flags, head, body = self.call(sandbox, **kwargs)
        self.assertEqual((got_flags, head), (flags, status), body)
        return body.decode()

    def test_it_answers_with_the_file_and_gets_the_body_as_its_only_argument(self):
        sandbox = self.program('printf "%s|%s|%s" $# "$1" "$0" > $OUT')
        self.assertEqual((self.ready["entry"], self.ready["head"]), ("native", False))
        path = os.path.join(self.directory, "f.bin")
        for number, body in enumerate([b'{"a": "\xc3\xa9"}', b"", b"no json; $(x) '"], 1):
            answer = self.call(sandbox, body, number=number)
            self.assertEqual(answer, (0, JSON, b"1|" + body + b"|" + path.encode()))

    def test_without_a_file_or_with_an_empty_one_the_answer_is_empty(self):
        sandbox = self.program('[ "$1" ] && : > $OUT; true')
        self.assertEqual(self.call(sandbox), (0, EMPTY, b""))
        self.assertEqual(self.call(sandbox, b"1", number=2), (0, EMPTY, b""))

    def test_what_an_earlier_call_has_left_is_not_answered(self):
        sandbox = self.program(
            'case $1 in full) echo yes > $OUT;; fail) echo no > $OUT; exit 1;; dir) mkdir -p $OUT/a/b; exit 1;; esac'
        )
        self.assertEqual(self.call(sandbox, b"full")[2], b"yes\n")
        self.assertFalse(os.path.exists(self.output))
        for number, before in enumerate([b"fail", b"dir"]):
            self.fails(sandbox, body=before, number=2 * number + 2)
            self.assertEqual(self.call(sandbox, b"none", number=2 * number + 3), (0, EMPTY, b""))

    def test_what_cannot_be_removed_is_said(self):
        sandbox = self.program(
            'if [ "$1" ]; then mkdir -p $OUT; cd $OUT; i=0; while [ $i -lt 1500 ]; do mkdir a; cd -P a; i=$((i+1)); done; fi'
        )
        self.addCleanup(subprocess.run, ["rm", "-rf", self.output])
        self.fails(sandbox, body=b"deep")
        flags, head, body = self.call(sandbox, number=2)
        # Newer Pythons remove it.
        if (flags, head) != (0, EMPTY):
            self.assertEqual((flags, head), (FAILED, TEXT_500))
            self.assertIn(b"output of an earlier call cannot be removed: ", body)
            subprocess.run(["rm", "-rf", self.output], check=True)
        self.assertEqual(self.call(sandbox, number=3), (0, EMPTY, b""))

    def test_how_it_failed_is_said_in_the_words_of_openlambda(self):
        sandbox = self.program('echo no > $OUT; kill -$1 $$ 2>/dev/null; exit $1')
        self.assertEqual(self.fails(sandbox, body=b"77"), "Function failed with error_code: 77")
        self.assertEqual(self.fails(sandbox, body=b"9", number=2), "Function failed with signal: 9")
        self.assertEqual(self.fails(sandbox, body=b"11", number=3), "Function failed with signal: 11")

    def test_the_longest_body_is_taken_and_one_byte_more_is_refused(self):
        sandbox = self.program('printf %s ${#1} > $OUT')
        most = 32 * os.sysconf("SC_PAGE_SIZE") - 1
        self.assertEqual(self.call(sandbox, b"x" * most)[2], b"%d" % most)
        said = self.fails(sandbox, TEXT_413, 0, body=b"x" * (most + 1), number=2)
        self.assertIn(f"too long: f.bin gets it as an argument, which has at most {most} bytes", said)
        # In pieces, of which the rest is read over.
        sandbox.send(REQUEST, b"x" * most, flags=MORE, number=3)
        sandbox.send(BODY, b"x", flags=MORE, number=3)
        self.assertEqual(sandbox.receive()[0:4], (RESPONSE, 0, 3, TEXT_413))
        sandbox.send(BODY, b"x" * 100_000, number=3)
        sandbox.send(REQUEST, b"x", flags=MORE, number=4)
        sandbox.send(BODY, b"yz", number=4)
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 4, JSON, b"3"))

    def test_what_cannot_be_an_argument_is_refused(self):
        sandbox = self.program('echo > $OUT')
        self.assertIn("NUL byte", self.fails(sandbox, TEXT_400, 0, body=b"a\0b"))
        self.assertIn("not UTF-8 text: byte 1", self.fails(sandbox, TEXT_400, 0, body=b"a\xff", number=2))

    def test_what_it_prints_is_in_the_log_with_its_invocation_and_stream(self):
        sandbox = self.program('echo "hello $1"; echo oops >&2; printf half')
        self.call(sandbox, b"1")
        self.call(sandbox, b"2", number=2)
        status, log = sandbox.ended()
        self.assertEqual(status, 0)
        lines = log.decode().split("\n")
        for number in (1, 2):
            own = [line for line in lines if line.startswith(f"\x1e{number} ")]
            self.assertEqual(
                [line for line in own if " o " in line], [f"\x1e{number} o hello {number}", f"\x1e{number} o half"]
            )
            self.assertEqual([line for line in own if " e " in line], [f"\x1e{number} e oops"])

    def test_all_that_it_prints_comes_before_the_answer_however_much_it_is(self):
        sandbox = self.program(
            'i=0; while [ $i -lt 3000 ]; do echo "$i 0123456789012345678901234567890123456789"; i=$((i+1)); done'
        )
        sandbox.send(REQUEST, b"", number=1)
        log = b""
        while log.count(b"\n") < 3000:
            log += os.read(sandbox.log, 65_536)
        self.assertEqual(log.splitlines()[-1], b"\x1e1 o 2999 0123456789012345678901234567890123456789")
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, EMPTY, b""))

    def test_what_it_prints_is_in_the_log_while_it_runs(self):
        fifo = os.path.join(self.directory, "go")
        os.mkfifo(fifo)
        sandbox = self.program('echo waiting; read line < go; printf "$line" > $OUT')
        sandbox.send(REQUEST, b"", number=1)
        self.assertEqual(os.read(sandbox.log, 100), b"\x1e1 o waiting\n")
        with open(fifo, "w") as go:
            go.write("on\n")
        self.assertEqual(sandbox.receive(), (RESPONSE, 0, 1, JSON, b"on"))

    def test_a_process_that_is_left_behind_keeps_nobody_waiting_and_may_go_on_printing(self):
        fifo = os.path.join(self.directory, "go")
        os.mkfifo(fifo)
        sandbox = self.program('[ "$1" ] || (read line < go; echo "late $line"; echo done > ended) & true')
        self.assertEqual(self.call(sandbox)[1], EMPTY)
        with open(fifo, "w") as go:
            go.write("word\n")
        deadline = time.monotonic() + 20
        while not os.path.exists(os.path.join(self.directory, "ended")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        self.call(sandbox, b"again", number=2)
        self.assertEqual(sandbox.ended()[1], b"\x1e2 o late word\n")

    def test_nothing_but_a_plain_file_is_an_answer(self):
        secret = self.write("secret", "mine")
        sandbox = self.program(
            'case $1 in link) ln -s $PWD/secret $OUT;; fifo) mkfifo $OUT;; dir) mkdir $OUT;; dangling) ln -s /nowhere $OUT;;'
            " closed) echo > $OUT; chmod 0 $OUT;; loop) ln -s $OUT $OUT;; esac"
        )
        link, other = "it is a symbolic link", "it is not a plain file"
        cases = {"link": link, "dangling": link, "loop": link, "fifo": other, "dir": other}
        # Root may read what is closed.
        if os.geteuid():
            cases["closed"] = "Permission denied"
        for number, (what, why) in enumerate(cases.items(), 1):
            said = self.fails(sandbox, body=what.encode(), number=number)
            self.assertTrue(said.startswith(f"{self.output} cannot be read: ") and why in said, said)
        with open(secret) as file:
            self.assertEqual(file.read(), "mine")
        self.assertEqual(self.call(sandbox, b"none", number=9), (0, EMPTY, b""))

    def test_a_long_answer_goes_out_in_pieces(self):
        sandbox = self.program("head -c 700000 /dev/zero | tr '\\0' x > $OUT")
        sandbox.send(REQUEST, b"", number=1)
        kind, flags, _, head, body = sandbox.receive()
        self.assertEqual((kind, flags, head), (RESPONSE, MORE, JSON))
        while flags & MORE:
            kind, flags, _, _, piece = sandbox.receive()
            self.assertEqual(kind, RESPONSE_BODY)
            body += piece
        self.assertEqual((flags, body), (0, b"x" * 700_000))

    def test_a_file_of_holes_that_is_larger_than_its_place_is_refused(self):
        place = os.statvfs(self.directory)
        size = place.f_blocks * place.f_frsize + 4096
        sandbox = self.program(f"truncate -s {size} $OUT")
        try:
            os.truncate(self.write("try", ""), size)
        except OSError:
            self.skipTest("the file system of the temporary directory has no files that are larger than itself")
        self.assertIn(f"it has {size} bytes, which is more than there is room for", self.fails(sandbox))

    def test_its_environment_is_the_functions_with_the_level_of_its_log(self):
        script = 'printf "%s %s" "$RUST_LOG" "$WORD" > $OUT'
        self.assertEqual(self.call(self.program(script, environment={"WORD": "é"}))[2].decode(), "debug é")
        own = self.program(script, environment={"RUST_LOG": "warn"})
        self.assertEqual(self.call(own)[2], b"warn ")

    def test_it_gets_no_socket_of_the_runtimes_and_its_signals_are_not_ignored(self):
        sandbox = self.program('ls -l /proc/$$/fd > $OUT; grep -E "Sig(Ign|Blk)" /proc/self/status >> $OUT; pwd >> $OUT')
        said = self.call(sandbox)[2].decode()

        def sockets(pid):
            found = set()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
                except OSError:
                    # The directory's own, or what the sandbox has closed meanwhile.
                    pass
            return {link for link in found if link.startswith("socket:")}

        # Who runs the tests may have left some open for all children.
        own = sockets(sandbox.pid) - sockets("self")
        self.assertTrue(own)
        self.assertFalse([socket for socket in own if socket in said], said)
        words = said.split()
        ignored, blocked = (int(words[words.index(what) + 1], 16) for what in ("SigIgn:", "SigBlk:"))
        self.assertEqual(ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | 1 << signal.SIGCHLD - 1), 0)
        self.assertEqual(blocked, 0)
        self.assertEqual(words[-1], os.path.realpath(self.directory))

    def test_what_cannot_run_here_is_refused_when_it_is_loaded(self):
        def refused(head):
            with open(os.path.join(self.directory, "f.bin"), "wb") as file:
                file.write(head)
            sandbox = self.sandbox()
            sandbox.send(LOAD, self.order(entry="f.bin"))
            body = sandbox.receive()[4].decode()
            self.assertEqual(sandbox.ended()[0], 0)
            return body

        with open("/proc/self/exe", "rb") as file:
            own = bytearray(file.read(64))
        for mach_o_or_none in (b"\xcf\xfa\xed\xfe" + bytes(60), b"MZ", b""):
            self.assertIn("neither a program for Linux (ELF) nor a script", refused(mach_o_or_none))
        other = own[:]
        other[18] ^= 0xFF
        self.assertIn(f"another kind of processor: build it for {os.uname().machine}", refused(other))
        narrow = own[:]
        narrow[4] = 3 - narrow[4]
        self.assertIn("another kind of processor", refused(narrow))
        os.unlink(os.path.join(self.directory, "f.bin"))
        sandbox = self.sandbox()
        sandbox.send(LOAD, self.order(entry="f.bin"))
        self.assertEqual(sandbox.receive()[4], b"f.bin cannot be read: No such file or directory")

    def test_what_cannot_be_started_says_why_and_the_next_call_is_served(self):
        sandbox = self.program("")
        path = os.path.join(self.directory, "f.bin")
        with open("/proc/self/exe", "rb") as file:
            head = file.read(64)
        cases = {b"#!/no/such/sh\n": "the loader or interpreter that it names is not there", head: "it is not a whole program"}
        for number, (content, why) in enumerate(cases.items(), 1):
            with open(path, "wb") as file:
                file.write(content)
            self.assertIn(f"f.bin cannot be started: {why}", self.fails(sandbox, number=number))
        os.chmod(path, 0o644)
        self.assertEqual(self.fails(sandbox, number=8), "f.bin cannot be started: Permission denied\n")
        self.script("echo 1 > $OUT")
        self.assertEqual(self.call(sandbox, number=9)[2], b"1\n")

    def test_a_program_that_signals_its_parent_changes_nothing(self):
        sandbox = self.program("kill -CHLD $PPID; kill -CHLD $PPID; echo fine > $OUT")
        for number in range(1, 20):
            self.assertEqual(self.call(sandbox, number=number), (0, JSON, b"fine\n"))

    def test_forks_of_a_zygote_that_has_it_serve_each_for_itself(self):
        self.script('echo "printed $1"; printf "$1" > $OUT')
        pairs = [socket.socketpair() for _ in range(2)]
        fork = forks_to([inner for _, inner in pairs])
        # The test's own process has files in its /tmp; it is not what is tested here.
        original, sprout.unforkable = sprout.unforkable, lambda: None
        self.addCleanup(setattr, sprout, "unforkable", original)
        zygote = self.sandbox(main=lambda requests, answers: runtime.main(requests, answers, fork))
        zygote.send(ZYGOTE, self.order(entry="f.bin", environment={"OUT": self.output}))
        for n, (worker, inner) in enumerate(pairs):
            inner.close()
            worker.settimeout(20)
            self.addCleanup(worker.close)
            child = Sandbox.__new__(Sandbox)
            child.socket = worker
            child.send(RENEW, json.dumps({"random": f"{n:02}" * 32}).encode())
            self.assertEqual(json.loads(child.receive()[4])["entry"], "native")
            for number in (1, 2):
                child.send(REQUEST, b"%d-%d" % (n, number), number=number)
                self.assertEqual(child.receive(), (RESPONSE, 0, number, JSON, b"%d-%d" % (n, number)))
        self.assertEqual(zygote.receive()[0], READY)

    def test_many_calls_leave_no_descriptor_and_no_child(self):
        sandbox = self.program("echo x; echo $1 > $OUT")
        self.call(sandbox)
        most = len(os.listdir(f"/proc/{sandbox.pid}/fd"))
        for number in range(2, 100):
            self.assertEqual(self.call(sandbox, b"%d" % number, number=number)[2], b"%d\n" % number)
        # One more is open until the answer has left.
        self.assertLessEqual(len(os.listdir(f"/proc/{sandbox.pid}/fd")), most + 1)
        with open(f"/proc/{sandbox.pid}/task/{sandbox.pid}/children") as file:
            self.assertEqual(file.read(), "")


if __name__ == "__main__":
    unittest.main()
