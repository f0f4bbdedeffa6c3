//! What a function is told of a request besides its body, and what of its answer's head reaches the client.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;

use super::Call;
use crate::frame::{HeadError, ResponseHead, push_line};
use crate::http::error::HttpError;
use crate::sandbox::launcher::Sandbox;

/// Headers that are about one connection, and so not the function's to see or to say (RFC 9110, 7.6.1).
pub(in crate::http) const HOP_BY_HOP: [&str; 9] = [
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
/// What the function said of its answer.
pub(in crate::http) const NOT_HTTP: &str = "a status or a header that HTTP does not allow";
/// Which sandbox and which of its invocations: what the function's log lines begin with.
pub(in crate::http) const INVOCATION_HEADER: &str = "x-ol-invocation";
/// What the time went into, as the W3C has it.
pub(super) const SERVER_TIMING: &str = "server-timing";

impl Call<'_> {
    /// What the function is told of its next request besides the body; nothing if it does not want to know.
    pub(in crate::http) fn head_for(&self, sandbox: &Sandbox) -> Result<Vec<u8>, HttpError> {
        if !sandbox.wants_head() {
            return Ok(Vec::new());
        }
        Ok(self.head(&invocation_id(sandbox.id(), sandbox.channel.next_invocation()))?)
    }

    /// The request's head, for the invocation of this id, when it is sent now.
    pub(in crate::http) fn head(&self, id: &str) -> Result<Vec<u8>, HeadError> {
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

/// As it stands in the function's log.
pub(in crate::http) fn invocation_id(sandbox: u64, invocation: u32) -> String {
    format!("{sandbox}-{invocation}")
}

/// An answer of which only the body is missing.
pub(in crate::http) struct Begun {
    /// Its status and its headers.
    pub(in crate::http) response: HttpResponseBuilder,
    /// Not after 204, 205 and 304: clients take what follows these for the next answer (RFC 9110, 15.3.5; RFC 9112, 6.3).
    pub(in crate::http) may_have_body: bool,
}

impl Begun {
    /// The whole answer. What the function sends where there is no place for it is thrown away, as other servers do.
    pub(in crate::http) fn with(mut self, body: Bytes) -> HttpResponse {
        if self.may_have_body { self.response.body(body) } else { self.response.finish() }
    }
}

/// Status and headers; `None` when HTTP does not allow them.
pub(in crate::http) fn build(head: ResponseHead<'_>) -> Option<Begun> {
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
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    Some(Begun { response, may_have_body: !bodiless.contains(&status) })
}
