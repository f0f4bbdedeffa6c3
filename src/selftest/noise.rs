//! Noisy neighbours: what a function that minds its own business notices of one that takes all it gets.
//!
//! Figures are reported, and no verdict is given by time: who else works on the machine is not known. What fails is
//! a neighbour that is not served, or is served something else.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Listed;
use super::judge::Finding;
use super::stage::{NEIGHBOUR, Stage};

pub(super) const LISTED: &[Listed] = &[
    Listed { id: "noise.cpu", tries: "spin beside a neighbour" },
    Listed { id: "noise.memory", tries: "run out of memory again and again beside a neighbour" },
    Listed { id: "noise.forks", tries: "fork without end beside a neighbour" },
    Listed { id: "noise.disk", tries: "fill /tmp again and again beside a neighbour" },
    Listed { id: "noise.log", tries: "flood the log beside a neighbour" },
];

/// How long each side is measured: some hundred calls, so that the 99th percentile is one of several.
const MEASURED: Duration = Duration::from_secs(2);
/// Between two calls: a neighbour is there, and does not fight for the processor itself.
const PAUSE: Duration = Duration::from_millis(3);

/// The 99th percentile of a neighbour's calls, alone and beside the noise.
pub(super) async fn measure(stage: &Stage, id: &str) -> Finding {
    let (function, event) = match id {
        "noise.cpu" => ("endless", json!({"of": "processor"})),
        "noise.memory" => ("hungry", json!({"of": "memory", "mb": 200})),
        "noise.forks" => ("endless", json!({"of": "endless_processes"})),
        "noise.disk" => ("filler", json!({"of": "disk", "mb": 64})),
        _ => ("printer", json!({"way": "flood", "mb": 4})),
    };
    let measured = async {
        // A first call is another matter.
        let _ = percentiles(stage, Duration::from_millis(200)).await?;
        let alone = percentiles(stage, MEASURED).await?;
        let beside = tokio::select! {
            beside = percentiles(stage, MEASURED) => beside?,
            never = make_noise(stage, function, &event) => match never {},
        };
        Ok((alone, beside))
    };
    match measured.await {
        Ok((alone, beside)) => Finding::Contained(format!(
            "the neighbour's p99 is {:.1} ms beside it, {:.1} ms alone: {:.1} times (p50 {:.1} and {:.1} ms; {} and {} calls)",
            ms(beside.p99),
            ms(alone.p99),
            beside.p99.as_secs_f64() / alone.p99.as_secs_f64().max(1e-6),
            ms(beside.p50),
            ms(alone.p50),
            beside.n,
            alone.n,
        )),
        Err(why) => Finding::Escaped(why),
    }
}

struct Percentiles {
    n: usize,
    p50: Duration,
    p99: Duration,
}

/// Calls the neighbour over one connection.
async fn percentiles(stage: &Stage, length: Duration) -> Result<Percentiles, String> {
    let mut connection = stage.client().connect().await.map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < length {
        let event = json!({"n": took.len()});
        let sent = Instant::now();
        let reply = connection
            .request(crate::client::Method::POST, &format!("/run/{NEIGHBOUR}"), &[], event.to_string())
            .await
            .map_err(|error| format!("the neighbour was not served: {error}"))?;
        took.push(sent.elapsed());
        if reply.json::<Value>().ok().as_ref() != Some(&event) {
            return Err(format!("the neighbour was answered {} {}", reply.status, reply.text()));
        }
        tokio::time::sleep(PAUSE).await;
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
    Ok(Percentiles { n: took.len(), p50: at(0.5), p99: at(0.99) })
}

/// Calls the one that takes all it gets, again and again, on two connections: one for each processor of a small machine.
async fn make_noise(stage: &Stage, function: &str, event: &Value) -> Infallible {
    tokio::select! {
        never = again_and_again(stage, function, event) => never,
        never = again_and_again(stage, function, event) => never,
    }
}

async fn again_and_again(stage: &Stage, function: &str, event: &Value) -> Infallible {
    loop {
        // However it ends: what matters is what the neighbour notices.
        if stage.ask(function, event).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
