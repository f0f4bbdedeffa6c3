//! Whom the kernel ends first when the machine is out of memory.
//!
//! Sandboxes, their zygotes and shims are at 500 (`shim.rs`), which whoever runs inside cannot lower. The worker goes as low as
//! it may, so that it is the last of what is not protected altogether: without it all sandboxes end.

use std::fs;
use std::io;

/// Above −1000, which would mean never: a worker that leaks should be ended before the machine stands still.
const WORKER_SCORE: &str = "-900";

/// Makes this process one that the kernel ends late.
///
/// # Errors
/// When it may not (that takes `CAP_SYS_RESOURCE`); sandboxes still go first.
pub fn spare_this_process() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", WORKER_SCORE)
}
