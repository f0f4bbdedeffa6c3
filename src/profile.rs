//! Where the worker's own processor time goes: a sampling profiler, off until somebody starts it. And where its memory goes:
//! [`heap`].

mod heap;
mod sampling;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::{Message, Profile};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

pub use heap::HeapProfiler;

/// Samples in a second of processor time: what Go's profiler takes, whose tools read this.
const FREQUENCY_HZ: i32 = 100;
/// After so long it stops by itself: what it has gathered is kept until somebody takes it. Nobody looks at more, and a profile that was
/// forgotten would gather for ever.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Libraries in which a signal may come at a moment when a stack must not be looked through.
const NOT_LOOKED_INTO: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The text is OpenLambda's.
    #[error("Already started cpu profiling")]
    Running,
    /// Nothing to stop.
    #[error("cpu profiling was not started: start it before you stop it")]
    NotRunning,
    /// One at a time.
    #[error("a profile of the memory is being made already; try again")]
    Taking,
    /// The profiler's own words.
    #[error("cannot profile: {0}")]
    Failed(String),
}

/// The profiler of this process. A clone is the same.
#[derive(Clone)]
pub struct CpuProfiler {
    state: Arc<Mutex<State>>,
    /// A directory for what does not fit into the profiler's memory. Its file stays open until the process ends, and its name with it.
    scratch: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    /// Which profile this is, so that the end of one does not end the next.
    number: u64,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Off,
    On(ProfilerGuard<'static>),
    /// It has stopped by itself.
    Over(Vec<u8>),
}

impl CpuProfiler {
    /// Off. `scratch` is a directory that nobody else uses, which need not be there, and where from then on all temporary files of this
    /// process are. `None`: where they always are.
    #[must_use]
    pub fn new(scratch: Option<PathBuf>) -> Self {
        Self { state: Arc::default(), scratch }
    }

    /// Begins. Has to be called on an event loop.
    ///
    /// # Errors
    /// When it has begun already, or the kernel gives no timer.
    pub fn start(&self) -> Result<(), ProfileError> {
        let number = {
            // Locked for longer than a moment it is only while what was gathered is put together, and an HTTP thread does not
            // wait for that.
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Err(ProfileError::Running),
            };
            if !matches!(state.stage, Stage::Off) {
                return Err(ProfileError::Running);
            }
            if let Some(scratch) = &self.scratch {
                std::fs::create_dir_all(scratch).map_err(|error| ProfileError::Failed(error.to_string()))?;
                // The profiler knows no other way to be told. Whoever was first stays first; the directory is the same.
                let _ = tempfile::env::override_temp_dir(scratch);
            }
            let builder = ProfilerGuardBuilder::default().frequency(FREQUENCY_HZ).blocklist(&NOT_LOOKED_INTO);
            state.stage =
                Stage::On(builder.build().map_err(|error| ProfileError::Failed(error.to_string()))?);
            state.number += 1;
            state.number
        };
        let profiler = self.clone();
        actix_web::rt::spawn(async move {
            tokio::time::sleep(TIME_MAX).await;
            // Symbols take a while to look up.
            let _ = actix_web::web::block(move || profiler.stop_by_itself(number)).await;
        });
        Ok(())
    }

    fn stop_by_itself(&self, number: u64) {
        let mut state = self.lock();
        if state.number == number
            && let Stage::On(guard) = &state.stage
            && let Ok(bytes) = encoded(guard)
        {
            state.stage = Stage::Over(bytes);
        }
    }

    /// Ends, and gives what was gathered in the form of Go's tools: `pprof`, gzipped. Blocks for as long as symbols are looked up.
    ///
    /// # Errors
    /// When it has not begun.
    pub fn stop(&self) -> Result<Vec<u8>, ProfileError> {
        // Taken out before: symbols are looked up without the lock, which HTTP threads take.
        let stage = std::mem::take(&mut self.lock().stage);
        match stage {
            Stage::Off => Err(ProfileError::NotRunning),
            Stage::On(guard) => encoded(&guard),
            Stage::Over(bytes) => Ok(bytes),
        }
    }

    /// Ends, for good: gives what was gathered, if a profile was under way, and leaves nothing behind.
    #[must_use]
    pub fn end(&self) -> Option<Vec<u8>> {
        let profile = self.stop().ok();
        if let Some(scratch) = &self.scratch {
            // What cannot be removed is there again when the next profile is taken, and is no harm.
            let _ = std::fs::remove_dir_all(scratch);
        }
        profile
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encoded(guard: &ProfilerGuard<'_>) -> Result<Vec<u8>, ProfileError> {
    let failed = |error: &dyn std::fmt::Display| ProfileError::Failed(error.to_string());
    let report = guard.report().build().map_err(|error| failed(&error))?;
    packed(&report.pprof().map_err(|error| failed(&error))?)
}

/// In the form that Go's tools read.
fn packed(profile: &Profile) -> Result<Vec<u8>, ProfileError> {
    let failed = |error: std::io::Error| ProfileError::Failed(error.to_string());
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&profile.encode_to_vec()).map_err(failed)?;
    packed.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[actix_web::test]
    async fn a_profile_is_started_once_and_says_where_the_time_went() {
        let profiler = CpuProfiler::new(None);
        assert!(matches!(profiler.stop(), Err(ProfileError::NotRunning)));
        profiler.start().unwrap();
        assert!(matches!(profiler.start(), Err(ProfileError::Running)));
        // Until it was certainly seen at work.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut text = Vec::new();
        while Instant::now() < deadline {
            let began = Instant::now();
            let mut sum = 0_u64;
            while began.elapsed() < Duration::from_millis(300) {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
            let packed = profiler.stop().unwrap();
            text.clear();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
            if text.windows(7).any(|window| window == b"profile") {
                assert_eq!(profiler.end(), None);
                return;
            }
            profiler.start().unwrap();
        }
        panic!("no sample in {} bytes", text.len());
    }
}
