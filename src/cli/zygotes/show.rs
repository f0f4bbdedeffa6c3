//! `ol zygotes show`: the tree as it is.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use structopt::StructOpt;

use super::drawing::{Branch, draw, label, mb, time};
use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};

const PATH: &str = "/zygotes";

/// Draw the zygotes of packages, and what they were good for
#[derive(StructOpt)]
pub(crate) struct Show {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// All that is known of them, as JSON
    #[structopt(long)]
    json: bool,
}

/// The answer, as far as it is drawn.
#[derive(Debug, Deserialize)]
struct Shown {
    is_drawn: bool,
    bytes: u64,
    bytes_max: u64,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    node: u64,
    parent: u64,
    packages: Vec<String>,
    state: String,
    on_host: bool,
    replicas: usize,
    bytes: u64,
    hits: u64,
    forks: u64,
    saved_ms: f64,
}

impl Show {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = OlDir::at(&self.path)?.running()?;
        let reply = functions::accepted("GET", PATH, talk::ask(&settings.client(), PATH)??)?;
        let not_understood = |error: serde_json::Error| {
            CliError::Answer(format!("the worker's answer to GET {PATH} is not understood: {error}"))
        };
        if self.json {
            let shown: Value = reply.json().map_err(not_understood)?;
            say(format!("{shown:#}\n"));
            return Ok(());
        }
        say(drawn(&reply.json().map_err(not_understood)?));
        Ok(())
    }
}

fn drawn(shown: &Shown) -> String {
    let Shown { is_drawn, bytes, bytes_max, nodes } = shown;
    let branches: Vec<Branch> = nodes
        .iter()
        .map(|node| Branch {
            parent: nodes.iter().position(|other| other.node == node.parent),
            label: label(&node.packages) + if node.on_host { " (network: host)" } else { "" },
            columns: vec![
                if node.replicas > 1 {
                    format!("{} x {}", node.state, node.replicas)
                } else {
                    node.state.clone()
                },
                mb(node.bytes),
                node.hits.to_string(),
                node.forks.to_string(),
                time(node.saved_ms),
            ],
        })
        .collect();
    let origin = if *is_drawn { "somebody drew this tree" } else { "this tree fits itself" };
    // The sum of nothing is -0.
    let saved: f64 = nodes.iter().map(|node| node.saved_ms).sum::<f64>() + 0.0;
    let tree = draw("root", &["state", "memory", "hits", "forks", "imports saved"], &branches);
    format!(
        "{tree}\n{origin}; {} zygotes, {} of {}, {} of imports saved\n",
        nodes.iter().map(|node| node.replicas).sum::<usize>(),
        mb(*bytes),
        mb(*bytes_max),
        time(saved)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_drawn_with_what_it_is_good_for() {
        let node = |node, parent, name: &str, replicas| {
            serde_json::json!({
                "node": node, "parent": parent, "packages": [name], "state": "growing", "on_host": false,
                "replicas": replicas, "bytes": 3 << 20, "hits": 5, "forks": 7, "saved_ms": 250.0,
            })
        };
        let shown = serde_json::json!({
            "is_drawn": false, "bytes": 9 << 20, "bytes_max": 100 << 20,
            "nodes": [node(4, 0, "a==1", 2), node(9, 4, "b==1", 1)],
        });
        let text = drawn(&serde_json::from_value(shown).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("root ") && lines[0].ends_with("imports saved"), "{text}");
        assert!(lines[1].starts_with("└─ a==1") && lines[1].contains("growing x 2"), "{text}");
        assert!(lines[2].starts_with("   └─ b==1") && lines[2].contains("3.0 MB"), "{text}");
        assert_eq!(lines[4], "this tree fits itself; 3 zygotes, 9.0 MB of 100.0 MB, 500 ms of imports saved");
    }
}
