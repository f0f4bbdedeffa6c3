//! The way of an invocation: admit, read, lease, send, answer, check in.
//!
//! The thread that took the request moves the bytes itself; no actor is asked for anything on the way
//! of a warm call. A lease is given back on every path: by `finish`, or by being dropped, which destroys
//! the sandbox. That is what happens when the client goes away (the server drops this future), when the
//! deadline passes, and when a sandbox talks nonsense.
//!
//! A request that fits into one packet takes a seat in a [`lane`], maybe behind others; a longer one has a
//! sandbox for itself.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use actors::name::FunctionName;
use actors::pool::{Asker, Discard, Lease, Leasing, SharedPool, Ticket};
use actors::router::{Resolve, ResolveError, Route};
use tokio::time::{Instant, timeout_at};

use super::error::HttpError;
use super::farewell::{self, Answer};
use super::first::{self, Opened, Unopened};
use super::lane::{self, Kept, Seat, Sent, Unanswered};
use super::patience::patient;
use super::socket;
use super::streaming::Streaming;
use super::timing::Timing;
use super::upload::{Body, Rest, Unread, answered};
use super::{App, client};
use crate::frame::{BrokenFrame, HEADER_BYTES, HeadError, PACKET_BYTES_MAX, ResponseHead, push_line};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::{Origin, Sandbox};
use crate::stats::Stats;
use crate::world::OlWorld;

/// Headers that are about one connection, and so not the function's to see or to say (RFC 9110, 7.6.1).
pub(super) const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// How often a request that has not begun is sent to another sandbox: once because a call before it was long, and some
/// times because the sandbox was dead, which is seen before from the second time on.
const ATTEMPTS_MAX: usize = 5;
/// How often of these it may stand behind others.
const JOINS_MAX: usize = 2;
/// How long a call of a new function waits for its packages: as long as one run of the installer may take by default. Clients give up
/// sooner, most of them after a minute or two, and what was begun for them goes on.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether they are there.
const INSTALL_LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many calls may wait like this. One that waits costs as much as its connection.
pub const INSTALL_WAITERS_MAX: usize = 1_024;
/// What the function said of its answer.
pub(super) const NOT_HTTP: &str = "a status or a header that HTTP does not allow";
/// Which sandbox and which of its invocations: what the function's log lines begin with.
pub(super) const INVOCATION_HEADER: &str = "x-ol-invocation";
/// What the time went into, as the W3C has it.
const SERVER_TIMING: &str = "server-timing";

/// `/run/<name>[/path][?query]`, any method.
pub(super) async fn run(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let mut unread = Some(payload);
    let result = invoke(&request, &mut unread, &app, "/run/").await;
    answered(result.unwrap_or_else(|error| error.response()), unread)
}

/// `POST /runLambda/<name>`, as OpenLambda had it from 2016 to 2018, for pages of any origin.
pub(super) async fn run_lambda(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let mut unread = Some(payload);
    let result = invoke(&request, &mut unread, &app, "/runLambda/").await;
    let mut response = result.unwrap_or_else(|error| error.response());
    allow_all_origins(response.headers_mut());
    answered(response, unread)
}

/// `OPTIONS /runLambda/<name>`.
pub(super) async fn run_lambda_options() -> HttpResponse {
    let mut response = HttpResponse::Ok().finish();
    allow_all_origins(response.headers_mut());
    response
}

fn allow_all_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, PUT, POST, DELETE, OPTIONS"),
        (
            "access-control-allow-headers",
            "Content-Type, Content-Range, Content-Disposition, Content-Description, X-Requested-With",
        ),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// The function's name and what stands behind it, still percent-encoded and beginning with `/`.
