//! Who reads from Kafka for which function.
//!
//! One actor for all triggers, which moves no record: each trigger is a *feed* ([`Feeds`]), a reader on a thread of its
//! own that calls the function and commits. The actor opens feeds and drops them as functions come, change and go, and
//! opens those again that have ended. What becomes of a record is decided by [`attempts`], how much of them waits by
//! [`inflow`]; the feeds use both.
//!
//! Like [`cron`](crate::cron) it reads the routing table, whatever it is told.

pub mod attempts;
pub mod inflow;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, MessageResponse, SpawnHandle};
use slog::{Logger, info, warn};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::router::Routes;
use crate::stats::{FeedState, KafkaStatus};
use crate::triggers::{Close, Reconsider};
use crate::world::{Code, Feed, Feeds, KafkaSource, World};

/// Read for this function, as its `ol.yaml` says. Gives how many triggers it has.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct Register {
    /// Which.
    pub name: FunctionName,
}

/// Read for it no more, until it is registered, or is another one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unregister {
    /// Which.
    pub name: FunctionName,
}

/// How are the triggers?
#[derive(Debug, Message)]
#[rtype(result = "Triggers")]
pub struct AskKafka;

/// How the triggers are, by function.
#[derive(Debug, Clone, Default, MessageResponse)]
pub struct Triggers(pub HashMap<FunctionName, Vec<KafkaStatus>>);

/// Feeds at once: each has three threads or more and some megabytes that the broker has sent ahead.
pub const FEEDS_MAX: usize = 128;
/// How often it is looked whether a feed has ended.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause before a feed that has ended is opened again; doubles up to [`AGAIN_MAX`].
pub const AGAIN: Duration = Duration::from_secs(1);
/// See [`AGAIN`].
pub const AGAIN_MAX: Duration = Duration::from_secs(60);
/// A feed that has lived for this long has not failed at once.
pub const WELL_AFTER: Duration = Duration::from_secs(30);

/// The functions that nobody is to read for, although they have triggers. Kept beside the actor, so that they are still
/// when it is started again.
#[derive(Debug, Clone, Default)]
pub struct Unregistered(Arc<Mutex<HashSet<FunctionName>>>);

impl Unregistered {
    fn names(&self) -> MutexGuard<'_, HashSet<FunctionName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner of the feeds.
pub struct Kafka<W: World> {
    feeds: W::Feeds,
    routes: Routes<W>,
    unregistered: Unregistered,
    functions: HashMap<FunctionName, Vec<Trigger<W>>>,
    looking: Option<SpawnHandle>,
    log: Logger,
    _monitor: Monitor,
}

/// One trigger of one function.
struct Trigger<W: World> {
    source: KafkaSource,
    feed: Option<<W::Feeds as Feeds>::Feed>,
    opened: Instant,
    backoff: Backoff,
    trouble: String,
}

impl<W: World> Trigger<W> {
    fn new(source: KafkaSource) -> Self {
        let backoff = Backoff::new(AGAIN, AGAIN_MAX);
        Self { source, feed: None, opened: Instant::now(), backoff, trouble: String::new() }
    }

    fn status(&self, group: &str) -> KafkaStatus {
        let figures = self.feed.as_ref().map(Feed::figures).unwrap_or_default();
        let (state, message) = match &self.feed {
            Some(_) => (figures.state, figures.trouble.clone()),
            None if self.trouble.is_empty() => (FeedState::Stopped, String::new()),
            None => (FeedState::Trouble, self.trouble.clone()),
        };
        KafkaStatus {
            bootstrap_servers: self.source.bootstrap_servers.clone(),
            topics: self.source.topics.clone(),
            group: group.to_owned(),
            state,
            message,
            figures,
        }
    }
}

impl<W: World> Kafka<W> {
    /// Opens the feeds of all functions when it is started.
    #[must_use]
    pub fn new(
        feeds: W::Feeds,
        routes: Routes<W>,
        unregistered: Unregistered,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        Self { feeds, routes, unregistered, functions: HashMap::new(), looking: None, log, _monitor: monitor }
    }

    fn reconsider(&mut self, name: &FunctionName) {
        let route = self.routes.get(name.as_str());
        if route.is_none() {
            self.unregistered.names().remove(name);
        }
        let sources = route.map(|route| route.code.kafka()).unwrap_or_default();
        let mut old = self.functions.remove(name).unwrap_or_default();
        if sources.is_empty() {
            if !old.is_empty() {
                info!(self.log, "a function is no longer fed from Kafka"; "lambda" => %name);
            }
            return;
        }
        // What reads the same as before goes on reading; its records meet the new code.
        let triggers =
            sources.into_iter().map(|source| match old.iter().position(|old| old.source == source) {
                Some(at) => old.swap_remove(at),
                None => Trigger::new(source),
            });
        self.functions.insert(name.clone(), triggers.collect());
        // Those that are left over let go of their partitions before others take them.
        drop(old);
        if self.unregistered.names().contains(name) {
            self.stop(name);
        }
    }

