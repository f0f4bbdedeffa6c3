//! What an HTTP thread does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{FakeSandbox, FakeWorld, name};
use crate::pool::{Lease, Refusal};
use crate::router::{Resolve, ResolveError, Route};
use crate::stats::LambdaStatus;
use crate::supervisor::{Statuses, Tree};

/// Find a function as an HTTP thread does.
pub(crate) async fn route(tree: &Tree<FakeWorld>, text: &str) -> Result<Arc<Route<FakeWorld>>, ResolveError> {
    match tree.routes.get(text) {
        Some(route) => Ok(route),
        None => tree.router.ask(Resolve::new(name(text))).await.expect("the router lives"),
    }
}

/// Lease a sandbox as an HTTP thread does.
pub(crate) async fn lease(tree: &Tree<FakeWorld>, text: &str) -> Result<Lease<FakeSandbox>, Refusal> {
    route(tree, text).await.expect("the function is there").pool.lease_or_wait().await
}

/// One invocation from start to end.
pub(crate) async fn call(tree: &Tree<FakeWorld>, text: &str, takes: Duration) -> Result<String, Refusal> {
    let lease = lease(tree, text).await?;
    sleep(takes).await;
    let version = lease.version();
    lease.finish(takes);
    Ok(version)
}

pub(crate) async fn status(tree: &Tree<FakeWorld>, text: &str) -> LambdaStatus {
    let rows = tree.supervisor.send(Statuses).await.unwrap();
    rows.into_iter().find(|row| row.name.as_str() == text).expect("the function has a row")
}
