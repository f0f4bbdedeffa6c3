//! The way of a request that has a sandbox for itself.

use actix_web::HttpResponse;
use actors::pool::{Discard, Lease};
use tokio::time::{Instant, timeout_at};

use super::Call;
use super::heads::{INVOCATION_HEADER, NOT_HTTP, SERVER_TIMING, build, invocation_id};
use crate::frame::ResponseHead;
use crate::http::client;
use crate::http::error::HttpError;
use crate::http::farewell::{self, Answer};
use crate::http::upload::{Body, Rest};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;

impl Call<'_> {
    /// `body`: `None` when the request is in the sandbox already.
    pub(super) async fn exchange(
        &self,
        mut lease: Lease<Sandbox>,
        body: Option<Body<'_>>,
    ) -> Result<HttpResponse, HttpError> {
        let began = Instant::now();
        let deadline = began + self.runtime;
        let mut is_sent = body.is_none();
        let answer = tokio::select! {
            biased;
            answer = timeout_at(deadline, self.converse(&mut lease, body, &mut is_sent)) => answer,
            () = client::gone(self.asked.client) => {
                if is_sent {
                    let number = lease.channel.invocation();
                    farewell::begin(lease, number, Answer::default());
                } else {
                    // Amid a frame, perhaps.
                    lease.discard(Discard::ClientGone);
                }
                return Err(HttpError::ClientGone);
            }
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(Trouble::Channel(error))) => {
                let cause = lease.obituary(&error).await;
                lease.discard(Discard::Died);
                return Err(match error {
                    ChannelError::Broken(broken) => HttpError::Nonsense(broken.0.into()),
                    _ => HttpError::Died(cause),
                });
            }
            Ok(Err(Trouble::Request(error))) => {
                // The function has got half a request: no later one may be taken for its rest.
                if lease.is_asgi() {
                    let number = lease.channel.invocation();
                    farewell::begin(lease, number, Answer::default());
                } else {
                    lease.discard(Discard::Abandoned);
                }
                return Err(error);
            }
            Err(_) => {
                lease.discard(Discard::Timeout);
                return Err(HttpError::Deadline(self.runtime.as_secs()));
            }
        };
        if !answer.is_answer_to(Some(lease.channel.invocation())) {
            lease.discard(Discard::Abandoned);
            return Err(HttpError::Nonsense("an answer to another request".into()));
        }
        let head = match ResponseHead::parse(&answer.head) {
            Ok(head) => head,
            Err(broken) => {
                lease.discard(Discard::Abandoned);
                return Err(HttpError::Nonsense(broken.0.into()));
            }
        };
        let Some(mut begun) = build(head) else {
            // The function's own doing, and it is whole: only the answer is lost. The rest of it must not be
            // taken for the next one's, so the sandbox goes when there is a rest.
            if answer.is_whole() {
                lease.finish(began.elapsed());
            } else {
                lease.discard(Discard::Abandoned);
            }
            return Err(HttpError::Nonsense(NOT_HTTP.into()));
        };
        begun
            .response
            .insert_header((INVOCATION_HEADER, invocation_id(lease.id(), answer.header.invocation)));
        begun.response.append_header((SERVER_TIMING, self.timing.tell(began.elapsed(), self.stats)));
        if answer.header.failed() {
            lease.count_error();
        }
        if answer.is_whole() {
            lease.finish(began.elapsed());
            return Ok(begun.with(answer.body));
        }
        Ok(self.stream(begun, lease, began, answer))
    }

    /// Sends the request and waits for the answer to begin.
    /// `is_sent`: whether all of the request is in the sandbox.
    async fn converse(
        &self,
        sandbox: &mut Sandbox,
        body: Option<Body<'_>>,
        is_sent: &mut bool,
    ) -> Result<Incoming, Trouble> {
        let Some(body) = body else { return Ok(sandbox.channel.receive().await?) };
        let head = self.head_for(sandbox).map_err(Trouble::Request)?;
        sandbox.channel.send_request(&head, &body.first, body.rest.is_some()).await?;
        if let Some(rest) = body.rest {
            send_rest(sandbox, rest).await?;
        }
        *is_sent = true;
        Ok(sandbox.channel.receive().await?)
    }
}

/// A function that answers before it has got everything does not want the rest.
async fn send_rest(sandbox: &mut Sandbox, mut rest: Rest<'_>) -> Result<(), Trouble> {
    loop {
        let piece = tokio::select! {
            piece = rest.next() => piece.map_err(Trouble::Request)?,
            answered = sandbox.channel.readable() => {
                answered?;
                let number = sandbox.channel.invocation();
                return Ok(sandbox.channel.cancel(number).await?);
            }
        };
        match piece {
            Some(piece) => sandbox.channel.send_body(&piece, true).await?,
            None => return Ok(sandbox.channel.send_body(&[], false).await?),
        }
    }
}

/// What can end a conversation.
enum Trouble {
    Channel(ChannelError),
    Request(HttpError),
}

impl From<ChannelError> for Trouble {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}
