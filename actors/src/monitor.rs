//! How the supervisor learns that an actor has ended, and how often it starts it again.
//!
//! actix's own `Supervisor` does not survive a panic: the mailbox closes and `restarting()` never runs.
//! So each actor holds a [`Monitor`], whose drop tells of the end.

use std::collections::VecDeque;
use std::fmt;
use std::thread;
use std::time::Duration;

use actix::{Message, Recipient};
use tokio::time::Instant;

use crate::name::FunctionName;

/// An actor has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Down {
    /// Which of the tree's actors.
    pub name: Child,
    /// Which life of it; a late report must not take down the successor.
    pub incarnation: u64,
    /// How it ended.
    pub exit: Exit,
}

/// Panic in the handler. For integration tests and drills: it shows that a panic in one actor is survived
/// by the others and that the actor comes back. Every actor below the supervisor takes it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Crash;

/// A member of the tree, as the supervisor names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Child {
    /// The lambda of this function.
    Lambda(FunctionName),
    /// The one and only watcher of the registry.
    Watcher,
    /// The one and only evictor.
    Evictor,
    /// The one and only owner of zygotes.
    Zygotes,
    /// The one and only owner of packages.
    Packages,
    /// The one and only router.
    Router,
    /// The one and only owner of schedules.
    Cron,
    /// The one and only owner of readers of Kafka.
    Kafka,
}

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lambda(name) => write!(f, "lambda {name}"),
            Self::Watcher => f.write_str("watcher"),
            Self::Evictor => f.write_str("evictor"),
            Self::Zygotes => f.write_str("zygotes"),
            Self::Packages => f.write_str("packages"),
            Self::Router => f.write_str("router"),
            Self::Cron => f.write_str("cron"),
            Self::Kafka => f.write_str("kafka"),
        }
    }
}

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It stopped of its own will, or because it was told to.
    Stopped,
    /// It panicked.
    Panicked,
}

/// Held by an actor as its last field: fields drop in order, so what the actor owns goes first. Needs
/// `panic = "unwind"`.
#[derive(Debug)]
pub struct Monitor {
    name: Child,
    incarnation: u64,
    supervisor: Recipient<Down>,
}

impl Monitor {
    /// Will report the end of this life of `name`.
    #[must_use]
    pub fn new(name: Child, incarnation: u64, supervisor: Recipient<Down>) -> Self {
        Self { name, incarnation, supervisor }
    }
}

impl Drop for Monitor {
    #[allow(clippy::disallowed_methods, reason = "a destructor can neither wait nor retry")]
    fn drop(&mut self) {
        let exit = if thread::panicking() { Exit::Panicked } else { Exit::Stopped };
        // Past the mailbox's bound, here and nowhere else: a destructor can neither wait nor retry, and a lost
        // report is a function that stays dead. A supervisor that is itself gone has nobody left to restart.
        self.supervisor.do_send(Down { name: self.name.clone(), incarnation: self.incarnation, exit });
    }
}

/// Restarts in [`RESTART_WINDOW`] before the supervisor holds something to be broken: enough for a bad moment,
/// too few for an endless loop to cost anything.
pub const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
pub const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// The pause before the first restart; it doubles with each further one in the window (10 to 160 ms).
pub const RESTART_PAUSE: Duration = Duration::from_millis(10);
/// How long something is left alone once its budget is spent.
pub const BROKEN_FOR: Duration = Duration::from_secs(30);

/// Restarts that are left, after OTP's intensity and period.
#[derive(Debug, Default)]
pub struct RestartBudget {
    recent: VecDeque<Instant>,
}

/// Too many restarts in too little time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// When it may be tried again.
    pub until: Instant,
}

impl RestartBudget {
    /// Take one restart, and the pause that comes before it.
    ///
    /// # Errors
    /// None is left. The budget is whole again at the time that the error names.
    pub fn try_spend(&mut self, now: Instant) -> Result<Duration, Spent> {
        while self.recent.front().is_some_and(|then| now.saturating_duration_since(*then) >= RESTART_WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() >= RESTARTS_MAX {
            self.recent.clear();
            return Err(Spent { until: now + BROKEN_FOR });
        }
        let pause = RESTART_PAUSE * (1 << self.recent.len());
        self.recent.push_back(now);
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::{Actor, ActorContext, Context, Handler};
    use std::sync::{Arc, Mutex};

    #[test]
    fn five_restarts_in_ten_seconds_and_no_sixth() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ok = |ms: u64| Ok(Duration::from_millis(ms));
        let mut budget = RestartBudget::default();
        for (when, expected) in [
            (0, ok(10)),
            (1_000, ok(20)),
            (2_000, ok(40)),
            (3_000, ok(80)),
            (4_000, ok(160)),
            (9_999, Err(Spent { until: at(39_999) })),
            (40_000, ok(10)),
            (49_999, ok(20)),
            (50_000, ok(20)),
        ] {
            assert_eq!(budget.try_spend(at(when)), expected, "at {when} ms");
        }
    }

    struct Boss(Arc<Mutex<Vec<Exit>>>);
    impl Actor for Boss {
        type Context = Context<Self>;
    }
    impl Handler<Down> for Boss {
        type Result = ();
        fn handle(&mut self, down: Down, _: &mut Context<Self>) {
            self.0.lock().unwrap().push(down.exit);
        }
    }

    struct Worker(#[expect(dead_code, reason = "held for its drop")] Monitor);
    impl Actor for Worker {
        type Context = Context<Self>;
    }
    impl Handler<Crash> for Worker {
        type Result = ();
        fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
            panic!("on purpose");
        }
    }
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Leave;
    impl Handler<Leave> for Worker {
        type Result = ();
        fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) {
            ctx.stop();
        }
    }

    #[actix::test]
    async fn a_panic_and_a_stop_are_told_apart() {
        let exits = Arc::new(Mutex::new(Vec::new()));
        let boss = Boss(Arc::clone(&exits)).start();
        let worker = || Worker(Monitor::new(Child::Evictor, 1, boss.clone().recipient())).start();
        assert!(worker().send(Crash).await.is_err());
        worker().send(Leave).await.unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(*exits.lock().unwrap(), [Exit::Panicked, Exit::Stopped]);
    }
}
