//! Whether the client is still there.
//!
//! The server polls a handler to its end also when the connection has been closed meanwhile. A function
//! may run for minutes that nobody waits for: so the handler watches the connection itself. Only once the
//! call has been running for a while, because most are over before a watch would be set up.

use std::any::Any;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::{TcpStream, UnixStream};
use tokio::io::Interest;

use crate::sandbox::watch_fd;

/// Calls shorter than this are not watched: what they would save is less than what watching costs.
const WATCHED_AFTER: Duration = Duration::from_millis(20);

/// A second descriptor of the connection.
struct Connection(OwnedFd);

/// For `HttpServer::on_connect`.
pub(crate) fn remember(connection: &dyn Any, extensions: &mut Extensions) {
    let fd = if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        stream.as_fd().try_clone_to_owned()
    } else if let Some(stream) = connection.downcast_ref::<UnixStream>() {
        stream.as_fd().try_clone_to_owned()
    } else {
        return;
    };
    // Without it (no descriptor is free) the client's going is not seen, and the deadline ends the call.
    if let Ok(fd) = fd {
        extensions.insert(Connection(fd));
    }
}

/// Ends when the client has closed its side. A client that only stops sending is taken for gone as well, as most
/// servers do.
pub(super) async fn gone(request: &HttpRequest) {
    tokio::time::sleep(WATCHED_AFTER).await;
    let Some(Ok(fd)) = request.conn_data::<Connection>().map(|connection| connection.0.try_clone()) else {
        return pending().await;
    };
    let Ok(watched) = watch_fd(fd, Interest::READABLE) else { return pending().await };
    loop {
        match watched.ready(Interest::READABLE).await {
            Ok(mut ready) if !ready.ready().is_read_closed() => {
                // The next request, sent ahead: it is the server's to read. From now on only a change wakes us.
                ready.clear_ready();
            }
            _ => return,
        }
    }
}
