//! What is called of the interpreter, as it is in every version from 3.8 on.

use core::ffi::{c_char, c_int, c_long, c_ulong, c_void};

/// Where the interpreter takes its arenas from: the pieces, of 256 KiB or 1 MiB, that small objects live in.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ArenaAllocator {
    pub(crate) context: *mut c_void,
    pub(crate) alloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    pub(crate) free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize)>,
}

#[repr(C)]
pub(crate) struct PyObjectHead {
    pub(crate) refcount: isize,
    pub(crate) kind: *mut c_void,
}

#[repr(C)]
pub(crate) struct PyModuleDef {
    pub(crate) head: PyObjectHead,
    pub(crate) init: *mut c_void,
    pub(crate) index: isize,
    pub(crate) copy: *mut c_void,
    pub(crate) name: *const c_char,
    pub(crate) doc: *const c_char,
    pub(crate) size: isize,
    pub(crate) methods: *mut PyMethodDef,
    pub(crate) slots: *mut c_void,
    pub(crate) traverse: *mut c_void,
    pub(crate) clear: *mut c_void,
    pub(crate) free: *mut c_void,
}

#[repr(C)]
pub(crate) struct PyMethodDef {
    pub(crate) name: *const c_char,
    pub(crate) function: Option<unsafe extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void>,
    pub(crate) flags: c_int,
    pub(crate) doc: *const c_char,
}

unsafe extern "C" {
    pub(crate) fn PyOS_BeforeFork();
    pub(crate) fn PyOS_AfterFork_Parent();
    pub(crate) fn PyOS_AfterFork_Child();
    pub(crate) fn PyLong_AsLong(object: *mut c_void) -> c_long;
    pub(crate) fn PyLong_FromLong(value: c_long) -> *mut c_void;
    pub(crate) fn PyLong_AsUnsignedLong(object: *mut c_void) -> c_ulong;
    pub(crate) fn PyObject_IsTrue(object: *mut c_void) -> c_int;
    pub(crate) fn PyTuple_GetItem(tuple: *mut c_void, at: isize) -> *mut c_void;
    pub(crate) fn PyObject_GetArenaAllocator(allocator: *mut ArenaAllocator);
    pub(crate) fn PyObject_SetArenaAllocator(allocator: *mut ArenaAllocator);
    pub(crate) fn PyErr_Occurred() -> *mut c_void;
    pub(crate) fn PyErr_SetFromErrno(kind: *mut c_void) -> *mut c_void;
    pub(crate) static mut PyExc_OSError: *mut c_void;
    pub(crate) fn PyModule_Create2(definition: *mut PyModuleDef, api: c_int) -> *mut c_void;
}

/// The function takes one argument.
pub(crate) const METH_O: c_int = 8;
/// The function takes a tuple of them.
pub(crate) const METH_VARARGS: c_int = 1;
/// The stable interface, the same from Python 3.2 on.
pub(crate) const PYTHON_ABI_VERSION: c_int = 3;
