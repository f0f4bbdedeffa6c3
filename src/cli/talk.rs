//! Waiting for the worker's answers: commands are plain functions, and the client is not.

use std::future::Future;
use std::time::Duration;

use super::error::CliError;
use crate::client::{Client, ClientError, Reply};
use crate::serve::REGISTRY_TIME_MAX;

/// How long a worker may take for `/status` and the like.
pub(super) const STATUS_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long a worker may take for what it has to ask its registry: longer than it lets itself be kept waiting by a store, so that it is
/// the one that says what is wrong.
pub(super) const REGISTRY_WAIT_MAX: Duration = REGISTRY_TIME_MAX.saturating_add(STATUS_WAIT_MAX);

/// Run a future to its end on this thread. Never called from inside of one.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> Result<T, CliError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    Ok(runtime.block_on(future))
}

/// Ask for something that a healthy worker knows at once.
pub(super) fn ask(client: &Client, path: &str) -> Result<Result<Reply, ClientError>, CliError> {
    let client = client.clone().with_deadlines(STATUS_WAIT_MAX, STATUS_WAIT_MAX);
    wait(async move { client.get(path).await })
}

/// Ask for something that a healthy worker has to ask its registry for.
pub(super) fn ask_registry(client: &Client, path: &str) -> Result<Result<Reply, ClientError>, CliError> {
    let client = client.clone().with_deadlines(STATUS_WAIT_MAX, REGISTRY_WAIT_MAX);
    wait(async move { client.get(path).await })
}

/// One line about a worker: `http://localhost:5000/status => ready [200 OK]`, and whether it is well.
pub(super) fn ping(client: &Client, address: &str) -> Result<(String, bool), CliError> {
    let url = format!("http://{address}/status");
    Ok(match ask(client, "/status")? {
        Ok(reply) => {
            (format!("{url} => {} [{}]", reply.text().trim(), reply.status), reply.status.is_success())
        }
        Err(error) => (format!("{url} => {error}"), false),
    })
}
