"""Large pages for what a zygote holds.

A fork takes over the zygote's pages one by one, and gives them back one by one when it ends: both is a tenth of what a new
sandbox costs. Of a large page (2 MiB) the kernel does it in one go, also when the fork has written to a part of it: that
part it copies, as a page of 4 KiB, and the rest stays in one piece.

So a zygote has its objects side by side (`begin`), and when it has all of them, asks the kernel for large pages under them
(`settle`). Not before, and not with MADV_HUGEPAGE: that would hold for the forks as well, which would get 2 MiB where
they ask for one page. And not where less than three quarters is used, as at the end of what was imported: a large page is
there as a whole, so the rest would be memory for nothing, half a megabyte of each zygote in the middle.
"""

import os

HUGE = 2 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
# Pages of a large one that must be there.
FULL = HUGE // PAGE * 3 // 4
# What the kernel says of each page: 8 bytes, the highest bit of them whether it is there.
ENTRY = 8
PRESENT = 0x80

# `_ol`, in a zygote.
native = None
# The addresses where that was done: a zygote that was forked from another has it from there.
_done = set()


def begin():
    """From here on, what is imported lies side by side."""
    if native:
        native.gather_arenas(True)


def settle():
    """What was imported is on large pages now, as far as it fills such."""
    if not native:
        return
    native.gather_arenas(False)
    for start, end in _writable():
        for at in range(-(-start // HUGE) * HUGE, end // HUGE * HUGE, HUGE):
            if at not in _done and _present(at) >= FULL and native.collapse(at, at + HUGE):
                _done.add(at)


def _present(at):
    """How many pages of this large one are there."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(at // PAGE * ENTRY)
            entries = file.read(HUGE // PAGE * ENTRY)
    except OSError:
        return 0
    return sum(entry >= PRESENT for entry in entries[ENTRY - 1 :: ENTRY])


def _writable():
    """Memory of this process's own that came from no file, but for the stack."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            found = [line.split() for line in lines]
    except OSError:
        return []
    return [
        [int(address, 16) for address in fields[0].split(b"-")]
        for fields in found
        if fields[1] == b"rw-p" and (len(fields) == 5 or fields[5] == b"[heap]")
    ]
