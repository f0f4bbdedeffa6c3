//! The system call filters that the zygote was given, and how a child loads its own.

use super::libc::{EPIPE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, prctl, sock_fprog};
use super::messages::{Failure, STEP_FILTER, check};

/// Most instructions a filter has: the kernel's own bound (`BPF_MAXINSNS`).
const FILTER_INSTRUCTIONS_MAX: usize = 4096;

pub(crate) struct Filter {
    pub(crate) instructions: [u64; FILTER_INSTRUCTIONS_MAX],
    pub(crate) len: usize,
}

/// Big, and the zygote has one of each: kept out of the stack.
pub(crate) static mut FILTER: Filter = Filter { instructions: [0; FILTER_INSTRUCTIONS_MAX], len: 0 };
pub(crate) static mut ZYGOTE_FILTER: Filter = Filter { instructions: [0; FILTER_INSTRUCTIONS_MAX], len: 0 };

/// For the rest of this process's life.
pub(crate) fn load(is_zygote: bool) -> Result<(), Failure> {
    // SAFETY: only this thread exists; the filters were filled in by `receive`.
    let filter = unsafe { if is_zygote { &*(&raw const ZYGOTE_FILTER) } else { &*(&raw const FILTER) } };
    if filter.len == 0 {
        // A zygote that never got its filter must not make sandboxes without one.
        return Err(Failure { step: STEP_FILTER, errno: EPIPE });
    }
    let program = sock_fprog { len: filter.len as u16, filter: filter.instructions.as_ptr() };
    // SAFETY: `program` describes a live array; the kernel copies it.
    check(unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) }, STEP_FILTER)
}
