//! The way of an invocation: admit, read, lease, send, answer, check in.
//!
//! The thread that took the request moves the bytes itself; no actor is asked for anything on the way
//! of a warm call. A lease is given back on every path: by `finish`, or by being dropped, which destroys
//! the sandbox. That is what happens when the client goes away (the server drops this future), when the
//! deadline passes, and when a sandbox talks nonsense.
//!
//! A request that fits into one packet takes a seat in a [`lane`](super::lane), maybe behind others; a longer one has a
//! sandbox for itself.
//!
//! | part | what |
//! |---|---|
//! | `place` | where it runs |
//! | `seated`, `alone` | from there to the answer |
//! | `heads` | what the function is told, and what of its answer's head reaches the client |

mod alone;
mod heads;
mod place;
mod seated;

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Version};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use actors::name::FunctionName;
use actors::pool::Lease;
use actors::router::Route;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::breaking_off::breaking_off;
use super::connection::Progress;
use super::error::HttpError;
use super::find::find_in_time;
use super::patience::patient;
use super::socket;
use super::streaming::Streaming;
use super::timing::Timing;
use super::upload::{Body, Unread, announced, answered};
use super::{App, client};
use crate::sandbox::channel::Incoming;
use crate::sandbox::launcher::Sandbox;
use crate::stats::Stats;
use crate::world::OlWorld;
pub(super) use heads::{Begun, HOP_BY_HOP, INVOCATION_HEADER, NOT_HTTP, build, invocation_id};
use place::ATTEMPTS_MAX;
pub(super) use place::Place;

/// `/run/<name>[/path][?query]`, any method.
pub(super) async fn run(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let mut unread = Some(payload);
    let result = invoke(&request, &mut unread, &app, Prefix::Run).await;
    answered(result.unwrap_or_else(|error| error.response()), unread)
}

/// `POST /runLambda/<name>`, as OpenLambda had it from 2016 to 2018, for pages of any origin.
pub(super) async fn run_lambda(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let mut unread = Some(payload);
    let result = invoke(&request, &mut unread, &app, Prefix::RunLambda).await;
    let mut response = result.unwrap_or_else(|error| error.response());
    allow_all_origins(response.headers_mut());
    answered(response, unread)
}

/// `/runLambda`.
pub(super) async fn no_name() -> HttpResponse {
    let mut response = HttpError::NoImageName.response();
    allow_all_origins(response.headers_mut());
    response
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

/// Where functions are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Prefix {
    Run,
    RunLambda,
}

impl Prefix {
    fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::RunLambda => "runLambda",
        }
    }

    fn no_name(self) -> HttpError {
        match self {
            Self::Run => HttpError::NoName,
            Self::RunLambda => HttpError::NoImageName,
        }
    }
}

/// The function's name and what stands behind it, still percent-encoded and beginning with `/`.
///
/// A name may be percent-encoded, for it means the same then (RFC 3986, 2.3), as at all other paths. It is decoded once, after the
/// path was split, and there is no name with a slash, a dot in front or a percent sign in it: so nothing that is encoded leads to
/// another function or file.
///
/// # Errors
/// When it is no name.
pub(super) fn split_path(path: &str, prefix: Prefix) -> Result<(FunctionName, &str), HttpError> {
    let (word, rest) =
        path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(|| prefix.no_name())?;
    if decoded(word) != prefix.as_str() {
        return Err(prefix.no_name());
    }
    let (name, below) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if name.is_empty() {
        return Err(prefix.no_name());
    }
    // What is no name is told as it was sent.
    let name = decoded(name).parse().or_else(|_| name.parse())?;
    Ok((name, if below.is_empty() { "/" } else { below }))
}

/// What is no text when it is decoded is left as it is, and so is what has no percent sign.
fn decoded(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part))
}

