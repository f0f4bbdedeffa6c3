//! The way of a request that has a seat in a lane, maybe behind others.

use actix_web::HttpResponse;
use actors::pool::{Discard, SharedPool};
use tokio::time::Instant;

use super::Call;
use super::heads::{Begun, INVOCATION_HEADER, NOT_HTTP, SERVER_TIMING, build, invocation_id};
use crate::frame::{BrokenFrame, ResponseHead};
use crate::http::breaking_off::breaking_off;
use crate::http::client;
use crate::http::error::HttpError;
use crate::http::lane::{Kept, Seat, Unanswered};
use crate::sandbox::channel::ChannelError;
use crate::sandbox::launcher::Sandbox;

impl Call<'_> {
    /// The way of a request that was sent. `None`: it has not begun, and may run elsewhere.
    pub(super) async fn take_part(
        &mut self,
        mut seat: Seat,
        pool: &SharedPool<Sandbox>,
    ) -> Result<Option<HttpResponse>, HttpError> {
        let sent = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = seat.answer(self.runtime) => answer,
            () = client::gone(self.asked.client) => {
                seat.client_gone();
                return Err(HttpError::ClientGone);
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(unanswered) => return self.unanswered(unanswered),
        };
        let head = match ResponseHead::parse(&answer.head) {
            Ok(head) => head,
            Err(broken) => {
                seat.give_up(Discard::Abandoned);
                return Err(HttpError::Nonsense(broken.0.into()));
            }
        };
        let Some(mut begun) = build(head) else {
            // As in `exchange`.
            if answer.is_whole() {
                seat.finish(pool);
            } else {
                seat.give_up(Discard::Abandoned);
            }
            return Err(HttpError::Nonsense(NOT_HTTP.into()));
        };
        let (id, number) = seat.invocation();
        begun.response.insert_header((INVOCATION_HEADER, invocation_id(id, number)));
        let handler = seat.front_since().elapsed();
        self.timing.waited += sent.elapsed().saturating_sub(handler);
        begun.response.append_header((SERVER_TIMING, self.timing.tell(handler, self.stats)));
        if answer.header.failed() {
            seat.count_error();
        }
        if answer.is_whole() {
            seat.finish(pool);
            return Ok(Some(begun.with(answer.body)));
        }
        if let Some((lease, began)) = seat.alone() {
            return Ok(Some(self.stream(begun, lease, began, answer)));
        }
        match seat.rest(answer, self.runtime).await {
            Ok(kept) => {
                if kept.broke_off {
                    seat.count_error();
                }
                seat.finish(pool);
                Ok(Some(self.whole(begun, kept)))
            }
            // It has begun, so it is not run again.
            Err(Unanswered::TakenBack) => Err(HttpError::Died("it ended amid its answer".into())),
            Err(unanswered) => self.unanswered(unanswered),
        }
    }

    /// An answer that was long and is in memory.
    fn whole(&self, mut begun: Begun, kept: Kept) -> HttpResponse {
        if !begun.may_have_body {
            return begun.response.finish();
        }
        let broken = BrokenFrame("the function failed amid its answer");
        // Too late for another status: the client has to see that the answer is not whole.
        let end = kept.broke_off.then_some(Err(ChannelError::from(broken)));
        let pieces = futures_util::stream::iter(kept.pieces.into_iter().map(Ok).chain(end));
        begun.response.streaming(breaking_off(pieces, self.progress()))
    }

    fn unanswered(&self, unanswered: Unanswered) -> Result<Option<HttpResponse>, HttpError> {
        match unanswered {
            Unanswered::TakenBack => Ok(None),
            Unanswered::Late => Err(HttpError::Deadline(self.runtime.as_secs())),
            Unanswered::Died(cause) => Err(HttpError::Died(cause)),
            Unanswered::Nonsense(broken) => Err(HttpError::Nonsense(broken.0.into())),
        }
    }
}