///
/// # Errors
/// When it is no name; a percent sign is none either, so an encoded slash never becomes one.
pub(super) fn split_path<'a>(
    path: &'a str,
    prefix: &'static str,
) -> Result<(FunctionName, &'a str), HttpError> {
    let rest = path.strip_prefix(prefix).ok_or(HttpError::NoName(prefix))?;
    let (name, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if name.is_empty() {
        return Err(HttpError::NoName(prefix));
    }
    Ok((name.parse()?, if below.is_empty() { "/" } else { below }))
}

async fn invoke(
    request: &HttpRequest,
    unread: &mut Unread,
    app: &App,
    prefix: &'static str,
) -> Result<HttpResponse, HttpError> {
    let started = Instant::now();
    let (name, below) = split_path(request.uri().path(), prefix)?;
    let mut timing = Timing::default();
    let route = match app.tree.routes.get(name.as_str()) {
        Some(route) => route,
        None => {
            let route = find_in_time(app, &name, request).await?;
            timing.pull = started.elapsed();
            route
        }
    };
    let code = &route.code;
    let is_socket = socket::is_wanted(request);
    if is_socket {
        socket::verify(request)?;
    }
    let method = request.method().as_str();
    if !code.config().allows_method(method) {
        let allowed = code.config().methods().into_iter().map(str::to_owned).collect();
        return Err(HttpError::Method { sent: method.to_owned(), allowed });
    }
    let n_announced =
        request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut call = Call::new(Asked::by_client(request), &name, below, &route, app);
    call.timing = timing;
    let response = if is_socket {
        call.is_socket = true;
        socket::open(&mut call, request, app, &route, unread).await
    } else {
        let body = Body::begin(unread, n_announced, app.body_bytes_max).await?;
        call.run(app, &route, body).await
    };
    app.stats.web_request.add(started.elapsed());
    response
}

/// The same as [`find`], for who waits until the packages of a new function are there. It takes no lookup's place meanwhile.
async fn find_in_time(
    app: &App,
    name: &FunctionName,
    request: &HttpRequest,
) -> Result<Arc<Route<OlWorld>>, HttpError> {
    let found = find(app, name).await;
    let Err(HttpError::Installing) = found else { return found };
    let Ok(_place) = app.install_waiters.try_acquire() else { return found };
    let wait = async {
        loop {
            tokio::time::sleep(INSTALL_LOOK_EVERY).await;
            match find(app, name).await {
                // Others may be looked up before it.
                Err(HttpError::Installing | HttpError::Busy(_)) => {}
                found => return found,
            }
        }
    };
    tokio::select! {
        found = tokio::time::timeout(INSTALL_PATIENCE, wait) => found.unwrap_or(Err(HttpError::Installing)),
        () = client::gone(Some(request)) => Err(HttpError::ClientGone),
        () = app.ending.cancelled() => Err(HttpError::Installing),
    }
}

/// The lambda of this name: from the table, or by a look into the registry.
pub(super) async fn find(app: &App, name: &FunctionName) -> Result<Arc<Route<OlWorld>>, HttpError> {
    if let Some(route) = app.tree.routes.get(name.as_str()) {
        return Ok(route);
    }
    let found = match app.tree.router.ask(Resolve::new(name.clone())).await {
        Ok(found) => found,
        Err(_) => return Err(HttpError::Busy("the router is being restarted; try again".into())),
    };
    found.map_err(|error| match error {
        ResolveError::NotFound => HttpError::Unknown(name.to_string()),
        ResolveError::Rejected(text) => HttpError::NotServable(text),
        ResolveError::Installing => HttpError::Installing,
        ResolveError::Busy | ResolveError::Unavailable(_) => HttpError::Busy(error.to_string()),
    })
}

/// What is asked of a function besides the body, by a client or by a trigger.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    /// Who waits, and may go away. `None`: a trigger, which does not.
    pub(super) client: Option<&'a HttpRequest>,
}

impl<'a> Asked<'a> {
    fn by_client(request: &'a HttpRequest) -> Self {
        let (method, query) = (request.method().as_str(), request.uri().query());
        Self { method, query, headers: request.headers(), client: Some(request) }
    }
}

pub(super) struct Call<'a> {
    pub(super) asked: Asked<'a>,
    pub(super) name: &'a FunctionName,
    target: &'a str,
    /// It wants a WebSocket, and so a sandbox for itself.
    pub(super) is_socket: bool,
    pub(super) runtime: Duration,
    timing: Timing,
    stats: &'static Stats,
}

