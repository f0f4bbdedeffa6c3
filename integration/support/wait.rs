//! Waiting for conditions. Nothing sleeps for a fixed time, and no time decides a test: deadlines only
//! end a test that would otherwise hang.

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// How often a condition is looked at again.
const POLL_EVERY: Duration = Duration::from_millis(4);
/// How long a condition may take on an ordinary machine, even a busy one.
pub(crate) const DEADLINE_S: u64 = 30;

/// So many seconds on an ordinary machine; more where `OL_TEST_PATIENCE` says so.
pub(crate) fn patience(seconds: u64) -> Duration {
    static FACTOR: LazyLock<u64> = LazyLock::new(|| match std::env::var("OL_TEST_PATIENCE") {
        Ok(text) => text.parse().expect("OL_TEST_PATIENCE is a number"),
        Err(_) => 1,
    });
    Duration::from_secs(seconds * *FACTOR)
}

/// What `probe` finds, as soon as it finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE_S, what, probe)
}

/// The same for what takes longer than anything usual.
#[track_caller]
pub(crate) fn within<T>(seconds: u64, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    poll(seconds, what, || probe().ok_or_else(String::new))
}

/// What is seen, as soon as it is as it should be; in vain, the test's failure tells what was seen last.
#[track_caller]
pub(crate) fn seen<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, is_so: impl Fn(&T) -> bool) -> T {
    poll(DEADLINE_S, what, || {
        let last = look();
        if is_so(&last) { Ok(last) } else { Err(format!("; at last: {last:?}")) }
    })
}

/// `probe` says what belongs into the failure as long as there is nothing.
#[track_caller]
fn poll<T>(seconds: u64, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience(seconds);
    loop {
        match probe() {
            Ok(found) => return found,
            Err(last) => {
                assert!(Instant::now() < deadline, "not within {:?}: {what}{last}", patience(seconds));
            }
        }
        std::thread::sleep(POLL_EVERY);
    }
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || is_so().then_some(()));
}

/// The client is async, the tests are not. May be called from many threads at once.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime can be made")
    });
    RUNTIME.block_on(future)
}
