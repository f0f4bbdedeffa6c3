"""Filling the holes in the zygote's memory.

Imports leave free places all over the interpreter's memory, and whatever a fork makes is put into them: a page that is
shared until then, and has to be copied, for an object or two. When the holes are filled, the objects of a fork lie
side by side on fresh pages. Saves a sixth of the pages that a new sandbox has for itself.
"""

from sys import getsizeof

# The interpreter's own allocator has places of these sizes, in bytes; what is larger it leaves to malloc.
STEP = 16
LARGEST = 512
PAGE = 4096
# Objects of one size at most, should places not come in a row (as with another allocator). Ordinary are 50 to 800.
MOST = 1_000

_filling = []


def fill():
    """Fills the holes with objects that nobody uses and that live for ever."""
    empty = getsizeof(b"")
    for size in range(empty // STEP * STEP + STEP, LARGEST + STEP, STEP):
        # As many in a row as a page holds are no hole any more.
        n_wanted = PAGE // size - 1
        n_in_row = 0
        last = 0
        for _ in range(MOST):
            object = bytes(size - empty)
            _filling.append(object)
            n_in_row = n_in_row + 1 if id(object) - last == size else 0
            last = id(object)
            if n_in_row == n_wanted:
                break
