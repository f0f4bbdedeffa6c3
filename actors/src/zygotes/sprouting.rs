//! Zygotes of lambdas: a function's sandboxes are forked from its own, once it has one.

use actix::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture, fut};
use slog::{info, warn};
use tokio::time::Instant;

use super::{
    Acquire, Acquired, Forkability, Loaded, PREPARE_TIME_MAX, SPROUT_TIME_MAX, StandbyKind, Zygotes,
};
use crate::tree::NodeId;
use crate::world::{Code, LaunchError, Launcher, Network, World, Zygote};

impl<W: World> Handler<Acquire<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Result<Acquired<W>, LaunchError>>;

    fn handle(
        &mut self,
        Acquire { name, generation, code, packages }: Acquire<W>,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.closed {
            return Box::pin(fut::err(LaunchError::Resources("the worker is shutting down".into())));
        }
        let class = code.class();
        let zygote = self.lambdas.find(&name, generation, Instant::now()).filter(Zygote::is_alive);
        let best = self.best(&packages, class);
        let kind = StandbyKind { class, node: best.map_or(NodeId::ROOT, |best| best.node) };
        let Some(zygote) = zygote else {
            self.forest.lock().used(kind.node, &packages, class.network == Network::Host, Instant::now());
            let standby = self.standby(kind, ctx);
            return Box::pin(
                standby
                    .into_actor(self)
                    .map(|standby, _, _| standby.map(|(standby, start)| Acquired::Standby(standby, start))),
            );
        };
        let made = tokio::time::timeout(PREPARE_TIME_MAX, self.launcher.spawn(name.clone(), zygote, code));
        Box::pin(made.into_actor(self).then(
            move |made, zygotes: &mut Self, ctx: &mut Context<Self>| -> Self::Result {
                let error = match made {
                    Ok(Ok(sandbox)) => {
                        zygotes.stats.lambda_zygote_forks.bump();
                        return Box::pin(fut::ok(Acquired::Sandbox(sandbox)));
                    }
                    Ok(Err(error)) => error,
                    Err(_) => LaunchError::Failed(format!("no fork after {} s", PREPARE_TIME_MAX.as_secs())),
                };
                // Then as if there were none. What is out of something now will be so for a standby as well.
                warn!(zygotes.log, "failed to fork a lambda's zygote"; "lambda" => %name, "error" => %error);
                if !matches!(error, LaunchError::Resources(_)) {
                    zygotes.lambdas.failed(&name, generation, Instant::now());
                }
                let standby = zygotes.standby(kind, ctx).into_actor(zygotes);
                Box::pin(
                    standby.map(|standby, _, _| {
                        standby.map(|(standby, start)| Acquired::Standby(standby, start))
                    }),
                )
            },
        ))
    }
}

impl<W: World> Handler<Loaded<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Forkability>;

    fn handle(
        &mut self,
        Loaded { name, generation, code, packages, took }: Loaded<W>,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        let class = code.class();
        if !self.closed && self.config.import_cache {
            let is_news = self.forest.lock().loaded(&packages, class.network == Network::Host, took);
            if is_news {
                self.fit_soon(ctx);
            }
        }
        if self.closed || !self.lambdas.loaded(&name, generation, took, code.reuse(), Instant::now()) {
            return Box::pin(fut::ready(self.lambdas.forkability(&name, generation)));
        }
        let parent = self.best(&packages, class).map(|best| best.zygote);
        let sprouted = self.launcher.sprout(name.clone(), code, packages, parent);
        let made = tokio::time::timeout(SPROUT_TIME_MAX, sprouted);
        Box::pin(made.into_actor(self).map(move |made, zygotes: &mut Self, _ctx| {
            let late = || LaunchError::Failed(format!("not loaded after {} s", SPROUT_TIME_MAX.as_secs()));
            let made = made.unwrap_or_else(|_| Err(late()));
            match &made {
                Ok(_) => {
                    zygotes.stats.lambda_zygotes_started.bump();
                    info!(zygotes.log, "started a lambda's zygote"; "lambda" => %name, "load_ms" => took.as_millis());
                }
                Err(LaunchError::Unsupported(reason)) => {
                    info!(zygotes.log, "a lambda gets no zygote"; "lambda" => %name, "reason" => reason);
                }
                Err(error) => {
                    warn!(zygotes.log, "failed to start a lambda's zygote"; "lambda" => %name, "error" => %error);
                }
            }
            // Meanwhile there may have come new code, or the end; then it goes again.
            let unwanted = zygotes.lambdas.sprouted(&name, generation, made, Instant::now());
            drop(unwanted);
            zygotes.lambdas.forkability(&name, generation)
        }))
    }
}