async fn invoke(
    request: &HttpRequest,
    unread: &mut Unread,
    app: &App,
    prefix: Prefix,
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
    let mut call = Call::new(Asked::by_client(request), &name, below, &route, app);
    call.timing = timing;
    let response = if is_socket {
        call.is_socket = true;
        socket::open(&mut call, request, app, &route, unread).await
    } else {
        let body = Body::begin(unread, announced(request), app.body_bytes_max).await?;
        call.run(app, &route, body).await
    };
    app.stats.web_request.add(started.elapsed());
    response
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

    /// How far the answer has come to the client, if there is one.
    fn progress(&self) -> Option<Rc<Progress>> {
        self.asked.client.and_then(Progress::of_client)
    }

    /// An answer that goes on.
    pub(super) fn stream(
        &self,
        Begun { mut response, may_have_body }: Begun,
        lease: Lease<Sandbox>,
        began: Instant,
        answer: Incoming,
    ) -> HttpResponse {
        if !may_have_body {
            // The client is not kept waiting for what it does not get.
            actix_web::rt::spawn(Streaming::new(lease, began, self.runtime, answer).thrown_away());
            return response.finish();
        }
        let answer_goes_on = answer.header.more();
        if !answer_goes_on {
            response.no_chunking((answer.body.len() + answer.n_rest) as u64);
        }
        let client = self.asked.client.cloned();
        let gone = async move { client::gone(client.as_ref()).await };
        let pieces = Streaming::new(lease, began, self.runtime, answer).pieces(gone);
        let pieces = breaking_off(pieces, self.progress());
        let is_plain =
            answer_goes_on && self.asked.client.is_some_and(|client| client.version() < Version::HTTP_11);
        let mut response = response.streaming(patient(pieces, self.runtime));
        if is_plain {
            // Chunks are of HTTP/1.1 (RFC 9112, 6.1). Before, an answer of no known length went on until the connection ended.
            response.head_mut().no_chunking(true);
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;

    use super::*;

    #[test]
    fn a_path_is_split_behind_the_name() {
        let split =
            |path| split_path(path, Prefix::Run).map(|(name, below)| (name.to_string(), below.to_owned()));
        assert_eq!(split("/run/hello").unwrap(), ("hello".into(), "/".into()));
        assert_eq!(split("/run/hello/").unwrap(), ("hello".into(), "/".into()));
        assert_eq!(split("/run/hello/a%2Fb/c").unwrap(), ("hello".into(), "/a%2Fb/c".into()));
    }

    #[test]
    fn a_name_may_be_percent_encoded_and_what_is_below_it_stays_as_it_is() {
        for path in ["/run/e%63ho/%63", "/run/%65%63%68%6F/%63", "/%72un/echo/%63"] {
            let (name, below) = split_path(path, Prefix::Run).unwrap();
            assert_eq!((name.as_str(), below), ("echo", "/%63"), "{path}");
        }
        assert_eq!(split_path("/run/a%2Eb%2d%5Fc", Prefix::Run).unwrap().0.as_str(), "a.b-_c");
        // What is no name is told as it was sent.
        let error = split_path("/run/a%0Ab", Prefix::Run).unwrap_err().to_string();
        assert!(error.starts_with("'a%0Ab' is not a function's name"), "{error}");
    }

    #[test]
    fn a_path_that_names_no_function_is_a_bad_request() {
        for path in [
            "",
            "/",
            "/run",
            "/run/",
            "/run//x",
            "/run/.",
            "/run/..",
            "/run/..%2fx",
            "/run/a%2fb",
            "/run/%2e%2e",
            "/run/%2e/x",
            "/run/a b",
            "/run/a%00",
            "/run/a%2500",
            "/run/e%2563ho",
            "/run/%",
            "/run/%6",
            "/run/%zz",
            "/run/%ff",
            "/run%2fecho",
            "/run%2f/echo",
            "/%2frun/echo",
            "/runLambda/echo",
        ] {
            let error = split_path(path, Prefix::Run).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{path}");
        }
    }
}
