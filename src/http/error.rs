//! Every status code that the worker itself answers with, in one place.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use actors::name::NameError;
use actors::pool::Refusal;
use actors::world::LaunchError;

use super::connection::{HEAD_KIB_MAX, HEADERS_MAX};

/// After how many seconds a client that was refused for want of room may try again. The queue turns over in far
/// less; more would leave the worker idle.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request gets no answer from a function.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The path names no function. The text is OpenLambda's.
    #[error("expected invocation format: /run/<lambda-name>")]
    NoName,
    /// The same at the path of its early years; what it says begins as it did then.
    #[error("Name of image to run required: expected invocation format: /runLambda/<lambda-name>")]
    NoImageName,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(
        "no function is called '{0}': put its code into the registry, or see GET /registry/ for what is there"
    )]
    Unknown(String),
    /// The text is OpenLambda's; clients compare it.
    #[error("HTTP method not allowed. Sent: {sent}, Allowed: [{}]", allowed.join(" "))]
    Method { sent: String, allowed: Vec<String> },
    #[error("the request body is longer than {mb_max} MB, the worker's max_body_mb")]
    BodyTooLong { mb_max: usize },
    /// It is for the worker itself, not for a function.
    #[error("the request body is longer than {kib_max} KiB, the most that is read at this path")]
    OrderTooLong { kib_max: usize },
    #[error("the request body cannot be read: {0}")]
    Body(String),
    #[error("the request body did not arrive within {0} s")]
    BodySlow(u64),
    #[error("the upload was silent for {seconds} s, or brought less than {kib_per_second} KiB/s")]
    UploadSlow { seconds: u64, kib_per_second: u32 },
    #[error("{0}")]
    Head(#[from] crate::frame::HeadError),
    /// What was sent is no request; the text says in what.
    #[error("this cannot be read as a request of HTTP/1.1: {0}")]
    Malformed(String),
    #[error(
        "the request's path and headers are too many or too long: at most {HEADERS_MAX} headers, and {HEAD_KIB_MAX} KiB of both, can be read"
    )]
    HeadTooLarge,
    #[error("the request's path and headers did not arrive within {0} s")]
    HeadSlow(u64),
    /// Its packages are not there yet.
    #[error("{}", actors::watcher::Trouble::Installing)]
    Installing,
    /// No sandbox for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The registry holds it, but not in a state in which it can be served.
    #[error("{0}")]
    NotServable(String),
    #[error("the function did not answer within {0} s (its runtime_sec); its sandbox was ended")]
    Deadline(u64),
    /// Nobody reads this; it is for the log of a proxy between.
    #[error("the client closed the connection; the call was cancelled")]
    ClientGone,
    #[error("the function's sandbox died: {0}")]
    Died(String),
    #[error("the function answered with something that is not HTTP: {0}")]
    Nonsense(String),
    /// A function that is no ASGI app has no way to speak it.
    #[error("'{0}' does not speak WebSocket: only ASGI apps do")]
    NoSocket(String),
    /// The request for a WebSocket is not as RFC 6455 has it.
    #[error("this is no request for a WebSocket: {0}")]
    Handshake(actix_http::ws::HandshakeError),
    #[error("{0}")]
    Registry(String),
    #[error("{0}")]
    BadUpload(String),
    /// What was sent is no tree of zygotes; the text names the node.
    #[error("{0}")]
    BadTree(String),
    #[error(
        "the configuration says which zygotes there are (import_cache_tree, or features.import_cache, in config.json): change it there"
    )]
    TreeIsFixed,
    /// A page in somebody's browser can send requests to `localhost`, and says so.
    #[error(
        "nothing here is for web pages, and this request comes from one: it has an Origin header, or Sec-Fetch-Site says so"
    )]
    FromPage,
    /// A page whose name was made to lead here would be served what its browser then lets it read.
    #[error(
        "'{0}' is no name of this machine: ask by its address, its name or localhost, or add the name to allowed_hosts in config.json"
    )]
    ForeignHost(String),
    /// At a path of the worker's own. The text is OpenLambda's.
    #[error("method not allowed")]
    PathMethod { allowed: &'static [&'static str] },
    /// What was asked for by hand cannot be meant.
    #[error("{0}")]
    BadOrder(String),
    #[error("there is no sandbox '{0}'")]
    NoSandbox(String),
    /// Clients tell by its beginning that the worker does not do this.
    #[error("nothing is at this path: sandboxes by hand need \"server_mode\": \"sock\" in config.json")]
    NotByHand,
    /// The functions lie where they cannot be changed.
    #[error("{0}")]
    ReadOnly(String),
    #[error("{0}")]
    Busy(String),
}

impl HttpError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoName
            | Self::NoImageName
            | Self::Name(_)
            | Self::Body(_)
            | Self::Malformed(_)
            | Self::BadUpload(_)
            | Self::BadTree(_)
            | Self::BadOrder(_)
            | Self::NoSocket(_) => StatusCode::BAD_REQUEST,
            Self::Handshake(actix_http::ws::HandshakeError::UnsupportedVersion) => {
                StatusCode::UPGRADE_REQUIRED
            }
            Self::Handshake(_) => StatusCode::BAD_REQUEST,
            Self::TreeIsFixed => StatusCode::CONFLICT,
            Self::Unknown(_) | Self::NoSandbox(_) | Self::NotByHand => StatusCode::NOT_FOUND,
            Self::Method { .. } | Self::PathMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::FromPage | Self::ForeignHost(_) | Self::ReadOnly(_) => StatusCode::FORBIDDEN,
            Self::BodyTooLong { .. } | Self::OrderTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodySlow(_) | Self::UploadSlow { .. } | Self::HeadSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Head(_) | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotServable(_) | Self::Registry(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Died(_) | Self::Nonsense(_) => StatusCode::BAD_GATEWAY,
            Self::Installing | Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(refusal) => match refusal {
                Refusal::QueueFull | Refusal::QueueTimeout => StatusCode::TOO_MANY_REQUESTS,
                // The function's author can mend the first two, nobody but the operator the others.
                Refusal::Launch(LaunchError::Load(_) | LaunchError::Unsupported(_)) => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    pub(super) fn response(&self) -> HttpResponse {
        let status = self.status();
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = match self {
                Self::Refused(Refusal::Broken { retry_after, .. }) => retry_after.as_secs() + 1,
                _ => RETRY_AFTER_SECONDS,
            };
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Self::NoName | Self::NoImageName = self {
            // As OpenLambda has it: a page is to see what is wrong with its path.
            response.insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"));
        }
        if let Self::Method { allowed, .. } = self {
            response.insert_header((ALLOW, allowed.join(", ")));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            response.insert_header((UPGRADE, "websocket")).insert_header((SEC_WEBSOCKET_VERSION, "13"));
        }
        if let Self::PathMethod { allowed } = self {
            response.insert_header((ALLOW, allowed.join(", ")));
        }
        // What is left of a body that nobody wants is not read: the connection ends with the answer.
        if matches!(
            self,
            Self::BodyTooLong { .. }
                | Self::OrderTooLong { .. }
                | Self::BodySlow(_)
                | Self::UploadSlow { .. }
                | Self::Body(_)
        ) {
            response.force_close();
        }
        response.body(format!("{self}\n"))
    }
}
