//! `_ol`: the native half of the Python runtime, loaded by `zygote.py`.
//!
//! The first of its functions is `_ol.serve(control_fd)`. In the zygote it never returns: it takes fork requests from
//! the worker, forks, and reports the pids and later the exits. In a forked child it returns 3, the
//! socket for answers (4 is that of requests), when the child sits in its shell, has given up every privilege and
//! is under the system call filter. No Python code runs between the fork and that moment.
//!
//! A child may itself be meant for a zygote. It lives in a user namespace of its own then, keeps the
//! capabilities there that forking into shells takes, has a filter that allows for it, and has its control
//! socket at descriptor 5. It has no power over anything but what is forked from it.
//!
//! The others, `_ol.gather_arenas(begin)` and `_ol.collapse(start, end)`, put what a zygote holds on large pages.
//!
//! ```text
//!   module        what Python sees
//!   zygote        the loop: requests and ends
//!   fork          a fork into a shell
//!   confine       what the child does to itself before it runs any Python
//!   filter        its system call filter
//!   messages      what is said on the control socket
//!   huge          large pages
//!   libc, python  what is called of those
//! ```
//!
//! All this is compiled alone, without `std`, and against no library (see `build.rs`): what it calls
//! is found in the interpreter and the C library of the base that it is loaded into.

#![no_std]
#![allow(non_camel_case_types, reason = "the names of the C interface")]
// As in the rest of the workspace, but for one operation in each unsafe block: what is said of a block holds for all of it.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![warn(unreachable_pub)]
#![allow(clippy::deref_addrof, reason = "a reference to a `static mut` is made by way of its address")]

mod confine;
mod filter;
mod fork;
mod huge;
mod libc;
mod messages;
mod python;
mod zygote;

use core::ffi::{c_int, c_void};
use core::ptr;

use huge::{collapse, gather_arenas};
use libc::{__errno_location, _exit};
use python::{
    METH_O, METH_VARARGS, PYTHON_ABI_VERSION, PyErr_Occurred, PyErr_SetFromErrno, PyExc_OSError,
    PyLong_AsLong, PyLong_FromLong, PyMethodDef, PyModule_Create2, PyModuleDef, PyObjectHead,
};
use zygote::serve_forks;

static mut METHODS: [PyMethodDef; 4] = [
    PyMethodDef {
        name: c"serve".as_ptr(),
        function: Some(serve),
        flags: METH_O,
        doc: c"serve(control_fd): fork on request; returns 3, the socket for answers, in a confined child (4 is that of requests), 0 in the zygote when the worker is gone".as_ptr(),
    },
    PyMethodDef {
        name: c"gather_arenas".as_ptr(),
        function: Some(gather_arenas),
        flags: METH_O,
        doc: c"gather_arenas(begin): whether new arenas lie side by side, so that they fill large pages".as_ptr(),
    },
    PyMethodDef {
        name: c"collapse".as_ptr(),
        function: Some(collapse),
        flags: METH_VARARGS,
        doc: c"collapse(start, end): puts what lies there on large pages; gives how many".as_ptr(),
    },
    PyMethodDef { name: ptr::null(), function: None, flags: 0, doc: ptr::null() },
];

static mut MODULE: PyModuleDef = PyModuleDef {
    head: PyObjectHead { refcount: 1, kind: ptr::null_mut() },
    init: ptr::null_mut(),
    index: 0,
    copy: ptr::null_mut(),
    name: c"_ol".as_ptr(),
    doc: c"Forks confined Python interpreters.".as_ptr(),
    size: -1,
    methods: (&raw mut METHODS).cast(),
    slots: ptr::null_mut(),
    traverse: ptr::null_mut(),
    clear: ptr::null_mut(),
    free: ptr::null_mut(),
};

unsafe extern "C" fn serve(_module: *mut c_void, argument: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live object, and its lock is held.
    let control = unsafe { PyLong_AsLong(argument) };
    // SAFETY: as above.
    if control == -1 && !unsafe { PyErr_Occurred() }.is_null() {
        return ptr::null_mut();
    }
    match serve_forks(control as c_int) {
        // SAFETY: the interpreter's lock is held.
        Ok(in_child) => unsafe { PyLong_FromLong(if in_child { 3 } else { 0 }) },
        Err(error) => {
            // SAFETY: the error number is this thread's; the exception object is the interpreter's own.
            unsafe {
                *__errno_location() = error;
                PyErr_SetFromErrno(PyExc_OSError)
            }
        }
    }
}

/// Called by the interpreter when the module is imported.
///
/// # Safety
/// The interpreter calls it once, with its lock held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit__ol() -> *mut c_void {
    // SAFETY: the definition is static, as the interpreter asks.
    unsafe { PyModule_Create2(&raw mut MODULE, PYTHON_ABI_VERSION) }
}

/// `core` comes compiled with unwinding and refers to this; nothing here ever unwinds.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends this process; 134 is what an abort would look like to a shell.
    unsafe { _exit(134) }
}
