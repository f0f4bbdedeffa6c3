//! `ol zygotes train`: what a tree would bring, before there is one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use structopt::StructOpt;

use super::drawing::{Branch, draw, label, mb, time};
use crate::bench::trace::{self, Event};
use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{files, functions, say, talk};

const PATH: &str = "/zygotes/fit";

/// Fit a tree of zygotes to what was called, and tell what it would bring; nothing is made
#[derive(StructOpt)]
pub(crate) struct Train {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Calls to fit it to: CSV with the columns at_ms, function and body [default: what the worker has started lately]
    #[structopt(long, parse(from_os_str))]
    trace: Option<PathBuf>,
    /// Each call of the trace starts a sandbox [default: the first, and those after a pause of release_after_s]
    #[structopt(long)]
    each_call: bool,
    /// Write the tree to this file, for 'ol zygotes import'
    #[structopt(long, parse(from_os_str))]
    out: Option<PathBuf>,
    /// The tree and what it would bring as JSON
    #[structopt(long)]
    json: bool,
}

/// The answer, as far as it is drawn.
#[derive(Debug, Deserialize)]
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
}

#[derive(Debug, Deserialize)]
struct Node {
    parent: Option<usize>,
    packages: Vec<String>,
    bytes: u64,
    n_functions: u32,
    starts: f64,
    saved_ms: f64,
}

impl Train {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = OlDir::at(&self.path)?.running()?;
        let wanted = match &self.trace {
            Some(trace) => {
                let pause = if self.each_call { Some(Duration::ZERO) } else { settings.config.release_after };
                json!({ "calls": starts(&trace::read(trace)?, pause) })
            }
            None => json!({}),
        };
        let client = settings.client();
        let reply = talk::wait(async move { client.post(PATH, wanted.to_string()).await })??;
        let reply = functions::accepted("POST", PATH, reply)?;
        let not_understood = |error: serde_json::Error| {
            CliError::Answer(format!("the worker's answer to POST {PATH} is not understood: {error}"))
        };
        let all: Value = reply.json().map_err(not_understood)?;
        if let Some(out) = &self.out {
            files::replace_json(out, &all["tree"])?;
        }
        if self.json {
            say(format!("{all:#}\n"));
            return Ok(());
        }
        say(drawn(&serde_json::from_value(all).map_err(not_understood)?));
        Ok(())
    }
}

/// How many sandboxes of each function are started: one with its first call, and one with each after a longer pause.
fn starts(events: &[Event], pause: Option<Duration>) -> BTreeMap<&str, u32> {
    let mut last = BTreeMap::<&str, Duration>::new();
    let mut starts = BTreeMap::new();
    for event in events {
        let before = last.insert(&event.function, event.at);
        let is_start = before.is_none_or(|before| pause.is_some_and(|pause| event.at - before >= pause));
        *starts.entry(event.function.as_str()).or_insert(0) += u32::from(is_start);
    }
    starts
}

fn drawn(brings: &Brings) -> String {
    let branches: Vec<Branch> = brings
        .nodes
        .iter()
        .map(|node| Branch {
            parent: node.parent,
            label: label(&node.packages),
            columns: vec![
                mb(node.bytes),
                node.n_functions.to_string(),
                format!("{:.1}", node.starts),
                time(node.saved_ms),
            ],
        })
        .collect();
    let share = |ms: f64| if brings.without_ms > 0.0 { 100.0 * ms / brings.without_ms } else { 0.0 };
    let mut text = draw("root", &["memory", "functions", "starts", "imports saved"], &branches);
    text += &format!(
        "\n{} functions with packages import for {} without zygotes; this tree saves {:.0} % of it, the one that there is now {:.0} %\n\
         {} zygotes, {} of {}, by estimate; fitted in {:.0} ms\n",
        brings.n_functions,
        time(brings.without_ms),
        share(brings.saved_ms),
        share(brings.saved_now_ms),
        brings.nodes.len(),
        mb(brings.bytes),
        mb(brings.bytes_max),
        brings.took_ms,
    );
    if !brings.unknown.is_empty() {
        text += &format!("not known, or without packages: {}\n", label(&brings.unknown));
    }
    if !brings.unmeasured.is_empty() {
        text += &format!("never imported here, and taken for average ones: {}\n", label(&brings.unmeasured));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_first_call_or_one_after_a_pause() {
        let event = |s: u64, name: &str| Event {
            at: Duration::from_secs(s),
            function: name.into(),
            body: "{}".into(),
        };
        let events = [event(0, "a"), event(1, "a"), event(2, "b"), event(20, "a"), event(21, "a")];
        let of = |pause| starts(&events, pause).into_iter().collect::<Vec<_>>();
        assert_eq!(of(Some(Duration::from_secs(10))), [("a", 2), ("b", 1)]);
        assert_eq!(of(Some(Duration::ZERO)), [("a", 4), ("b", 1)]);
        assert_eq!(of(None), [("a", 1), ("b", 1)], "they are never given up");
    }

    #[test]
    fn what_a_tree_would_bring_is_told() {
        let brings = serde_json::json!({
            "n_functions": 3, "unknown": ["x"], "unmeasured": [], "without_ms": 200.0, "saved_ms": 150.0,
            "saved_now_ms": 50.0, "bytes": 4 << 20, "bytes_max": 64 << 20, "took_ms": 1.2,
            "nodes": [{"parent": null, "packages": ["a==1"], "bytes": 4 << 20, "n_functions": 2, "starts": 2.5, "saved_ms": 150.0}],
        });
        let text = drawn(&serde_json::from_value(brings).unwrap());
        assert!(
            text.contains("└─ a==1") && text.contains("saves 75 % of it, the one that there is now 25 %"),
            "{text}"
        );
        assert!(
            text.contains("1 zygotes, 4.0 MB of 64.0 MB") && text.contains("without packages: x"),
            "{text}"
        );
    }
}
