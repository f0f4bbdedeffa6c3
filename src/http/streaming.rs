//! An answer that is longer than one piece. The lease lives in it, and is checked in at the end.

use std::time::Duration;

use actors::pool::Lease;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::farewell::{self, Answer};
use crate::frame::{BrokenFrame, Kind};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;

/// See the module's text. Dropped before its end, it takes leave of the sandbox.
pub(super) struct Streaming {
    lease: Option<Lease<Sandbox>>,
    began: Instant,
    /// Between two pieces: a stream may go on for as long as it says something.
    runtime: Duration,
    invocation: u32,
    first: Option<Incoming>,
    /// Of the frame that was begun.
    n_rest: usize,
    more: bool,
}

impl Streaming {
    pub(super) fn new(lease: Lease<Sandbox>, began: Instant, runtime: Duration, answer: Incoming) -> Self {
        Self {
            lease: Some(lease),
            began,
            runtime,
            invocation: answer.header.invocation,
            n_rest: answer.n_rest,
            more: answer.header.more(),
            first: Some(answer),
        }
    }

    /// What the client gets. The server sees that it has `gone` only when there is something to be sent, and a stream may
    /// be silent for long.
    pub(super) fn pieces(
        self,
        gone: impl Future<Output = ()> + 'static,
    ) -> impl futures_util::Stream<Item = Result<Bytes, ChannelError>> {
        let gone = Box::pin(gone);
        futures_util::stream::unfold((self, gone), |(mut stream, mut gone)| async move {
            tokio::select! {
                biased;
                piece = stream.next() => Some((piece?, (stream, gone))),
                // Dropped, the stream takes leave of the sandbox.
                () = &mut gone => None,
            }
        })
    }

    /// Reads to the end, for nobody: for as long as a call may take.
    pub(super) async fn thrown_away(mut self) {
        let deadline = Instant::now() + self.runtime;
        while let Ok(Some(Ok(_))) = timeout_at(deadline, self.next()).await {}
    }

    async fn next(&mut self) -> Option<Result<Bytes, ChannelError>> {
        let piece = self.piece().await.transpose();
        match &piece {
            Some(Ok(_)) => {}
            // The connection is cut: the client sees that something is missing. Dropping the lease ends the sandbox, and counts an error.
            Some(Err(_)) => self.lease = None,
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.finish(self.began.elapsed());
                }
            }
        }
        piece
    }

    /// Given up while it waits, it has changed nothing.
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        let Some(lease) = self.lease.as_mut() else { return Ok(None) };
        // One for the whole piece: a header without its body is no sign of life.
        let deadline = Instant::now() + self.runtime;
        loop {
            if let Some(incoming) = self.first.take() {
                if incoming.header.failed() && incoming.header.kind == Kind::ResponseBody {
                    // Too late for another status: the client has to see that the answer is not whole.
                    return Err(BrokenFrame("the function failed amid its answer").into());
                }
                if !incoming.body.is_empty() {
                    return Ok(Some(incoming.body));
                }
            }
            let late = |_| ChannelError::Closed;
            if self.n_rest > 0 {
                let piece = timeout_at(deadline, lease.channel.rest(self.n_rest)).await.map_err(late)??;
                self.n_rest -= piece.len();
                return Ok(Some(piece));
            }
            if !self.more {
                return Ok(None);
            }
            let incoming = timeout_at(deadline, lease.channel.receive()).await.map_err(late)??;
            if incoming.header.kind != Kind::ResponseBody {
                return Err(BrokenFrame("no body where one was due").into());
            }
            self.n_rest = incoming.n_rest;
            self.more = incoming.header.more();
            self.first = Some(incoming);
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            farewell::begin(lease, self.invocation, Answer::after(self.n_rest, self.more));
        }
    }
}
