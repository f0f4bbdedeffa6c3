//! Functions that speak HTTP themselves: WSGI and ASGI apps, streams, WebSocket, and the frameworks that people use.

mod apps;
mod connections;
mod frameworks;
mod sockets;
mod streams;

use crate::support::{Program, Worker};

/// Where `quickstart/deps.sh --test` puts clients of the world.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-clients/bin/python");

/// Runs a Python program that has `websockets`, `httpx` and `requests`, and knows the worker as `PORT`. It must succeed.
#[track_caller]
fn with_clients(worker: &Worker, code: &str) -> String {
    let code = format!("PORT = {}\n{code}", worker.port());
    Program::at(CLIENTS).arg("-c").arg(code).succeed()
}
