"""Large pages: which memory of a zygote is asked for, and that it is asked for once."""

import ctypes
import mmap
import unittest
from unittest import mock

from sandbox import runtime  # noqa: F401  (puts the package in place)

from _ol_runtime import huge

MAPS = b"""\
00400000-00600000 r-xp 00000000 fe:01 1 /usr/bin/python3
00600000-00a00000 rw-p 00200000 fe:01 1 /usr/bin/python3
00b00000-01100000 rw-p 00000000 00:00 0 [heap]
7f0000100000-7f00003ff000 rw-p 00000000 00:00 0
7f0000400000-7f0000800000 rw-p 00000000 00:00 0
7f0000800000-7f0000c00000 ---p 00000000 00:00 0
7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0 [stack]
"""
WHOLE_BLOCKS = [0xC00000, 0xE00000, 0x7F0000400000, 0x7F0000600000]


class Native:
    def __init__(self, refused=()):
        self.said = []
        self.refused = refused

    def gather_arenas(self, begin):
        self.said.append(begin)

    def collapse(self, start, end):
        self.said.append(start)
        assert end - start == huge.HUGE
        return int(start not in self.refused)


class Huge(unittest.TestCase):
    def setUp(self):
        for name, value in (("native", None), ("_done", set())):
            patch = mock.patch.object(huge, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def settle(self, native, present=huge.FULL):
        huge.native = native
        huge.begin()
        with (
            mock.patch("builtins.open", mock.mock_open(read_data=MAPS)),
            mock.patch.object(huge, "_present", return_value=present),
        ):
            huge.settle()
        return native.said

    def test_whole_blocks_of_the_heap_and_of_nameless_memory_are_asked_for(self):
        self.assertEqual(self.settle(Native()), [True, False, *WHOLE_BLOCKS])

    def test_what_is_done_is_not_asked_for_again_in_a_zygote_that_was_forked_from_this_one(self):
        refused = WHOLE_BLOCKS[1]
        self.settle(Native(refused=[refused]))
        self.assertEqual(self.settle(Native()), [True, False, refused])

    def test_what_is_hardly_used_stays_as_it_is(self):
        self.assertEqual(self.settle(Native(), present=huge.FULL - 1), [True, False])

    def test_the_pages_that_are_there_are_counted(self):
        memory = mmap.mmap(-1, 2 * huge.HUGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = -(-address // huge.HUGE) * huge.HUGE
        for at in range(0, 100 * huge.PAGE, huge.PAGE):
            memory[start - address + at] = 1
        self.assertEqual(huge._present(start), 100)

    def test_nothing_happens_without_the_native_module_or_without_proc(self):
        huge.begin()
        huge.settle()
        native = huge.native = Native()
        with mock.patch("builtins.open", side_effect=FileNotFoundError):
            huge.settle()
        self.assertEqual(native.said, [False])


if __name__ == "__main__":
    unittest.main()
