//! From a function's name to its lambda, also when nothing is known of the name yet.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actors::name::FunctionName;
use actors::router::{Resolve, ResolveError, Route};

use super::error::HttpError;
use super::{App, client};
use crate::world::OlWorld;

/// How long a call of a new function waits for its packages: as long as one run of the installer may take by default. Clients give up
/// sooner, most of them after a minute or two, and what was begun for them goes on.
pub const INSTALL_PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether they are there.
const INSTALL_LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many calls may wait like this. One that waits costs as much as its connection.
pub const INSTALL_WAITERS_MAX: usize = 1_024;

/// The lambda of this name: from the table, or by a look into the registry.
pub(super) async fn find(app: &App, name: &FunctionName) -> Result<Arc<Route<OlWorld>>, HttpError> {
    if let Some(route) = app.tree.routes.get(name.as_str()) {
        return Ok(route);
    }
    let found = match app.tree.router.ask(Resolve::new(name.clone())).await {
        Ok(found) => found,
        Err(_) => return Err(HttpError::Busy("the router is being restarted; try again".into())),
    };
    found.map_err(|error| match error {
        ResolveError::NotFound => HttpError::Unknown(name.to_string()),
        ResolveError::Rejected(text) => HttpError::NotServable(text),
        ResolveError::Installing => HttpError::Installing,
        ResolveError::Busy | ResolveError::Unavailable(_) => HttpError::Busy(error.to_string()),
    })
}

/// The same for who waits until the packages of a new function are there. It takes no lookup's place meanwhile.
pub(super) async fn find_in_time(
    app: &App,
    name: &FunctionName,
    request: &HttpRequest,
) -> Result<Arc<Route<OlWorld>>, HttpError> {
    let found = find(app, name).await;
    let Err(HttpError::Installing) = found else { return found };
    let Ok(_place) = app.install_waiters.try_acquire() else { return found };
    let wait = async {
        loop {
            tokio::time::sleep(INSTALL_LOOK_EVERY).await;
            match find(app, name).await {
                // Others may be looked up before it.
                Err(HttpError::Installing | HttpError::Busy(_)) => {}
                found => return found,
            }
        }
    };
    tokio::select! {
        found = tokio::time::timeout(INSTALL_PATIENCE, wait) => found.unwrap_or(Err(HttpError::Installing)),
        () = client::gone(Some(request)) => Err(HttpError::ClientGone),
        () = app.ending.cancelled() => Err(HttpError::Installing),
    }
}