    fn stop(&mut self, name: &FunctionName) {
        for trigger in self.functions.get_mut(name).into_iter().flatten() {
            trigger.feed = None;
            trigger.trouble.clear();
        }
    }

    /// Opens what is to be open and is not, and sees to it that somebody looks again.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let unregistered = self.unregistered.names().clone();
        let mut n_open = self.functions.values().flatten().filter(|trigger| trigger.feed.is_some()).count();
        for (name, triggers) in &mut self.functions {
            if unregistered.contains(name) {
                continue;
            }
            for trigger in triggers {
                if trigger.feed.as_ref().is_some_and(|feed| !feed.is_alive()) {
                    if let Some(feed) = trigger.feed.take() {
                        trigger.trouble = feed.figures().trouble;
                    }
                    n_open -= 1;
                    if now - trigger.opened > WELL_AFTER {
                        trigger.backoff.succeeded();
                    }
                    trigger.backoff.failed(now);
                    warn!(self.log, "a reader of Kafka has ended; it is started again";
                        "lambda" => %name, "topics" => trigger.source.topics.join(" "), "reason" => &trigger.trouble);
                }
                if trigger.feed.is_some() || trigger.backoff.waits_until(now).is_some() {
                    continue;
                }
                if n_open >= FEEDS_MAX {
                    trigger.trouble = format!("this worker reads for {FEEDS_MAX} triggers already");
                    continue;
                }
                match self.feeds.open(name, &trigger.source) {
                    Ok(feed) => {
                        info!(self.log, "a function is fed from Kafka";
                            "lambda" => %name, "topics" => trigger.source.topics.join(" "));
                        trigger.feed = Some(feed);
                        trigger.opened = now;
                        trigger.trouble.clear();
                        n_open += 1;
                    }
                    Err(trouble) => {
                        warn!(self.log, "cannot read from Kafka"; "lambda" => %name, "reason" => &trouble);
                        trigger.trouble = trouble;
                        trigger.backoff.failed(now);
                    }
                }
            }
        }
        if let Some(looking) = self.looking.take() {
            ctx.cancel_future(looking);
        }
        if !self.functions.is_empty() {
            self.looking = Some(ctx.run_later(LOOK_EVERY, Self::look));
        }
    }
}

impl<W: World> Actor for Kafka<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for route in self.routes.all() {
            self.reconsider(&route.name);
        }
        self.look(ctx);
    }
}

impl<W: World> Handler<Reconsider> for Kafka<W> {
    type Result = ();

    fn handle(&mut self, Reconsider { name }: Reconsider, ctx: &mut Context<Self>) {
        self.reconsider(&name);
        self.look(ctx);
    }
}

impl<W: World> Handler<Register> for Kafka<W> {
    type Result = usize;

    fn handle(&mut self, Register { name }: Register, ctx: &mut Context<Self>) -> usize {
        self.unregistered.names().remove(&name);
        self.reconsider(&name);
        self.look(ctx);
        self.functions.get(&name).map_or(0, Vec::len)
    }
}

impl<W: World> Handler<Unregister> for Kafka<W> {
    type Result = ();

    fn handle(&mut self, Unregister { name }: Unregister, _ctx: &mut Context<Self>) {
        // Nothing is remembered of names that are not there.
        if self.functions.contains_key(&name) {
            self.unregistered.names().insert(name.clone());
            self.stop(&name);
        }
    }
}

impl<W: World> Handler<AskKafka> for Kafka<W> {
    type Result = Triggers;

    fn handle(&mut self, _: AskKafka, _ctx: &mut Context<Self>) -> Self::Result {
        let all = self.functions.iter().map(|(name, triggers)| {
            let group = group(name);
            (name.clone(), triggers.iter().map(|trigger| trigger.status(&group)).collect())
        });
        Triggers(all.collect())
    }
}

impl<W: World> Handler<Close> for Kafka<W> {
    type Result = ();

    /// The feeds finish the record that they are at, and commit.
    fn handle(&mut self, _: Close, ctx: &mut Context<Self>) {
        self.functions.clear();
        ctx.stop();
    }
}

impl<W: World> Handler<Crash> for Kafka<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

/// The consumer group of a function, as OpenLambda names it.
#[must_use]
pub fn group(name: &FunctionName) -> String {
    format!("lambda-{name}")
}

#[cfg(test)]
mod tests;
