//! Standbys: made for those who wait, then for the shelves.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::warn;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{
    Customer, ON_DEMAND_MAX, PREPARE_TIME_MAX, QUEUE_LENGTH_MAX, QUEUE_WAIT_MAX, StandbyKind, URGENT_MAX,
    Zygotes,
};
use crate::haste::Haste;
use crate::shelves::Wanted;
use crate::tree::{Best, NodeId};
use crate::world::{Class, LaunchError, Launcher, LocalFuture, Start, World, Zygote};

impl<W: World> Zygotes<W> {
    /// Prepare for those who wait, then for the shelves, as many at once as may be.
    pub(super) fn work(&mut self, ctx: &mut Context<Self>) {
        while self.making.len() < ON_DEMAND_MAX {
            let Some(kind) = self.unattended() else { break };
            self.make(kind, Haste::waited_for(), ctx);
        }
        self.hurry();
        self.refill(ctx);
    }

    /// What was begun ahead of time, and is waited for by now.
    fn hurry(&self) {
        for (kind, queue) in &self.queues {
            let of_kind = self.making.iter().filter(|(made, _)| made == kind);
            of_kind.take(queue.len()).for_each(|(_, haste)| haste.hurry());
        }
    }

    /// What the one who has waited longest waits for, of those for whom none is being made.
    fn unattended(&mut self) -> Option<StandbyKind> {
        let now = Instant::now();
        for queue in self.queues.values_mut() {
            while let Some(customer) = queue.front() {
                let late = customer.deadline <= now;
                if !late && !customer.reach.is_closed() {
                    break;
                }
                let Some(customer) = queue.pop_front() else { break };
                self.n_waiting -= 1;
                if late {
                    let late = LaunchError::Resources("no standby became ready in time".into());
                    let _ = customer.reach.send(Err(late));
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.queues
            .iter()
            .filter_map(|(kind, queue)| {
                let first = queue.get(self.standbys.n_making_of(kind))?;
                Some((first.number, *kind))
            })
            .min_by_key(|(number, _)| *number)
            .map(|(_, kind)| kind)
    }

    fn make(&mut self, kind: StandbyKind, haste: Haste, ctx: &mut Context<Self>) {
        let Some(parent) = self.parent_of(kind) else { return };
        let number = parent.as_ref().map(|parent| parent.number);
        self.standbys.begin(&kind);
        self.making.push((kind, haste.clone()));
        let made = self.prepare(kind.class, parent.map(|parent| parent.zygote), haste.clone());
        ctx.spawn(made.into_actor(self).map(move |made, zygotes, ctx| {
            zygotes.standbys.end(&kind);
            zygotes.making.retain(|(_, other)| !other.is(&haste));
            if let Some(number) = number {
                zygotes.forest.lock().forked(kind.node, number, made.is_ok());
            }
            match made {
                Ok(standby) => {
                    zygotes.refill_pause.succeeded();
                    if kind.node != NodeId::ROOT {
                        zygotes.stats.package_zygote_forks.bump();
                    }
                    zygotes.deliver(kind, standby);
                }
                // Those who wait import for themselves. What is out of something now will be so for the root as well.
                Err(error) if kind.node != NodeId::ROOT && !matches!(error, LaunchError::Resources(_)) => {
                    if let Some(number) = number {
                        zygotes.give_up_zygote(kind.node, number);
                    }
                }
                Err(error) => {
                    zygotes.refill_pause.failed(Instant::now());
                    zygotes.fall_back(kind);
                    if kind.node == NodeId::ROOT {
                        zygotes.refuse_next(kind, &error);
                    }
                }
            }
            zygotes.work(ctx);
        }));
    }

    /// What standbys of this kind are forked from: `Some(None)` is the root. `None`: its zygotes are dead, and who waits for one
    /// waits for another kind by now.
    #[expect(clippy::option_option, reason = "no zygote is needed, or none is there")]
    fn parent_of(&mut self, kind: StandbyKind) -> Option<Option<Best<W::Zygote>>> {
        if kind.node == NodeId::ROOT {
            return Some(None);
        }
        loop {
            let parent = self.forest.lock().fork(kind.node);
            match parent {
                Some(parent) if parent.zygote.is_alive() => return Some(Some(parent)),
                Some(parent) => self.give_up_zygote(kind.node, parent.number),
                None => {
                    self.give_up_kinds_of(kind.node);
                    return None;
                }
            }
        }
    }

    fn refuse_next(&mut self, kind: StandbyKind, error: &LaunchError) {
        while let Some(customer) = self.next_customer(kind) {
            if customer.reach.send(Err(error.clone())).is_ok() {
                break;
            }
        }
    }

    /// Who waits for one of these gets one without packages, and keeps the place in the queue.
    pub(super) fn fall_back(&mut self, kind: StandbyKind) {
        if kind.node == NodeId::ROOT {
            return;
        }
        let Some(moved) = self.queues.remove(&kind) else { return };
        let queue = self.queues.entry(StandbyKind::plain(kind.class)).or_default();
        queue.extend(moved);
        queue.make_contiguous().sort_by_key(|customer| customer.number);
    }

    /// To the one who has waited longest; if nobody waits, or all have gone, onto the shelf.
    fn deliver(&mut self, kind: StandbyKind, standby: W::Standby) {
        let mut ready = (standby, Start::Forked);
        while let Some(customer) = self.next_customer(kind) {
            match customer.reach.send(Ok(ready)) {
                Err(Ok(again)) => ready = again,
                _ => return,
            }
        }
        self.standbys.stock(&kind, ready.0);
    }

    fn next_customer(&mut self, kind: StandbyKind) -> Option<Customer<W::Standby>> {
        let Entry::Occupied(mut queue) = self.queues.entry(kind) else { return None };
        let customer = queue.get_mut().pop_front();
        if queue.get().is_empty() {
            queue.remove();
        }
        self.n_waiting -= usize::from(customer.is_some());
        customer
    }

    fn prepare(
        &self,
        class: Class,
        zygote: Option<W::Zygote>,
        haste: Haste,
    ) -> impl Future<Output = Result<W::Standby, LaunchError>> + use<W> {
        let made = self.launcher.prepare(class, zygote, haste);
        let stats = Arc::clone(&self.stats);
        let log = self.log.clone();
        async move {
            let made = match tokio::time::timeout(PREPARE_TIME_MAX, made).await {
                Ok(made) => made,
                Err(_) => {
                    Err(LaunchError::Failed(format!("no standby after {} s", PREPARE_TIME_MAX.as_secs())))
                }
            };
            match &made {
                Ok(_) => stats.standbys_prepared.bump(),
                Err(error) => {
                    stats.prepares_failed.bump();
                    warn!(log, "failed to prepare a standby"; "error" => %error);
                }
            }
            made
        }
    }

    /// Bring the shelves nearer to their targets, unless something more urgent is under way.
    pub(super) fn refill(&mut self, ctx: &mut Context<Self>) {
        if self.closed || self.n_waiting > 0 {
            return;
        }
        let now = Instant::now();
        let wait = self.refill_pause.waits_until(now).max(self.not_before.filter(|then| *then > now));
        while let Some(Wanted { key, urgent }) = self.standbys.wanted() {
            if let Some(then) = wait {
                self.refill_later(then - now, ctx);
                return;
            }
            if self.standbys.n_making() >= if urgent { URGENT_MAX } else { 1 } {
                return;
            }
            self.make(key, Haste::none(), ctx);
        }
    }

    fn refill_later(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if self.next_refill.is_none() {
            self.next_refill = Some(ctx.run_later(pause, |zygotes, ctx| {
                zygotes.next_refill = None;
                zygotes.refill(ctx);
            }));
        }
    }

    /// A standby that lies ready, or the next one that is made for whoever has waited longest.
    pub(super) fn standby(
        &mut self,
        kind: StandbyKind,
        ctx: &mut Context<Self>,
    ) -> LocalFuture<Result<(W::Standby, Start), LaunchError>> {
        if let Some(standby) = self.standbys.demand(&kind) {
            self.refill(ctx);
            return Box::pin(async { Ok((standby, Start::Standby)) });
        }
        if self.n_waiting >= QUEUE_LENGTH_MAX {
            return Box::pin(async {
                Err(LaunchError::Resources("too many sandboxes are being made".into()))
            });
        }
        let (reach, answer) = oneshot::channel();
        self.n_customers += 1;
        let customer =
            Customer { number: self.n_customers, deadline: Instant::now() + QUEUE_WAIT_MAX, reach };
        self.queues.entry(kind).or_default().push_back(customer);
        self.n_waiting += 1;
        self.work(ctx);
        Box::pin(async {
            answer
                .await
                .unwrap_or_else(|_| Err(LaunchError::Failed("the zygotes are being restarted".into())))
        })
    }
}
