//! The tree of zygotes over HTTP: what there is, what another would bring, and what is to be.

use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use actors::fit::FittedNode;
use actors::link::Link;
use actors::zygotes::{Draw, Project, Projection, Show, Shown, Zygotes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shared;
use super::error::HttpError;
use super::upload::{BUFFERED_BYTES_MAX, answered, order};
use crate::json;
use crate::packages::tree_file;
use crate::world::OlWorld;

/// Longest tree, and longest list of calls: some thousand nodes or functions.
const TREE_BYTES_MAX: usize = BUFFERED_BYTES_MAX;

/// What is asked with `POST /zygotes/fit`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// How often each function is called without a warm sandbox; left out: what was started lately.
    calls: Option<std::collections::HashMap<String, f64>>,
}

/// What a fitted tree would bring.
#[derive(Debug, Serialize)]
struct Brings {
    n_functions: u32,
    unknown: Vec<String>,
    unmeasured: Vec<String>,
    without_ms: f64,
    saved_ms: f64,
    saved_now_ms: f64,
    bytes: u64,
    bytes_max: u64,
    took_ms: f64,
    nodes: Vec<Node>,
    tree: Value,
}

/// One of its nodes.
#[derive(Debug, Serialize)]
struct Node {
    parent: Option<usize>,
    packages: Vec<String>,
    bytes: u64,
    n_functions: u32,
    starts: f64,
    saved_ms: f64,
}

impl From<Projection> for Brings {
    fn from(projection: Projection) -> Self {
        let Projection { fitted, saved_now_ms, n_functions, unknown, unmeasured, bytes_max, took } =
            projection;
        let names = |node: &FittedNode| node.adds.iter().map(ToString::to_string).collect::<Vec<_>>();
        let tree: Vec<_> = fitted.nodes.iter().map(|node| (node.parent, names(node))).collect();
        Self {
            n_functions,
            unknown,
            unmeasured,
            without_ms: fitted.ms_without,
            saved_ms: fitted.ms_saved,
            saved_now_ms,
            bytes: fitted.bytes,
            bytes_max,
            took_ms: took.as_secs_f64() * 1e3,
            tree: tree_file::nested(&tree),
            nodes: fitted
                .nodes
                .iter()
                .map(|node| Node {
                    parent: node.parent,
                    packages: names(node),
                    bytes: node.bytes,
                    n_functions: node.n_functions,
                    starts: node.weight,
                    saved_ms: node.ms_saved,
                })
                .collect(),
        }
    }
}

fn restarting() -> HttpError {
    HttpError::Busy("the zygotes are being restarted; try again a moment later".into())
}

async fn shown(zygotes: &Link<Zygotes<OlWorld>>) -> Result<Shown, HttpError> {
    zygotes.ask(Show).await.map_err(|_| restarting())
}

/// `GET /zygotes`.
pub(super) async fn show(app: Shared) -> HttpResponse {
    match shown(&app.tree.zygotes).await {
        Ok(shown) => HttpResponse::Ok().json(shown),
        Err(error) => error.response(),
    }
}

/// `GET /zygotes/tree`, in OpenLambda's form.
pub(super) async fn export(app: Shared) -> HttpResponse {
    match shown(&app.tree.zygotes).await {
        Ok(Shown { nodes, .. }) => {
            let place = |node| nodes.iter().position(|other| other.node == node);
            let tree: Vec<_> = nodes.iter().map(|node| (place(node.parent), node.packages.clone())).collect();
            HttpResponse::Ok().json(tree_file::nested(&tree))
        }
        Err(error) => error.response(),
    }
}

/// `POST /zygotes/fit`: nothing is made.
pub(super) async fn fit(request: HttpRequest, app: Shared, payload: Payload) -> HttpResponse {
    let mut unread = Some(payload);
    let response = match order(&request, &mut unread, TREE_BYTES_MAX).await {
        Ok(body) => fit_to(&app, &body).await,
        Err(error) => error.response(),
    };
    answered(response, unread)
}

async fn fit_to(app: &Shared, body: &[u8]) -> HttpResponse {
    let wanted: Wanted = match body {
        [] => Wanted::default(),
        text => match serde_json::from_slice(text) {
            Ok(wanted) => wanted,
            Err(error) => {
                return HttpError::BadTree(format!("the body is not understood: {error}")).response();
            }
        },
    };
    match app.tree.zygotes.ask(Project { calls: wanted.calls }).await {
        Ok(Ok(projection)) => HttpResponse::Ok().json(Brings::from(projection)),
        Ok(Err(error)) => HttpError::Busy(error.to_string()).response(),
        Err(_) => restarting().response(),
    }
}

/// `PUT /zygotes/tree`. Whatever its type is said to be.
pub(super) async fn import(request: HttpRequest, app: Shared, payload: Payload) -> HttpResponse {
    let mut unread = Some(payload);
    let response = match order(&request, &mut unread, TREE_BYTES_MAX).await {
        Ok(body) => draw(&app, &body).await,
        Err(error) => error.response(),
    };
    answered(response, unread)
}

async fn draw(app: &Shared, body: &[u8]) -> HttpResponse {
    let tree = match json::read_bytes(body) {
        Ok(tree) => tree,
        Err(error) => return HttpError::BadTree(format!("the tree is not understood: {error}")).response(),
    };
    // A path or a text is what a configuration may have.
    let plan = match tree_file::parse(&tree) {
        Ok(plan) => plan,
        Err(error) => return HttpError::BadTree(error).response(),
    };
    set(app, Some((tree, plan))).await
}

/// `DELETE /zygotes/tree`.
pub(super) async fn forget(app: Shared) -> HttpResponse {
    set(&app, None).await
}

async fn set(app: &Shared, tree: Option<(Value, actors::tree::Plan)>) -> HttpResponse {
    let Some(path) = &app.zygotes_file else {
        return HttpError::TreeIsFixed.response();
    };
    let (value, plan) = tree.unzip();
    // On disk first: what is used now is there after a restart as well.
    let path = path.clone();
    let kept = actix_web::web::block(move || match &value {
        Some(tree) => tree_file::keep(&path, tree),
        None => tree_file::drop_kept(&path),
    });
    match kept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return HttpError::Registry(format!("cannot keep the tree: {error}")).response(),
        Err(error) => return HttpError::Registry(error.to_string()).response(),
    }
    let said =
        if plan.is_some() { "The tree is used from now on\n" } else { "The tree fits itself from now on\n" };
    match app.tree.zygotes.ask(Draw { plan }).await {
        Ok(()) => HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(said),
        Err(_) => restarting().response(),
    }
}
