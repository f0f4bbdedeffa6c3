"""The bytes on the wire. The vectors are the same as in the tests of src/frame.rs."""

import os
import unittest

from sandbox import frame

from _ol_runtime import frames
from _ol_runtime.frames import Channel, ProtocolError, request_head, response_head

# (kind, flags, invocation, head, body), bytes
VECTORS = [
    ((frames.WARM, 0, 0, b"", b""), "000000000500000000000000"),
    ((frames.REQUEST, 0, 1, b"", b'{"a": 1}'), "0800000002000000010000007b2261223a20317d"),
    ((frames.REQUEST, frames.MORE, 258, b"GET\n", b"xy"), "0600000002010400020100004745540a7879"),
    ((frames.RESPONSE, frames.FAILED, 4_294_967_295, b"500\n", b""), "0400000011020400ffffffff3530300a"),
    ((frames.LOAD_FAILED, 0, 0, b"", "é".encode()), "020000001300000000000000c3a9"),
]


class Frames(unittest.TestCase):
    def setUp(self):
        self.fd_in, self.fd_out = os.pipe()
        self.addCleanup(os.close, self.fd_in)
        self.channel = Channel(self.fd_in, self.fd_out)

    def tearDown(self):
        if self.fd_out is not None:
            os.close(self.fd_out)

    def test_frame_vectors_are_written(self):
        for fields, data in VECTORS:
            self.channel.write(*fields)
            self.assertEqual(os.read(self.fd_in, 100).hex(), data)

    def test_frame_vectors_are_read(self):
        for fields, data in VECTORS:
            os.write(self.fd_out, bytes.fromhex(data))
            self.assertEqual(self.channel.read(), fields)

    def test_frames_that_come_together_are_told_apart(self):
        os.write(self.fd_out, b"".join(bytes.fromhex(data) for _, data in VECTORS))
        self.assertEqual([self.channel.read() for _ in VECTORS], [fields for fields, _ in VECTORS])

    def test_frames_that_come_byte_by_byte_are_put_together(self):
        for fields, data in VECTORS:
            pid = os.fork()
            if not pid:
                for byte in bytes.fromhex(data):
                    os.write(self.fd_out, bytes([byte]))
                os._exit(0)
            self.assertEqual(self.channel.read(), fields)
            os.waitpid(pid, 0)

    def test_what_is_too_long_for_a_frame_goes_on_in_body_frames(self):
        whole = frames.PAYLOAD_MAX
        self.addCleanup(setattr, frames, "PAYLOAD_MAX", whole)
        self.addCleanup(setattr, frames, "COPY_MAX", frames.COPY_MAX)
        frames.PAYLOAD_MAX = 6
        frames.COPY_MAX = 3
        self.channel.write(frames.RESPONSE, frames.FAILED, 7, b"200\n", b"0123456789")
        expected = [
            frame(17, b"01", flags=3, head=b"200\n", number=7),
            frame(18, b"234567", flags=3, number=7),
            frame(18, b"89", flags=2, number=7),
        ]
        self.assertEqual(os.read(self.fd_in, 1000), b"".join(expected))

    def test_the_end_is_an_end_also_amid_a_frame(self):
        os.write(self.fd_out, frame(2, b"0123456789")[:-1])
        os.close(self.fd_out)
        self.fd_out = None
        self.assertRaises(EOFError, self.channel.read)

    def test_a_head_longer_than_its_frame_is_refused(self):
        os.write(self.fd_out, bytes.fromhex("010000000200020000000000") + b"abc")
        self.assertRaises(ProtocolError, self.channel.read)

    def test_a_head_that_does_not_fit_is_refused(self):
        for length in (65_536, 70_000):
            with self.assertRaisesRegex(ValueError, f"a head of {length} bytes"):
                self.channel.write(frames.RESPONSE, 0, 1, b"x" * length, b"")


class Heads(unittest.TestCase):
    def test_a_response_head_is_lines(self):
        self.assertEqual(
            response_head(200, [("content-type", "application/json")]), b"200\ncontent-type\napplication/json\n"
        )

    def test_a_response_head_takes_any_byte_of_a_header(self):
        self.assertEqual(response_head(204, [("x", "\xe9\xff")]), b"204\nx\n\xe9\xff\n")

    def test_a_response_head_refuses_what_would_end_a_line(self):
        for value in ("a\nb", "a\rb", "a\0b"):
            self.assertRaises(ValueError, response_head, 200, [("x", value)])
            self.assertRaises(ValueError, response_head, 200, [(value, "x")])

    def test_a_request_head_is_read(self):
        head = b"POST\n/items/1?x=%20\n30000\nr-1\nhost\nexample\nx\n\xe9\nempty\n\n"
        self.assertEqual(
            request_head(head),
            ("POST", "/items/1?x=%20", 30_000, "", "r-1", [("host", "example"), ("x", "\xe9"), ("empty", "")]),
        )
        self.assertEqual(request_head(b"GET\n/\n1\nr\n"), ("GET", "/", 1, "", "r", []))

    def test_a_client_stands_behind_the_time(self):
        for text, address in (("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), ("", None)):
            client = request_head(b"GET\n/\n1 %s\nr\n" % text.encode())[3]
            self.assertEqual((client, frames.address(client)), (text, address))
