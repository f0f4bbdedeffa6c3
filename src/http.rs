//! The HTTP face: paths, methods and status codes. What is decided is decided by the actors; what is
//! done is done by the registry and the sandboxes.

mod breaking_off;
pub mod by_hand;
mod client;
mod connection;
mod error;
mod farewell;
mod find;
mod first;
mod kafka;
mod lane;
mod openapi;
mod origin;
mod patience;
mod pprof;
mod registry;
mod run;
mod socket;
mod status;
mod streaming;
mod timing;
mod trigger;
mod upload;
mod zygotes;

use std::path::PathBuf;
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use actors::supervisor::Tree;
use by_hand::ByHand;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use connection::{KEEP_ALIVE, serving};
pub use find::{INSTALL_PATIENCE, INSTALL_WAITERS_MAX};
pub use origin::Hosts;
pub use status::statistics;
pub use trigger::attend;

use crate::dep_trace::DepTrace;
use crate::profile::{CpuProfiler, HeapProfiler};
use crate::registry::Registry;
use crate::stats::Stats;
use crate::world::{OlLauncher, OlWorld};

/// What every handler may use.
pub struct App {
    /// The actors, and the table from names to lambdas.
    pub tree: Tree<OlWorld>,
    /// Makes sandboxes of what the actors give for it.
    pub launcher: OlLauncher,
    /// The functions' code.
    pub registry: Registry,
    /// Where the times go.
    pub stats: &'static Stats,
    /// Longest request body, in bytes.
    pub body_bytes_max: usize,
    /// `v2`, `v1 (hybrid)` or `v1`.
    pub cgroup_layout: &'static str,
    /// The directory of the functions' logs.
    pub logs: PathBuf,
    /// Begins when the worker ends: who listens for more than a request should leave.
    pub ending: CancellationToken,
    /// Of the worker itself.
    pub profiler: CpuProfiler,
    /// Of the worker itself.
    pub heap: HeapProfiler,
    /// Where each call is noted, if that is wanted.
    pub dep_trace: Option<DepTrace>,
    /// Of who waits for the packages of a new function.
    pub install_waiters: Semaphore,
    /// Sandboxes by hand; `None`: not with this `server_mode`.
    pub by_hand: Option<Arc<ByHand>>,
    /// Where a tree of zygotes is kept that somebody imports. `None`: the configuration says which there are.
    pub zygotes_file: Option<PathBuf>,
}

/// The paths of the worker, on TCP and on its Unix socket alike.
pub fn paths(config: &mut ServiceConfig) {
    config
        .route("/run/{tail:.*}", web::route().to(run::run))
        .route("/run", web::route().to(no_name))
        .route(
            "/runLambda/{tail:.*}",
            web::method(actix_web::http::Method::OPTIONS).to(run::run_lambda_options),
        )
        .route("/runLambda/{tail:.*}", web::route().to(run::run_lambda))
        .route("/runLambda", web::method(actix_web::http::Method::OPTIONS).to(run::run_lambda_options))
        .route("/runLambda", web::route().to(run::no_name))
        .route("/status", web::route().to(status::ready))
        .route("/stats", web::route().to(status::stats))
        .route("/debug", web::route().to(status::debug))
        .route("/lambdas", web::get().to(status::lambdas))
        .route("/openapi.json", web::get().to(openapi::document))
        .route("/registry", web::get().to(registry::list))
        .route("/registry/", web::get().to(registry::list))
        .route("/registry/{name}", web::post().to(registry::upload))
        .route("/registry/{name}", web::get().to(registry::download))
        .route("/registry/{name}", web::delete().to(registry::delete))
        .route("/registry/{name}/config", web::get().to(registry::config))
        .route("/zygotes", web::get().to(zygotes::show))
        .route("/zygotes/fit", web::post().to(zygotes::fit))
        .route("/zygotes/tree", web::get().to(zygotes::export))
        .route("/zygotes/tree", web::put().to(zygotes::import))
        .route("/zygotes/tree", web::delete().to(zygotes::forget))
        .route("/pprof/mem", web::get().to(pprof::memory))
        .route("/pprof/mem", web::post().to(pprof::memory))
        .route("/pprof/cpu-start", web::get().to(pprof::start))
        .route("/pprof/cpu-start", web::post().to(pprof::start))
        .route("/pprof/cpu-stop", web::get().to(pprof::stop))
        .route("/pprof/cpu-stop", web::post().to(pprof::stop))
        .route("/create", web::post().to(by_hand::create))
        .route("/create", web::route().to(by_hand::no_method))
        .route("/destroy/{id}", web::post().to(by_hand::destroy))
        .route("/destroy/{id}", web::route().to(by_hand::no_method))
        .route("/pause/{id}", web::post().to(by_hand::pause))
        .route("/pause/{id}", web::route().to(by_hand::no_method))
        .route("/unpause/{id}", web::post().to(by_hand::unpause))
        .route("/unpause/{id}", web::route().to(by_hand::no_method))
        .route("/registry/{name}/packages", web::get().to(registry::packages))
        .route("/registry/{name}/packages", web::post().to(registry::update))
        .route("/kafka/register/", web::route().to(kafka::no_name))
        .route("/kafka/register/{name}", web::post().to(kafka::register))
        .route("/kafka/register/{name}", web::delete().to(kafka::unregister))
        .route("/kafka/register/{name}", web::route().to(kafka::no_method))
        .default_service(web::route().to(nothing_here));
}

/// What only the owner of the worker's directory may ask.
pub fn private_paths(config: &mut ServiceConfig) {
    config.route("/pid", web::get().to(status::pid));
    #[cfg(debug_assertions)]
    config.route("/crash/{name}", web::post().to(status::crash));
    paths(config);
}

/// For the fuzz targets: the function that a path means, and what is below it.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_path(path: &str) -> Option<(actors::name::FunctionName, &str)> {
    run::split_path(path, run::Prefix::Run).or_else(|_| run::split_path(path, run::Prefix::RunLambda)).ok()
}

/// For the fuzz targets: what a client says over a WebSocket.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_socket(bytes: &[u8]) {
    socket::fuzz(bytes);
}

/// Lets pass what may be served; or gives the answer. `hosts`: the names under which the worker is asked; `None` where no browser gets.
pub(crate) fn admit(
    request: ServiceRequest,
    hosts: Option<&Hosts>,
) -> Result<ServiceRequest, Box<ServiceResponse<BoxBody>>> {
    match origin::admit(&request, hosts) {
        Ok(()) => Ok(request),
        Err(error) => {
            let (request, mut payload) = request.into_parts();
            let unread = web::Payload::from_request(&request, &mut payload).into_inner().ok();
            Err(Box::new(ServiceResponse::new(request, upload::answered(error.response(), unread))))
        }
    }
}

async fn no_name() -> HttpResponse {
    error::HttpError::NoName.response()
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    if let Some(allowed) = registry::allowed(request.path()) {
        return error::HttpError::PathMethod { allowed }.response();
    }
    HttpResponse::NotFound().content_type("text/plain; charset=utf-8").body(format!(
        "nothing is at {}: functions are at /run/<name>, and there are /status, /stats, /lambdas and /registry/\n",
        request.path()
    ))
}

/// Shorthand of the handlers.
type Shared = web::Data<App>;

/// The handlers run on threads of their own; what they share must be safe there.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<App>>();
};
