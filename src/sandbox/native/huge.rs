//! Large pages for what a zygote holds, which are cheap to share with a fork (see `huge.py`).

use core::ffi::{c_int, c_long, c_void};
use core::ptr;

use super::libc::{madvise, mmap, munmap};
use super::python::{
    ArenaAllocator, PyErr_Occurred, PyLong_AsUnsignedLong, PyLong_FromLong, PyObject_GetArenaAllocator,
    PyObject_IsTrue, PyObject_SetArenaAllocator, PyTuple_GetItem,
};

/// Memory that arenas are cut from, one after the other, so that they fill large pages. What is left of it is between
/// `at` and `end`.
struct Quarry {
    at: usize,
    end: usize,
    /// The interpreter's own, while ours is in its place.
    ordinary: ArenaAllocator,
}

static mut QUARRY: Quarry =
    Quarry { at: 0, end: 0, ordinary: ArenaAllocator { context: ptr::null_mut(), alloc: None, free: None } };

const HUGE_BYTES: usize = 2 << 20;
/// What is asked of the kernel at once: it is only addresses until it is used.
const QUARRY_BYTES: usize = 16 << 20;
const PROT_READ_WRITE: c_int = 3;
const MAP_PRIVATE_ANONYMOUS_NORESERVE: c_int = 0x2 | 0x20 | 0x4000;
const MAP_FAILED: usize = usize::MAX;
/// Linux 6.1.
const MADV_COLLAPSE: c_int = 25;

fn round_up(address: usize) -> usize {
    address.next_multiple_of(HUGE_BYTES)
}

/// A piece that begins where a large page does, of the length of a quarry.
fn map_aligned() -> Option<usize> {
    let len = QUARRY_BYTES + HUGE_BYTES;
    // SAFETY: new memory; nothing of ours lies there.
    let start = unsafe { mmap(ptr::null_mut(), len, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0) }
        as usize;
    if start == MAP_FAILED {
        return None;
    }
    let aligned = round_up(start);
    unmap(start, aligned);
    unmap(aligned + QUARRY_BYTES, start + len);
    Some(aligned)
}

fn unmap(start: usize, end: usize) {
    if start < end {
        // SAFETY: only called for memory of a quarry in which nothing lies.
        unsafe { munmap(start as *mut c_void, end - start) };
    }
}

unsafe extern "C" fn cut_arena(_context: *mut c_void, len: usize) -> *mut c_void {
    // SAFETY: the interpreter's lock is held, and a zygote has one thread.
    let quarry = unsafe { &mut *(&raw mut QUARRY) };
    if len > quarry.end - quarry.at {
        let Some(start) = map_aligned().filter(|_| len <= QUARRY_BYTES) else { return ptr::null_mut() };
        unmap(round_up(quarry.at), quarry.end);
        (quarry.at, quarry.end) = (start, start + QUARRY_BYTES);
    }
    let arena = quarry.at;
    quarry.at += len;
    arena as *mut c_void
}

/// True: from here on arenas lie side by side. False: they come from where they used to, and what was not used goes back,
/// but for the rest of the large page that the last one lies on.
pub(crate) unsafe extern "C" fn gather_arenas(_module: *mut c_void, argument: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live object, and its lock is held; a zygote has one thread.
    let (begin, quarry) = unsafe { (PyObject_IsTrue(argument) == 1, &mut *(&raw mut QUARRY)) };
    if begin != quarry.ordinary.alloc.is_none() {
        // It is so already.
        // SAFETY: as above.
        return unsafe { PyLong_FromLong(0) };
    }
    if begin {
        // SAFETY: the structure lives through the calls. An arena of ours is given back as any other is: it was mapped.
        unsafe {
            PyObject_GetArenaAllocator(&raw mut quarry.ordinary);
            let mut ours = ArenaAllocator { alloc: Some(cut_arena), ..quarry.ordinary };
            PyObject_SetArenaAllocator(&raw mut ours);
        }
    } else {
        // SAFETY: as above.
        unsafe { PyObject_SetArenaAllocator(&raw mut quarry.ordinary) };
        quarry.ordinary.alloc = None;
        unmap(round_up(quarry.at), quarry.end);
        (quarry.at, quarry.end) = (0, 0);
    }
    // SAFETY: as above.
    unsafe { PyLong_FromLong(0) }
}

/// Puts what lies between two addresses, multiples of 2 MiB, on large pages; gives how many that are now. Where the kernel
/// is too old or has none left, it stays as it is.
pub(crate) unsafe extern "C" fn collapse(_module: *mut c_void, arguments: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live tuple, and its lock is held.
    let (start, end) = unsafe {
        let item = |at| PyLong_AsUnsignedLong(PyTuple_GetItem(arguments, at)) as usize;
        (item(0), item(1))
    };
    // SAFETY: as above.
    if !unsafe { PyErr_Occurred() }.is_null() {
        return ptr::null_mut();
    }
    let mut n = 0;
    for at in (start..end).step_by(HUGE_BYTES) {
        // SAFETY: changes what the memory consists of, and not what is in it.
        n += c_long::from(unsafe { madvise(at as *mut c_void, HUGE_BYTES, MADV_COLLAPSE) } == 0);
    }
    // SAFETY: as above.
    unsafe { PyLong_FromLong(n) }
}
