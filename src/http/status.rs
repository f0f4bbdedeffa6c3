//! What the worker says of itself.

use std::fmt::Write as _;

use actix_web::{HttpResponse, web};

use super::Shared;

/// `/status`: OpenLambda's text, which scripts compare.
pub(super) async fn ready() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ready\n")
}

/// `/pid`, on the Unix socket.
pub(super) async fn pid() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(std::process::id().to_string())
}

/// `/stats`.
pub(super) async fn stats(app: Shared) -> HttpResponse {
    HttpResponse::Ok().json(app.stats.to_map())
}

/// `/lambdas`: the per-lambda actors, for programs; the command line makes a table of it.
pub(super) async fn lambdas(app: Shared) -> HttpResponse {
    let lambdas = app.tree.statuses().await;
    let memory = app.tree.memory();
    HttpResponse::Ok().json(serde_json::json!({
        "worker": {
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "cgroup": app.cgroup_layout,
            "logs": app.logs,
            "memory": memory,
        },
        "lambdas": lambdas,
    }))
}

/// `/debug`: the same for people.
pub(super) async fn debug(app: Shared) -> HttpResponse {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "worker pid {}, cgroup {}, memory {:?}\n", std::process::id(), app.cgroup_layout, app.tree.memory());
    for lambda in app.tree.statuses().await {
        let _ = writeln!(text, "{lambda:#?}\n");
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text)
}

/// `POST /crash/<name>`, in debug builds and on the Unix socket only: makes the lambda's actor panic, for the tests of
/// what happens then.
#[cfg(debug_assertions)]
pub(super) async fn crash(app: Shared, name: web::Path<String>) -> HttpResponse {
    match name.parse() {
        Ok(name) if app.tree.crash(&name) => HttpResponse::Accepted().finish(),
        _ => HttpResponse::NotFound().finish(),
    }
}
