//! Calls functions by the clock.
//!
//! One actor for all schedules. It reads them from the routing table: told that something has happened to a function, it
//! looks what is there now, so that it does not matter in which order it is told, or how often. What is due, and what is
//! passed over, is decided by [`timetable`].
//!
//! A call goes the way of any other request ([`Caller`]). When the worker has no room for it, it is made again a little
//! later, for as long as it is not too late for it.

pub mod timetable;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResponse,
    SpawnHandle, WrapFuture,
};
use slog::{Logger, info, warn};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::outcome::Outcome;
use crate::router::Routes;
use crate::stats::CronStatus;
use crate::stats::unix_ms;
use crate::triggers::{Close, Reconsider};
use crate::world::{Caller, Clock, Code, Diary, World};
use timetable::{CronEntry, LATE_MAX, Timer, renewed};

/// How are the schedules?
#[derive(Debug, Message)]
#[rtype(result = "Schedules")]
pub struct AskCron;

/// How the schedules are, by function.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct Schedules(pub HashMap<FunctionName, Vec<CronStatus>>);

/// How often the clock is looked at, at least, while there are schedules: it may have been set.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a schedule is remembered that no function has any more: it may be gone only until its author has mended something.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The pause before a call is made again for which there was no room; doubles up to [`AGAIN_MAX`].
pub const AGAIN: Duration = Duration::from_millis(100);
/// See [`AGAIN`].
pub const AGAIN_MAX: Duration = Duration::from_secs(5);

/// The owner of the schedules.
pub struct Cron<W: World> {
    clock: W::Clock,
    caller: W::Caller,
    diary: W::Diary,
    routes: Routes<W>,
    /// What an earlier worker has written of schedules that are not there yet.
    remembered: BTreeMap<String, u64>,
    /// What is in the diary is out of date.
    is_to_be_written: bool,
    is_writing: bool,
    functions: HashMap<FunctionName, Vec<(u64, Timer)>>,
    /// Tells timers apart, also those of the same schedule before and after a change.
    last_id: u64,
    waking: Option<SpawnHandle>,
    log: Logger,
    _monitor: Monitor,
}

impl<W: World> Cron<W> {
    /// Reads the schedules of all functions when it is started.
    #[must_use]
    pub fn new(
        clock: W::Clock,
        caller: W::Caller,
        diary: W::Diary,
        routes: Routes<W>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        Self {
            clock,
            caller,
            diary,
            routes,
            remembered: BTreeMap::new(),
            is_to_be_written: false,
            is_writing: false,
            functions: HashMap::new(),
            last_id: 0,
            waking: None,
            log,
            _monitor: monitor,
        }
    }

    fn reconsider(&mut self, name: &FunctionName) {
        let entries = self.routes.get(name.as_str()).map(|route| route.code.cron()).unwrap_or_default();
        let old = self.functions.remove(name).unwrap_or_default();
        if entries.is_empty() {
            if !old.is_empty() {
                info!(self.log, "a function is no longer called by the clock"; "lambda" => %name);
            }
            return;
        }
        let remembered = &mut self.remembered;
        let since = |entry: &CronEntry| {
            let ms = remembered.remove(&title(name, entry))?;
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
        };
        let timers = renewed(old, entries, self.clock.now(), &mut self.last_id, since);
        self.is_to_be_written = true;
        self.functions.insert(name.clone(), timers);
    }

    /// Starts what is due, and sleeps until something is.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        let mut due = Vec::new();
        for (name, timers) in &mut self.functions {
            for (id, timer) in timers {
                if let Some(time) = timer.look(now) {
                    due.push((name.clone(), *id, timer.entry().text.clone(), time));
                }
            }
        }
        self.is_to_be_written |= !due.is_empty();
        self.write(ctx);
        for (name, id, schedule, time) in due {
            self.call(name, id, schedule, time, ctx);
        }
        if let Some(waking) = self.waking.take() {
            ctx.cancel_future(waking);
        }
        let next = self.functions.values().flatten().filter_map(|(_, timer)| timer.next()).min();
        let Some(next) = next else { return };
        let pause = next.duration_since(now).unwrap_or_default().min(LOOK_EVERY);
        self.waking = Some(ctx.run_later(pause, Self::look));
    }

    /// Once at a time, and at most as often as the clock is looked at.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if !self.is_to_be_written || self.is_writing {
            return;
        }
        (self.is_to_be_written, self.is_writing) = (false, true);
        let mut schedules = self.remembered.clone();
        for (name, timers) in &self.functions {
            schedules
                .extend(timers.iter().map(|(_, timer)| (title(name, timer.entry()), unix_ms(timer.over()))));
        }
        ctx.spawn(self.diary.write(schedules).into_actor(self).map(|(), _cron, ctx| {
            ctx.run_later(LOOK_EVERY, |cron, ctx| {
                cron.is_writing = false;
                cron.write(ctx);
            });
        }));
    }

    fn call(
        &mut self,
        name: FunctionName,
        id: u64,
        schedule: String,
        time: SystemTime,
        ctx: &mut Context<Self>,
    ) {
        let (caller, for_call) = (self.caller.clone(), name.clone());
        let calls = async move {
            let began = Instant::now();
            let mut again = Backoff::new(AGAIN, AGAIN_MAX);
            loop {
                let outcome = caller.call_by_clock(for_call.clone(), schedule.clone(), time).await;
                let until = again.failed(Instant::now());
                if !matches!(outcome, Outcome::NoRoom { .. }) || until - began > LATE_MAX {
                    return (outcome, began.elapsed());
                }
                sleep(until - Instant::now()).await;
            }
        };
        ctx.spawn(calls.into_actor(self).map(move |(outcome, took), cron, _ctx| {
            if !outcome.is_done() {
                warn!(cron.log, "a call by the clock has failed"; "lambda" => %name, "outcome" => outcome.line());
            }
            // A schedule that is gone has nobody to tell.
            let timer = cron.functions.get_mut(&name).and_then(|timers| {
                timers.iter_mut().find_map(|(other, timer)| (*other == id).then_some(timer))
            });
            if let Some(timer) = timer {
                timer.ended(&outcome, took);
            }
        }));
    }
}

impl<W: World> Actor for Cron<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        let oldest = now.checked_sub(REMEMBERED_FOR).map_or(0, unix_ms);
        self.remembered = self.diary.read();
        self.remembered.retain(|_, over| (oldest..=unix_ms(now)).contains(over));
        for route in self.routes.all() {
            self.reconsider(&route.name);
        }
        self.look(ctx);
    }
}

impl<W: World> Handler<Reconsider> for Cron<W> {
    type Result = ();

    fn handle(&mut self, Reconsider { name }: Reconsider, ctx: &mut Context<Self>) {
        self.reconsider(&name);
        self.look(ctx);
    }
}

impl<W: World> Handler<AskCron> for Cron<W> {
    type Result = Schedules;

    fn handle(&mut self, _: AskCron, _ctx: &mut Context<Self>) -> Self::Result {
        let status = |timers: &Vec<(u64, Timer)>| timers.iter().map(|(_, timer)| timer.status()).collect();
        Schedules(self.functions.iter().map(|(name, timers)| (name.clone(), status(timers))).collect())
    }
}

impl<W: World> Handler<Close> for Cron<W> {
    type Result = ();

    /// Calls under way come to their end without it.
    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl<W: World> Handler<Crash> for Cron<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

/// What a schedule is called in the diary.
fn title(name: &FunctionName, entry: &CronEntry) -> String {
    format!("{name} {} {}", entry.zone, entry.text)
}

#[cfg(test)]
mod tests;
