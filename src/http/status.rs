//! What the worker says of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use actix_web::HttpResponse;
#[cfg(debug_assertions)]
use actix_web::web;
use actors::cron::AskCron;
use actors::evictor::Memory;
use actors::kafka::AskKafka;
#[cfg(debug_assertions)]
use actors::monitor::Crash;
use actors::packages::AskActivity;
use actors::stats::{CronStatus, KafkaStatus, LambdaStatus};
use actors::supervisor::{AskHealth, Statuses};
use actors::zygotes::Waiting;
use serde::Serialize;

use super::error::HttpError;

use super::{App, Shared};
use crate::sandbox::tally::{self, Tally};

/// `/status`: OpenLambda's text, which scripts compare.
pub(super) async fn ready() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ready\n")
}

/// `/pid`, on the Unix socket.
pub(super) async fn pid() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(std::process::id().to_string())
}

/// How long the statistics wait for the packages' part of them: it is one number, and a worker that ends must not wait for it.
const PACKAGES_PATIENCE: Duration = Duration::from_secs(1);

/// OpenLambda's names of what is done to sandboxes.
const TALLIES: [(&str, &Tally); 7] = [
    ("fresh-cgroup", &tally::CGROUP),
    ("make-root-fs", &tally::SHELL),
    ("fork-proc", &tally::FORK),
    // There that is this and the way into a cgroup, which here is the fork's own.
    ("forkRequest", &tally::FORK),
    ("Pause()", &tally::PAUSE),
    ("Unpause()", &tally::UNPAUSE),
    ("Destroy()", &tally::DESTROY),
];

/// `/stats`.
pub(super) async fn stats(app: Shared) -> HttpResponse {
    HttpResponse::Ok().json(statistics(&app).await)
}

/// Counts and mean times of what the worker has done; what it has not done is left out. `GET /stats` gives this, and at the worker's end
/// it is in `stats.json`.
pub async fn statistics(app: &App) -> BTreeMap<String, u64> {
    let mut map = app.stats.to_map();
    let counters = app.tree.stats.read();
    // Only for requests are sandboxes thawed, if not by hand.
    let thawed = app.by_hand.is_none().then_some(("LambdaInstance-WaitSandbox-Unpause", &tally::UNPAUSE));
    for (name, tally) in TALLIES.into_iter().chain(thawed) {
        let (n, total) = tally.read();
        if n > 0 {
            map.insert(format!("{name}.cnt"), n);
            map.insert(format!("{name}.ms-avg"), total.as_millis() as u64 / n);
            map.insert(format!("{name}.us-avg"), total.as_micros() as u64 / n);
        }
    }
    let activity = tokio::time::timeout(PACKAGES_PATIENCE, app.tree.packages.ask(AskActivity)).await;
    let activity = activity.ok().and_then(Result::ok);
    // Three tiers, each with what it has spared, what it could not, and what it has let go.
    let figures = [
        // There a package is pulled by the first call that needs it, be it on the disk already or not.
        ("pull-package.cnt", counters.packages_used),
        ("packages.hits", counters.package_hits),
        ("packages.misses", counters.packages_installed),
        ("packages.failures", counters.package_failures),
        ("packages.evictions", counters.packages_evicted),
        ("packages.bytes", activity.map_or(0, |activity| activity.bytes)),
        ("zygotes.hits", counters.package_zygote_forks + counters.lambda_zygote_forks),
        ("zygotes.started", counters.package_zygotes_started + counters.lambda_zygotes_started),
        ("sandboxes.started", counters.sandboxes_started),
        ("sandboxes.evictions", counters.released_under_pressure),
        ("evict.cnt", counters.released_under_pressure),
        ("ImportCache.Create.cnt", counters.package_zygotes_started),
        ("ImportCache.createChildSandboxFromNode.cnt", counters.package_zygote_forks),
    ];
    map.extend(figures.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)));
    map
}

/// `/lambdas`: the per-lambda actors, for programs; the command line makes a table of it.
pub(super) async fn lambdas(app: Shared) -> HttpResponse {
    let tree = &app.tree;
    let (lambdas, cron, kafka, health, memory, standbys, installs) = tokio::join!(
        tree.supervisor.send(Statuses),
        tree.cron.ask(AskCron),
        tree.kafka.ask(AskKafka),
        tree.supervisor.send(AskHealth),
        tree.evictor.addr().send(Memory),
        tree.zygotes.ask(Waiting),
        tree.packages.ask(AskActivity)
    );
    let Ok(lambdas) = lambdas else { return ending() };
    let (cron, kafka) = (cron.unwrap_or_default().0, kafka.unwrap_or_default().0);
    let lambdas: Vec<_> = lambdas
        .iter()
        .map(|row| Row { row, cron: cron.get(&row.name), kafka: kafka.get(&row.name) })
        .collect();
    HttpResponse::Ok().json(serde_json::json!({
        "worker": {
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "cgroup": app.cgroup_layout,
            "logs": app.logs,
            "health": health.ok(),
            "memory": memory.ok(),
            "standbys": standbys.ok().map(|classes| classes.into_iter().map(|(_, n)| n).sum::<usize>()),
            "shells": app.launcher.n_spare_shells(),
            "packages": installs.ok(),
            "counters": tree.stats.read(),
        },
        "lambdas": lambdas,
    }))
}

/// A lambda, with its triggers if it has any.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    row: &'a LambdaStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<&'a Vec<CronStatus>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kafka: Option<&'a Vec<KafkaStatus>>,
}

/// `/debug`: the same for people.
pub(super) async fn debug(app: Shared) -> HttpResponse {
    let Ok(lambdas) = app.tree.supervisor.send(Statuses).await else { return ending() };
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "worker pid {}, cgroup {}", std::process::id(), app.cgroup_layout);
    let _ = writeln!(text, "{:#?}\n", app.tree.stats.read());
    for lambda in lambdas {
        let _ = writeln!(text, "{lambda:#?}\n");
    }
    if let Some(by_hand) = &app.by_hand {
        text.push_str(&by_hand.describe());
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text)
}

fn ending() -> HttpResponse {
    HttpError::Busy("the worker is ending".into()).response()
}

/// `POST /crash/<name>`, in debug builds and on the Unix socket only: makes the lambda's actor panic, for the tests of
/// what happens then.
#[cfg(debug_assertions)]
pub(super) async fn crash(app: Shared, name: web::Path<String>) -> HttpResponse {
    let lambda = app.tree.routes.get(&name).and_then(|route| route.lambda.clone());
    match lambda.map(|lambda| lambda.try_send(Crash)) {
        Some(Ok(())) => HttpResponse::Accepted().finish(),
        Some(Err(_)) | None => HttpResponse::NotFound().finish(),
    }
}
