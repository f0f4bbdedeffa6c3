//! Who installs what, when: each once however many wait, a few at a time, and not again at once what has just failed.
//!
//! A plain structure of shared futures; the actor is [`Packages`](crate::packages::Packages), which keeps them going
//! when nobody waits any more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::world::{LocalFuture, PackageError};

/// Runs of the installer at once: most of their time goes into waiting for the network, the rest is compiling.
pub const RUNS_MAX: usize = 4;
/// Runs that wait for their turn. A function needs some ten packages, and a registry is read four functions at a time.
pub const WAITING_MAX: usize = 512;
/// The pause after the index was away, for what was wanted of it; doubles up to [`PAUSE_MAX`].
pub const PAUSE: Duration = Duration::from_secs(2);
/// See [`PAUSE`].
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Failures that are remembered: some 200 bytes each.
pub const FAILURES_MAX: usize = 1_024;

/// A run that several may wait for.
pub type Run<T> = Shared<LocalFuture<Result<T, PackageError>>>;

/// The turns of all runs, whatever they are for.
#[derive(Debug, Clone)]
pub struct Turns {
    permits: Rc<Semaphore>,
    n_waiting: Rc<Cell<usize>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { permits: Rc::new(Semaphore::new(RUNS_MAX)), n_waiting: Rc::default() }
    }
}

impl Turns {
    /// Runs that have begun, and runs that wait.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (RUNS_MAX - self.permits.available_permits(), self.n_waiting.get())
    }
}

/// One kind of runs, by what they are for.
#[derive(Clone)]
pub struct Runs<K, T>(Rc<RefCell<State<K, T>>>);

struct State<K, T> {
    under_way: HashMap<K, Run<T>>,
    failures: HashMap<K, (Backoff, PackageError)>,
}

impl<K, T> Default for Runs<K, T> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(State { under_way: HashMap::new(), failures: HashMap::new() })))
    }
}

/// What came of asking for a run.
pub enum Asked<T> {
    /// It was begun for this one: somebody must see it through.
    New(Run<T>),
    /// Somebody else has asked before.
    Joined(Run<T>),
}

impl<K: Clone + Eq + Hash + 'static, T: Clone + 'static> Runs<K, T> {
    /// The run for `key`: the one that is under way, or a new one.
    ///
    /// # Errors
    /// When too many wait, or when this has failed a moment ago because the index was away.
    pub fn ask(
        &self,
        key: K,
        turns: &Turns,
        begin: impl FnOnce() -> LocalFuture<Result<T, PackageError>> + 'static,
    ) -> Result<Asked<T>, PackageError> {
        let mut state = self.0.borrow_mut();
        if let Some(run) = state.under_way.get(&key) {
            return Ok(Asked::Joined(run.clone()));
        }
        let now = Instant::now();
        if let Some((backoff, error)) = state.failures.get(&key)
            && let Some(until) = backoff.waits_until(now)
        {
            let seconds = (until - now).as_secs() + 1;
            return Err(PackageError::Away(format!("{error}\n(it is tried again in {seconds} s)")));
        }
        if turns.n_waiting.get() >= WAITING_MAX {
            return Err(PackageError::Away("too many packages wait to be installed; try again".into()));
        }
        let (turns, runs, for_end) = (turns.clone(), self.clone(), key.clone());
        turns.n_waiting.set(turns.n_waiting.get() + 1);
        let waiting = Waiting(Rc::clone(&turns.n_waiting));
        let run: LocalFuture<_> = Box::pin(async move {
            let permit = turns.permits.acquire().await;
            drop(waiting);
            let result = begin().await;
            drop(permit);
            runs.ended(&for_end, result.as_ref().err());
            result
        });
        let run = run.shared();
        state.under_way.insert(key, run.clone());
        Ok(Asked::New(run))
    }

