//! From a standby that has been given a function's code to a sandbox that serves it.

use std::time::{Duration, Instant};

use actors::name::FunctionName;
use actors::world::{LaunchError, Start};

use super::Program;
use super::orders::{Answer, Ready, receive_ready};
use super::sandbox::Sandbox;
use crate::frame::Kind;
use crate::sandbox::channel::{Channel, ChannelError};
use crate::sandbox::logs::Naming;
use crate::sandbox::process::Process;

/// How a sandbox came to be, and how long each step took that a request waited for.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// What it was made from.
    pub start: Start,
    /// Its packages.
    pub install: Duration,
    /// The shell; nothing if it was there.
    pub shell: Duration,
    /// The fork; nothing if it was there.
    pub fork: Duration,
    /// The function's code.
    pub import: Duration,
}

/// Whose output it is that a new sandbox prints: kept in its pipe until this is told. It wakes up a thread, so
/// nobody who waits should have to wait for it.
#[derive(Debug)]
pub struct Output {
    pub(super) naming: Naming,
    pub(super) name: FunctionName,
}

impl Output {
    /// Have it written to the function's log.
    pub fn follow(self) {
        self.naming.assign(self.name);
    }
}

/// A standby that can be told to load its function's code.
#[derive(Debug)]
pub struct Loading {
    pub(super) channel: Channel,
    pub(super) process: Process,
    pub(super) naming: Naming,
    pub(super) program: Program,
    pub(super) origin: Origin,
    /// What it is told: to load, or as a fork of one that has, to renew itself.
    pub(super) kind: Kind,
}

impl Loading {
    /// Has the code loaded, and gives with the order, if there is one, the first request: its head and its body, both
    /// so short that the socket takes them. Its answer follows. `told` is called as soon as the sandbox is at work; what
    /// it prints fills its pipe until `told` has it followed.
    ///
    /// # Errors
    /// [`LaunchError::Load`] with a text for the function's author when the code cannot be loaded.
    pub async fn load(
        self,
        request: Option<(&[u8], &[u8])>,
        told: impl FnOnce(Output),
    ) -> Result<Sandbox, LaunchError> {
        let Self { mut channel, process, naming, program, mut origin, kind } = self;
        let order = program.order(kind)?;
        let began = Instant::now();
        let exchange = async {
            match request {
                Some((head, body)) => channel.send_load(&order, head, body).await?,
                None => channel.send(kind, &order).await?,
            }
            // What it prints is kept until somebody reads it. Nobody waits for that, and it costs a wake-up.
            told(Output { naming, name: program.name.clone() });
            receive_ready(&mut channel).await
        };
        let ready = loaded(exchange, &process, program.load_patience).await?;
        origin.import = began.elapsed();
        Ok(Sandbox {
            channel,
            origin: Some(origin),
            process,
            wants_head: ready.head,
            is_asgi: ready.entry == "asgi",
            wants_end: ready.end,
            is_frozen: false,
            _holds: program.holds,
        })
    }
}

/// What came of an order to load.
pub(super) async fn loaded(
    exchange: impl Future<Output = Result<Answer, ChannelError>>,
    process: &Process,
    patience: Duration,
) -> Result<Ready, LaunchError> {
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(Answer::Ready(ready))) => Ok(ready),
        Ok(Ok(Answer::LoadFailed(text))) => Err(LaunchError::Load(text)),
        Ok(Err(error)) => {
            let cause = process.obituary(&error).await;
            Err(LaunchError::Load(format!("the sandbox died while the function was loaded: {cause}")))
        }
        Err(_) => Err(LaunchError::Load(format!(
            "the function was not loaded within {} s: what it does when it is imported takes too long",
            patience.as_secs()
        ))),
    }
}