/// Where a request runs.
pub(super) enum Place {
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

impl<'a> Call<'a> {
    /// A call of what `route` leads to. `target`: the path below the function's, which begins with `/`.
    pub(super) fn new(
        asked: Asked<'a>,
        name: &'a FunctionName,
        target: &'a str,
        route: &Route<OlWorld>,
        app: &App,
    ) -> Self {
        if let Some(dep_trace) = &app.dep_trace {
            dep_trace.call(name, &route.code);
        }
        let runtime = route.code.sandbox_limits().runtime;
        Self { asked, name, target, is_socket: false, runtime, timing: Timing::default(), stats: app.stats }
    }
}

impl Call<'_> {
    pub(super) async fn run(
        &mut self,
        app: &App,
        route: &Route<OlWorld>,
        body: Body<'_>,
    ) -> Result<HttpResponse, HttpError> {
        for attempt in 0..ATTEMPTS_MAX {
            match self.find_place(app, route, &body, attempt).await? {
                Place::Made(lease) => return self.exchange(*lease, None).await,
                Place::Alone(lease) => return self.exchange(*lease, Some(body)).await,
                Place::Seat(seat) => {
                    if let Some(response) = self.take_part(seat, &route.pool).await? {
                        return Ok(response);
                    }
                }
            }
        }
        Err(HttpError::Died("its sandboxes end before they begin with it".into()))
    }

