//! Whether the client is still there.
//!
//! The server polls a handler to its end also when the connection has been closed meanwhile. A function
//! may run for minutes that nobody waits for: so the handler watches the connection itself. Only once the
//! call has been running for a while, because most are over before a watch would be set up.

use std::cell::Cell;
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use tokio::io::Interest;
use tokio::sync::Notify;

use crate::fd::watched;

/// Calls are watched from their second tick on: what a watch would save of shorter ones is less than what it costs.
const TICK: Duration = Duration::from_millis(20);

/// One clock for all calls of a thread. A timer for each would, being the soonest of all, make the event loop wake
/// itself on every call: two system calls of some ten that a warm call has.
#[derive(Default)]
struct Ticker {
    tick: Notify,
    n_waiting: Cell<usize>,
    runs: Cell<bool>,
}

thread_local! {
    static TICKER: Rc<Ticker> = Rc::default();
}

/// Counts a waiting call, on every way out.
struct Waiting(Rc<Ticker>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.n_waiting.set(self.0.n_waiting.get() - 1);
    }
}

/// Ends one to two ticks from now.
async fn a_while() {
    let ticker = TICKER.with(Rc::clone);
    ticker.n_waiting.set(ticker.n_waiting.get() + 1);
    let waiting = Waiting(Rc::clone(&ticker));
    if !ticker.runs.replace(true) {
        actix_web::rt::spawn(run(Rc::clone(&ticker)));
    }
    waiting.0.tick.notified().await;
    waiting.0.tick.notified().await;
}

/// Ticks until there was a tick that nobody waited for.
async fn run(ticker: Rc<Ticker>) {
    while ticker.n_waiting.get() > 0 {
        tokio::time::sleep(TICK).await;
        ticker.tick.notify_waiters();
    }
    ticker.runs.set(false);
}

/// A second descriptor of the connection.
struct Connection(OwnedFd);

/// For each connection.
pub(super) fn remember(socket: &impl AsFd, extensions: &mut Extensions) {
    // Without it (no descriptor is free) the client's going is not seen, and the deadline ends the call.
    if let Ok(fd) = socket.as_fd().try_clone_to_owned() {
        extensions.insert(Connection(fd));
    }
}

/// Ends when the client has closed its side. A client that only stops sending is taken for gone as well, as most
/// servers do. Without a client it never ends.
pub(super) async fn gone(request: Option<&HttpRequest>) {
    let Some(request) = request else { return pending().await };
    a_while().await;
    let Some(Ok(fd)) = request.conn_data::<Connection>().map(|connection| connection.0.try_clone()) else {
        return pending().await;
    };
    let Ok(watch) = watched::register(fd, Interest::READABLE) else { return pending().await };
    loop {
        match watch.ready(Interest::READABLE).await {
            Ok(mut ready) if !ready.ready().is_read_closed() => {
                // The next request, sent ahead: it is the server's to read. From now on only a change wakes us.
                ready.clear_ready();
            }
            _ => return,
        }
    }
}
