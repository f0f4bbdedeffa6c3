//! The first call of a sandbox: the request makes it, and goes into it together with the order to load its code.
//!
//! So nothing has to be woken but the sandbox, once. It says first whether the code could be loaded, and until then
//! the patience is that of loading; the request's own time begins when the function is there.
//!
//! A client that goes away meanwhile does not end the loading: otherwise a function that takes longer to load than
//! its clients wait would never be loaded at all. What was sent is then done to its end without it.

use std::time::{Duration, Instant};

use actors::first::{CHORES_AFTER, First, Opening};
use actors::pool::{Discard, Lease};
use actors::world::LaunchError;
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::App;
use super::client;
use super::error::HttpError;
use super::farewell::{self, Answer};
use super::run::Call;
use super::upload::Body;
use crate::frame::Kind;
use crate::registry::FunctionCode;
use crate::sandbox::launcher::{Loading, Output, Sandbox};
use crate::world::OlWorld;

/// Longest request that goes together with the order to load: a socket holds 200 KiB, and one read takes 64.
const TOGETHER_BYTES_MAX: usize = 32 << 10;

/// A sandbox of this request's own.
pub(super) struct Opened {
    pub(super) lease: Lease<Sandbox>,
    /// The request is in it already.
    pub(super) is_sent: bool,
}

/// Why there is none.
pub(super) enum Unopened {
    /// Room may come back while the request waits.
    NotNow,
    Error(HttpError),
}

/// What goes together with the order to load.
struct Request {
    head: Vec<u8>,
    body: Bytes,
}

/// Makes the sandbox.
pub(super) async fn open(
    app: &App,
    call: &Call<'_>,
    code: &FunctionCode,
    first: First<OlWorld>,
    body: &Body<'_>,
) -> Result<Opened, Unopened> {
    let First { standby, packages, opening } = first;
    // A request whose head cannot be written has to wait until it is known whether the function wants heads.
    let request = match call.head(&format!("{}-1", standby.id())) {
        Ok(head)
            if !call.is_socket
                && body.rest.is_none()
                && head.len() + body.first.len() <= TOGETHER_BYTES_MAX =>
        {
            Some(Request { head, body: body.first.clone() })
        }
        _ => None,
    };
    let is_sent = request.is_some();
    let loading = match app.launcher.adopt(call.name.clone(), standby, code, &packages) {
        Ok(loading) => loading,
        Err(error) => return Err(failed(opening, error)),
    };
    let mut loading = Box::pin(load(app, loading, opening, request));
    tokio::select! {
        biased;
        lease = &mut loading => Ok(Opened { lease: lease?, is_sent }),
        () = client::gone(call.asked.client) => {
            actix_web::rt::spawn(finish_alone(loading, is_sent, call.runtime));
            Err(Unopened::Error(HttpError::ClientGone))
        }
    }
}

fn failed(opening: Opening<OlWorld>, error: LaunchError) -> Unopened {
    opening.failed(&error);
    match error {
        LaunchError::Resources(_) => Unopened::NotNow,
        error => Unopened::Error(HttpError::Refused(error.into())),
    }
}

fn load(
    app: &App,
    loading: Loading,
    mut opening: Opening<OlWorld>,
    request: Option<Request>,
) -> impl Future<Output = Result<Lease<Sandbox>, Unopened>> + use<> {
    let stats = app.stats;
    async move {
        let began = Instant::now();
        let request = request.as_ref().map(|request| (&request.head[..], &request.body[..]));
        let told = |output: Output| {
            let chores = opening.under_way();
            actix_web::rt::spawn(async move {
                sleep(CHORES_AFTER).await;
                output.follow();
                drop(chores);
            });
        };
        match loading.load(request, told).await {
            Ok(sandbox) => {
                let took = began.elapsed();
                stats.create.add(took);
                Ok(opening.opened(sandbox, took))
            }
            Err(error) => Err(failed(opening, error)),
        }
    }
}

/// The client has gone; the sandbox is as good as any once it has answered.
async fn finish_alone(
    loading: impl Future<Output = Result<Lease<Sandbox>, Unopened>>,
    is_sent: bool,
    runtime: Duration,
) {
    // Who else waits for the function has been told of a failure.
    let Ok(mut lease) = loading.await else { return };
    if !is_sent {
        lease.put_back();
        return;
    }
    let began = Instant::now();
    match timeout(runtime, lease.channel.receive()).await {
        Ok(Ok(answer)) if answer.header.kind == Kind::Response && answer.is_whole() => {
            if answer.header.failed() {
                lease.count_error();
            }
            lease.finish(began.elapsed());
        }
        Ok(Ok(answer)) => farewell::begin(lease, answer.header.invocation, Answer::under_way(&answer)),
        Ok(Err(_)) => lease.discard(Discard::Died),
        Err(_) => lease.discard(Discard::Timeout),
    }
}
