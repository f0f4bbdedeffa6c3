//! WebSocket (RFC 6455): from the request for one to the sandbox's answer. What comes then is a [`Session`].
//!
//! The worker speaks the protocol with the client; the function sees messages.

mod client;
mod session;

use actix_http::ws::{hash_key, verify_handshake};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use actix_web::{HttpRequest, HttpResponse};
use actors::pool::{Discard, Lease};
use actors::router::Route;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use self::session::Session;
use super::error::HttpError;
use super::farewell::{self, Answer};
use super::run::{Call, HOP_BY_HOP, INVOCATION_HEADER, NOT_HTTP, Place, build, invocation_id};
use super::upload::{Body, Unread};
use super::{App, client as http_client};
use crate::frame::{Kind, ResponseHead};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;
use crate::world::OlWorld;

/// What a socket is closed with that ends without a close (RFC 6455, 7.4.1).
const ABNORMAL: u16 = 1006;

/// Whether the request is for a WebSocket. Who offers another protocol to change to is served without.
pub(super) fn is_wanted(request: &HttpRequest) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| {
        value.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
    }) && request.head().upgrade()
}

/// Whether it asks as RFC 6455 has it.
///
/// # Errors
/// With what is wrong.
pub(super) fn verify(request: &HttpRequest) -> Result<(), HttpError> {
    // The method is a matter of the function's `ol.yaml` as well, but no other than GET opens a socket.
    verify_handshake(request.head()).map_err(HttpError::Handshake)
}

/// Leases a sandbox, and asks the function whether it takes the socket.
pub(super) async fn open(
    call: &mut Call<'_>,
    request: &HttpRequest,
    app: &App,
    route: &Route<OlWorld>,
    unread: &mut Unread,
) -> Result<HttpResponse, HttpError> {
    let nothing = Body { first: Bytes::new(), rest: None };
    let lease = match call.find_place(app, route, &nothing, 0).await? {
        Place::Alone(lease) => *lease,
        Place::Made(_) | Place::Seat(_) => unreachable!("a request for a socket is sent by nobody else"),
    };
    if !lease.is_asgi() {
        lease.give_back();
        return Err(HttpError::NoSocket(call.name.to_string()));
    }
    let head = match call.head_for(&lease) {
        Ok(head) => head,
        Err(error) => {
            lease.give_back();
            return Err(error);
        }
    };
    let began = Instant::now();
    let (mut lease, answer) = ask(call, lease, &head).await?;
    let parsed = match ResponseHead::parse(&answer.head) {
        Ok(parsed) => parsed,
        Err(broken) => {
            lease.discard(Discard::Abandoned);
            return Err(HttpError::Nonsense(broken.0.into()));
        }
    };
    let id = invocation_id(lease.id(), answer.header.invocation);
    if parsed.status == StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        let accepted = accepted(request, parsed).filter(|_| answer.header.more() && answer.n_rest == 0);
        let (Some(mut response), Some(payload)) = (accepted, unread.take()) else {
            lease.discard(Discard::Abandoned);
            return Err(HttpError::Nonsense(NOT_HTTP.into()));
        };
        response.insert_header((INVOCATION_HEADER, id));
        let number = answer.header.invocation;
        let messages = Session::begin(lease, number, payload, call.runtime, app.ending.clone());
        return Ok(response.streaming(messages));
    }
    // It is refused. The answer is one like others, and the request is at its end.
    if lease.channel.try_send(Kind::Closed, 0, &closed(ABNORMAL, "")).is_err() {
        lease.discard(Discard::Died);
        return Err(HttpError::Died("it ended amid its answer".into()));
    }
    let Some(mut begun) = build(parsed) else {
        lease.discard(Discard::Abandoned);
        return Err(HttpError::Nonsense(NOT_HTTP.into()));
    };
    begun.response.insert_header((INVOCATION_HEADER, id));
    if answer.header.failed() {
        lease.count_error();
    }
    if answer.is_whole() {
        lease.finish(began.elapsed());
        return Ok(begun.with(answer.body));
    }
    Ok(call.stream(begun, lease, began, answer))
}

/// Sends the request and waits until the function has said whether it accepts.
async fn ask(
    call: &Call<'_>,
    mut lease: Lease<Sandbox>,
    head: &[u8],
) -> Result<(Lease<Sandbox>, Incoming), HttpError> {
    let deadline = Instant::now() + call.runtime;
    // It is idle, so there is room for it.
    if let Err(error) = lease.channel.send_socket(head).await {
        return Err(died(lease, error).await);
    }
    let number = lease.channel.invocation();
    let answer = tokio::select! {
        biased;
        answer = timeout_at(deadline, lease.channel.receive()) => answer,
        () = http_client::gone(call.asked.client) => {
            match lease.channel.try_send(Kind::Closed, 0, &closed(ABNORMAL, "")) {
                Ok(true) => farewell::begin(lease, number, Answer::default()),
                _ => lease.discard(Discard::ClientGone),
            }
            return Err(HttpError::ClientGone);
        }
    };
    match answer {
        Ok(Ok(answer)) if answer.is_answer_to(Some(number)) => Ok((lease, answer)),
        Ok(Ok(_)) => {
            lease.discard(Discard::Abandoned);
            Err(HttpError::Nonsense("an answer to another request".into()))
        }
        Ok(Err(error)) => Err(died(lease, error).await),
        Err(_) => {
            lease.discard(Discard::Timeout);
            Err(HttpError::Deadline(call.runtime.as_secs()))
        }
    }
}

async fn died(lease: Lease<Sandbox>, error: ChannelError) -> HttpError {
    let cause = lease.obituary(&error).await;
    lease.discard(Discard::Died);
    match error {
        ChannelError::Broken(broken) => HttpError::Nonsense(broken.0.into()),
        _ => HttpError::Died(cause),
    }
}

/// The head of a response that opens the socket; `None` if the function's headers are none.
fn accepted(request: &HttpRequest, head: ResponseHead<'_>) -> Option<actix_web::HttpResponseBuilder> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY)?;
    let mut response = HttpResponse::SwitchingProtocols();
    response.upgrade("websocket");
    response.insert_header((SEC_WEBSOCKET_ACCEPT, HeaderValue::from_bytes(&hash_key(key.as_bytes())).ok()?));
    for (name, value) in head.headers() {
        let name = HeaderName::from_bytes(name).ok()?;
        if HOP_BY_HOP.contains(&name.as_str()) || name == CONTENT_LENGTH || name == SEC_WEBSOCKET_ACCEPT {
            continue;
        }
        response.append_header((name, HeaderValue::from_bytes(value).ok()?));
    }
    Some(response)
}

/// What goes with [`Kind::Closed`].
fn closed(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_le_bytes()[..], reason.as_bytes()].concat()
}

/// For the fuzz targets: no message is longer than it may be, and a text is UTF-8.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    let mut ear = client::Ear::new();
    ear.push(bytes);
    while let Ok(Some(heard)) = ear.next() {
        if let client::Heard::Message { is_text, body } = heard {
            assert!(body.len() <= client::MESSAGE_BYTES_MAX);
            assert!(!is_text || std::str::from_utf8(&body).is_ok());
        }
    }
}
