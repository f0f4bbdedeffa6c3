//! Where a request runs: in a seat behind others, in a sandbox that is free, or in one that is made for it.

use actors::pool::{Asker, Lease, Leasing, Ticket};
use actors::router::Route;
use tokio::time::Instant;

use super::Call;
use crate::frame::{HEADER_BYTES, PACKET_BYTES_MAX};
use crate::http::error::HttpError;
use crate::http::first::{self, Opened, Unopened};
use crate::http::lane::{self, Seat, Sent};
use crate::http::upload::Body;
use crate::http::{App, client};
use crate::sandbox::launcher::{Origin, Sandbox};
use crate::world::OlWorld;

/// How often a request that has not begun is sent to another sandbox: once because a call before it was long, and some
/// times because the sandbox was dead, which is seen before from the second time on.
pub(super) const ATTEMPTS_MAX: usize = 5;
/// How often of these it may stand behind others.
const JOINS_MAX: usize = 2;

/// Where a request runs.
pub(in crate::http) enum Place {
    /// It has been sent.
    Seat(Seat),
    /// It is too long for a seat.
    Alone(Box<Lease<Sandbox>>),
    /// It has been sent, to a sandbox that was made for it.
    Made(Box<Lease<Sandbox>>),
}

/// A place, and how it was had.
struct Placed {
    place: Place,
    has_waited: bool,
    /// Where the sandbox comes from, if it was made for this request.
    origin: Option<Origin>,
}

/// What came of sending a request to a sandbox that was just leased.
enum Begun {
    Seat(Lease<Sandbox>, u32),
    TooLong(Lease<Sandbox>),
    /// It takes none.
    Dead(Lease<Sandbox>),
}

impl Call<'_> {
    /// A place for a request with this body, and the time that it took. `attempt`: how often it was sent before.
    pub(in crate::http) async fn find_place(
        &mut self,
        app: &App,
        route: &Route<OlWorld>,
        body: &Body<'_>,
        attempt: usize,
    ) -> Result<Place, HttpError> {
        let waited_from = Instant::now();
        let Placed { place, has_waited, origin } = self.place(app, route, body, attempt).await?;
        let waited = waited_from.elapsed();
        app.stats.wait_sandbox.add(waited);
        if has_waited {
            self.timing.waited += waited;
        }
        self.timing.origin = origin;
        Ok(place)
    }

    async fn place(
        &self,
        app: &App,
        route: &Route<OlWorld>,
        body: &Body<'_>,
        attempt: usize,
    ) -> Result<Placed, HttpError> {
        let pool = &route.pool;
        let is_short = body.rest.is_none() && !self.is_socket;
        let short = is_short.then_some(&body.first[..]);
        let send = |sandbox: &mut Sandbox| self.send(sandbox, short.unwrap_or_default());
        let may_join = attempt < JOINS_MAX && short.is_some();
        let mut n_stillborn = 0;
        if may_join && let Some(seat) = lane::join(pool, &send) {
            return Ok(Placed { place: Place::Seat(seat?), has_waited: false, origin: None });
        }
        loop {
            let (mut lease, has_waited, is_sent) = match pool.lease_unseen(Asker::here(lane::has_one(pool))) {
                Leasing::Ready(lease) => (lease, false, false),
                Leasing::Queued(ticket) => match self.make(app, route, ticket, body).await? {
                    Ok(Opened { lease, is_sent }) => (lease, true, is_sent),
                    Err(ticket) => tokio::select! {
                        biased;
                        lease = ticket => (lease?, true, false),
                        seat = lane::wait_for_seat(pool, &send), if may_join => {
                            return Ok(Placed { place: Place::Seat(seat?), has_waited: true, origin: None });
                        }
                        () = client::gone(self.asked.client) => return Err(HttpError::ClientGone),
                    },
                },
                Leasing::Refused(refusal) => return Err(refusal.into()),
            };
            // One that has served has been somebody else's.
            let n_sent = u32::from(is_sent);
            let origin = lease.origin.take().filter(|_| has_waited && lease.channel.invocation() == n_sent);
            if is_sent {
                return Ok(Placed { place: Place::Made(Box::new(lease)), has_waited, origin });
            }
            let place = match self.begin(lease, short, attempt == 0)? {
                Begun::Seat(lease, number) => Place::Seat(Seat::first(pool, lease, number)),
                Begun::TooLong(lease) => Place::Alone(Box::new(lease)),
                Begun::Dead(lease) => {
                    // Those that lie idle may all be dead, and are as many as they are. New ones are made without end for a
                    // function that closes its socket.
                    n_stillborn += usize::from(has_waited && lease.channel.invocation() == 0);
                    lease.bury();
                    if n_stillborn == ATTEMPTS_MAX {
                        return Err(HttpError::Died("its new sandboxes take no requests".into()));
                    }
                    continue;
                }
            };
            return Ok(Placed { place, has_waited, origin });
        }
    }

    /// A sandbox that this call makes itself, or a place in the queue if it is not to.
    async fn make(
        &self,
        app: &App,
        route: &Route<OlWorld>,
        ticket: Ticket<Sandbox>,
        body: &Body<'_>,
    ) -> Result<Result<Opened, Ticket<Sandbox>>, HttpError> {
        let first = match app.tree.at_hand.take(route, ticket) {
            Ok(first) => first,
            Err(ticket) => return Ok(Err(ticket)),
        };
        match first::open(app, self, &route.code, first, body).await {
            Ok(opened) => Ok(Ok(opened)),
            Err(Unopened::Error(error)) => Err(error),
            Err(Unopened::NotNow) => match route.pool.lease() {
                Leasing::Ready(lease) => Ok(Ok(Opened { lease, is_sent: false })),
                Leasing::Queued(ticket) => Ok(Err(ticket)),
                Leasing::Refused(refusal) => Err(refusal.into()),
            },
        }
    }

    /// A sandbox is there. Without a body, or from the second attempt on, it has to be seen to live.
    fn begin(&self, mut lease: Lease<Sandbox>, body: Option<&[u8]>, first: bool) -> Result<Begun, HttpError> {
        if !first && !lease.is_alive() {
            return Ok(Begun::Dead(lease));
        }
        let sent = match body {
            Some(body) => self.send(&mut lease, body),
            None => Ok(Sent::TooLong),
        };
        match sent {
            Ok(Sent::As(number)) => Ok(Begun::Seat(lease, number)),
            Ok(Sent::TooLong) if lease.is_alive() => Ok(Begun::TooLong(lease)),
            Ok(Sent::TooLong | Sent::NoRoom) => Ok(Begun::Dead(lease)),
            Err(error) => {
                lease.give_back();
                Err(error)
            }
        }
    }

    /// Sends the request if it is one packet.
    fn send(&self, sandbox: &mut Sandbox, body: &[u8]) -> Result<Sent, HttpError> {
        let head = self.head_for(sandbox)?;
        if HEADER_BYTES + head.len() + body.len() > PACKET_BYTES_MAX {
            return Ok(Sent::TooLong);
        }
        Ok(match sandbox.channel.try_send_request(&head, body, lane::is_crowded()) {
            Ok(true) => Sent::As(sandbox.channel.invocation()),
            Ok(false) | Err(_) => Sent::NoRoom,
        })
    }
}