    /// A place for a request with this body, and the time that it took. `attempt`: how often it was sent before.
    pub(super) async fn find_place(
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

    /// The way of a request that was sent. `None`: it has not begun, and may run elsewhere.
    async fn take_part(
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
        let Some(mut response) = build(head) else {
            // As in `exchange`.
            if answer.is_whole() {
                seat.finish(pool);
            } else {
                seat.give_up(Discard::Abandoned);
            }
            return Err(HttpError::Nonsense(NOT_HTTP.into()));
        };
        let (id, number) = seat.invocation();
        response.insert_header((INVOCATION_HEADER, invocation_id(id, number)));
        let handler = seat.front_since().elapsed();
        self.timing.waited += sent.elapsed().saturating_sub(handler);
        response.append_header((SERVER_TIMING, self.timing.tell(handler, self.stats)));
        if answer.header.failed() {
            seat.count_error();
        }
        if answer.is_whole() {
            seat.finish(pool);
            return Ok(Some(response.body(answer.body)));
        }
        if let Some((lease, began)) = seat.alone() {
            return Ok(Some(self.stream(response, lease, began, answer)));
        }
        match seat.rest(answer, self.runtime).await {
            Ok(kept) => {
                if kept.broke_off {
                    seat.count_error();
                }
                seat.finish(pool);
                Ok(Some(whole(response, kept)))
            }
            // It has begun, so it is not run again.
            Err(Unanswered::TakenBack) => Err(HttpError::Died("it ended amid its answer".into())),
            Err(unanswered) => self.unanswered(unanswered),
        }
    }

    fn unanswered(&self, unanswered: Unanswered) -> Result<Option<HttpResponse>, HttpError> {
        match unanswered {
            Unanswered::TakenBack => Ok(None),
            Unanswered::Late => Err(HttpError::Deadline(self.runtime.as_secs())),
            Unanswered::Died(cause) => Err(HttpError::Died(cause)),
            Unanswered::Nonsense(broken) => Err(HttpError::Nonsense(broken.0.into())),
        }
    }

    /// The way of a request that has a sandbox for itself.
    /// `body`: `None` when the request is in the sandbox already.
    async fn exchange(
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
        let Some(mut response) = build(head) else {
            // The function's own doing, and it is whole: only the answer is lost. The rest of it must not be
            // taken for the next one's, so the sandbox goes when there is a rest.
            if answer.is_whole() {
                lease.finish(began.elapsed());
            } else {
                lease.discard(Discard::Abandoned);
            }
            return Err(HttpError::Nonsense(NOT_HTTP.into()));
        };
        response.insert_header((INVOCATION_HEADER, invocation_id(lease.id(), answer.header.invocation)));
        response.append_header((SERVER_TIMING, self.timing.tell(began.elapsed(), self.stats)));
        if answer.header.failed() {
            lease.count_error();
        }
        if answer.is_whole() {
            lease.finish(began.elapsed());
            return Ok(response.body(answer.body));
        }
        Ok(self.stream(response, lease, began, answer))
    }

    /// An answer that goes on.
    pub(super) fn stream(
        &self,
        mut response: HttpResponseBuilder,
        lease: Lease<Sandbox>,
        began: Instant,
        answer: Incoming,
    ) -> HttpResponse {
        if !answer.header.more() {
            response.no_chunking((answer.body.len() + answer.n_rest) as u64);
        }
        let client = self.asked.client.cloned();
        let gone = async move { client::gone(client.as_ref()).await };
        let pieces = Streaming::new(lease, began, self.runtime, answer).pieces(gone);
        response.streaming(patient(pieces, self.runtime))
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

    /// What the function is told of its next request besides the body; nothing if it does not want to know.
    pub(super) fn head_for(&self, sandbox: &Sandbox) -> Result<Vec<u8>, HttpError> {
        if !sandbox.wants_head() {
            return Ok(Vec::new());
        }
        Ok(self.head(&invocation_id(sandbox.id(), sandbox.channel.next_invocation()))?)
    }

    /// The request's head, for the invocation of this id, when it is sent now.
    pub(super) fn head(&self, id: &str) -> Result<Vec<u8>, HeadError> {
        let mut head = Vec::with_capacity(1024);
        push_line(&mut head, self.asked.method.as_bytes())?;
        match self.asked.query {
            Some(query) => push_line(&mut head, format!("{}?{query}", self.target).as_bytes())?,
            None => push_line(&mut head, self.target.as_bytes())?,
        }
        // The client's address, where it has one.
        let time = self.runtime.as_millis();
        match self.asked.client.and_then(HttpRequest::peer_addr) {
            Some(client) => push_line(&mut head, format!("{time} {client}").as_bytes())?,
            None => push_line(&mut head, time.to_string().as_bytes())?,
        }
        match self.asked.headers.get("x-request-id") {
            Some(id) => push_line(&mut head, id.as_bytes())?,
            None => push_line(&mut head, id.as_bytes())?,
        }
        for (name, value) in self.asked.headers {
            if !HOP_BY_HOP.contains(&name.as_str()) {
                push_line(&mut head, name.as_str().as_bytes())?;
                push_line(&mut head, value.as_bytes())?;
            }
        }
        if head.len() > usize::from(u16::MAX) {
            return Err(HeadError::TooLong);
        }
        Ok(head)
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

/// As it stands in the function's log.
pub(super) fn invocation_id(sandbox: u64, invocation: u32) -> String {
    format!("{sandbox}-{invocation}")
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

/// An answer that was long and is in memory.
fn whole(mut response: HttpResponseBuilder, kept: Kept) -> HttpResponse {
    let broken = BrokenFrame("the function failed amid its answer");
    // Too late for another status: the client has to see that the answer is not whole.
    let end = kept.broke_off.then_some(Err(ChannelError::from(broken)));
    response.streaming(futures_util::stream::iter(kept.pieces.into_iter().map(Ok).chain(end)))
}

/// Status and headers; `None` when HTTP does not allow them.
pub(super) fn build(head: ResponseHead<'_>) -> Option<HttpResponseBuilder> {
    // 1xx are about the connection, not answers.
    let status = StatusCode::from_u16(head.status).ok().filter(|status| !status.is_informational())?;
    let mut response = HttpResponse::build(status);
    for (name, value) in head.headers() {
        let name = HeaderName::from_bytes(name).ok()?;
        // The length is counted here, not believed.
        if HOP_BY_HOP.contains(&name.as_str()) || name == CONTENT_LENGTH {
            continue;
        }
        response.append_header((name, HeaderValue::from_bytes(value).ok()?));
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_behind_the_name() {
        let split =
            |path| split_path(path, "/run/").map(|(name, below)| (name.to_string(), below.to_owned()));
        assert_eq!(split("/run/hello").unwrap(), ("hello".into(), "/".into()));
        assert_eq!(split("/run/hello/").unwrap(), ("hello".into(), "/".into()));
        assert_eq!(split("/run/hello/a%2Fb/c").unwrap(), ("hello".into(), "/a%2Fb/c".into()));
    }

    #[test]
    fn a_path_that_names_no_function_is_a_bad_request() {
        for path in
            ["/run/", "/run//x", "/run/.", "/run/..", "/run/..%2fx", "/run/a%2fb", "/run/%2e%2e", "/run/a b"]
        {
            let error = split_path(path, "/run/").unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{path}");
        }
    }
}