    fn ended(&self, key: &K, error: Option<&PackageError>) {
        let mut state = self.0.borrow_mut();
        state.under_way.remove(key);
        let Some(error @ PackageError::Away(_)) = error else {
            state.failures.remove(key);
            return;
        };
        if state.failures.len() >= FAILURES_MAX && !state.failures.contains_key(key) {
            // Any: it is asked for a moment earlier than it should be.
            let any = state.failures.keys().next().cloned();
            any.map(|any| state.failures.remove(&any));
        }
        let new = || (Backoff::new(PAUSE, PAUSE_MAX), error.clone());
        let (backoff, last) = state.failures.entry(key.clone()).or_insert_with(new);
        last.clone_from(error);
        backoff.failed(Instant::now());
    }

    /// After how long it is worth asking again for what was away.
    #[must_use]
    pub fn pause(&self, key: &K) -> Option<Duration> {
        let now = Instant::now();
        self.0.borrow().failures.get(key)?.0.waits_until(now).map(|until| until - now)
    }
}

/// Counts down when its run begins, or is given up before.
struct Waiting(Rc<Cell<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;
    use crate::fake::ms;

    fn run<T>(asked: Result<Asked<T>, PackageError>) -> Run<T> {
        match asked.map_err(|error| error.to_string()) {
            Ok(Asked::New(run) | Asked::Joined(run)) => run,
            Err(error) => panic!("{error}"),
        }
    }

    #[actix::test]
    async fn ten_that_want_the_same_wait_for_one_run() {
        tokio::time::pause();
        let (turns, runs, n) = (Turns::default(), Runs::<&str, u32>::default(), Rc::new(Cell::new(0)));
        let ask = || {
            let n = Rc::clone(&n);
            run(runs.ask("a", &turns, move || {
                n.set(n.get() + 1);
                Box::pin(async {
                    sleep(ms(100)).await;
                    Ok(7)
                })
            }))
        };
        let all: Vec<_> = (0..10).map(|_| ask()).collect();
        assert!(join_all(all).await.into_iter().all(|result| result == Ok(7)));
        assert_eq!(n.get(), 1);
        ask().await.unwrap();
        assert_eq!(n.get(), 2, "what has ended is begun anew");
    }

    #[actix::test]
    async fn a_few_run_at_once_and_not_too_many_wait() {
        tokio::time::pause();
        let (turns, runs) = (Turns::default(), Runs::<usize, ()>::default());
        let running = Rc::new(Cell::new(0));
        let ask = |at| {
            let running = Rc::clone(&running);
            runs.ask(at, &turns, move || {
                running.set(running.get() + 1);
                assert!(running.get() <= RUNS_MAX);
                Box::pin(async move {
                    sleep(ms(1)).await;
                    running.set(running.get() - 1);
                    Ok(())
                })
            })
        };
        let all: Vec<_> = (0..WAITING_MAX).map(|at| run(ask(at))).collect();
        assert!(matches!(ask(WAITING_MAX), Err(PackageError::Away(_))));
        assert_eq!(turns.counts(), (0, WAITING_MAX));
        join_all(all).await;
        assert_eq!(turns.counts(), (0, 0));
    }

    #[actix::test]
    async fn what_was_away_is_left_alone_for_growing_pauses_and_what_is_wrong_is_not() {
        tokio::time::pause();
        let (turns, runs) = (Turns::default(), Runs::<&str, ()>::default());
        let ask = |error: PackageError| runs.ask("a", &turns, move || Box::pin(async { Err(error) }));
        let away = || PackageError::Away("away".into());
        for _ in 0..3 {
            assert!(run(ask(PackageError::Refused("no such package".into()))).await.is_err());
        }
        assert!(run(ask(away())).await.is_err());
        let said = ask(away()).err().unwrap().to_string();
        assert!(said.contains("away") && said.contains("again in 3 s"), "{said}");
        sleep(PAUSE).await;
        assert!(run(ask(away())).await.is_err());
        assert_eq!(runs.pause(&"a"), Some(2 * PAUSE));
        sleep(2 * PAUSE).await;
        runs.ended(&"a", None);
        assert_eq!(runs.pause(&"a"), None);
    }
}
