//! When a client has gone amid its call. A function that can be told is told, and its sandbox stays if it then comes to
//! an end of the call; of any other nothing is known but that it runs for nobody, so its sandbox is ended.

use std::time::Duration;

use actors::pool::{Discard, Lease};
use tokio::time::{Instant, timeout};

use crate::frame::{BrokenFrame, Kind};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;

/// How long a function may take over the end of a call that nobody waits for. Its sandbox is nobody else's meanwhile; a
/// new one takes some milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How much of an answer there has been.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Answer {
    has_begun: bool,
    /// Bytes of the frame that was begun.
    n_rest: usize,
    more: bool,
}

impl Answer {
    /// What comes after this.
    pub(super) fn under_way(incoming: &Incoming) -> Self {
        Self::after(incoming.n_rest, incoming.header.more())
    }

    /// It has begun, and so many bytes of a frame are missing, and further frames if there is `more`.
    pub(super) fn after(n_rest: usize, more: bool) -> Self {
        Self { has_begun: true, n_rest, more }
    }
}

/// Tells the function, and sees the call to its end, on a task of its own.
pub(super) fn begin(mut lease: Lease<Sandbox>, invocation: u32, answer: Answer) {
    if !lease.is_asgi() {
        lease.discard(Discard::ClientGone);
        return;
    }
    actix_web::rt::spawn(async move {
        let began = Instant::now();
        let ended = timeout(PATIENCE, async {
            lease.channel.cancel(invocation).await?;
            see_to_the_end(&mut lease, invocation, answer).await
        });
        match ended.await {
            Ok(Ok(())) => lease.finish(began.elapsed()),
            Ok(Err(_)) => lease.discard(Discard::Died),
            Err(_) => lease.discard(Discard::ClientGone),
        }
    });
}

/// Reads what is left of an answer, for nobody.
pub(super) async fn see_to_the_end(
    sandbox: &mut Sandbox,
    invocation: u32,
    mut answer: Answer,
) -> Result<(), ChannelError> {
    loop {
        if answer.n_rest > 0 {
            answer.n_rest -= sandbox.channel.rest(answer.n_rest).await?.len();
        } else if answer.has_begun && !answer.more {
            return Ok(());
        } else {
            let incoming = sandbox.channel.receive().await?;
            let is_due = match incoming.header.kind {
                Kind::Response => !answer.has_begun,
                Kind::ResponseBody => answer.has_begun,
                // Of a WebSocket; these come before the end.
                Kind::SocketMessage | Kind::SocketClose => {
                    answer.n_rest = incoming.n_rest;
                    continue;
                }
                _ => false,
            };
            if !is_due || incoming.header.invocation != invocation {
                return Err(BrokenFrame("an answer to another request").into());
            }
            answer = Answer::under_way(&incoming);
        }
    }
}
