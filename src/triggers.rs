//! The desk of the thread that calls functions for triggers.
//!
//! Requests over HTTP are served by the thread that has read them, which keeps sandboxes on loan for the next ones. What
//! the clock and Kafka ask for is served likewise, by one more such thread, and so meets in the same sandboxes. Whoever
//! wants a call made brings a job to its desk: a future that runs over there and may call as often as it likes.

use std::rc::Rc;

use actors::name::FunctionName;
use actors::outcome::Outcome;
use actors::world::LocalFuture;
use bytes::Bytes;
use tokio::sync::mpsc;

/// A request that nobody has sent: `POST /run/<name>/`, with JSON for a body.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// Its headers, with names in lower case. A value that HTTP does not allow is left out.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
    /// The header of the answer that the trigger wants to know, in lower case.
    pub wanted: Option<&'static str>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// The header that was wanted, if the function has set it.
    pub found: Option<String>,
}

/// What a job may do on that thread.
pub trait Calls {
    /// Makes a call, from admission to the end of the answer. Dropped before that, it is cancelled as when a client goes.
    fn call(&self, name: &FunctionName, event: Event) -> LocalFuture<Answer>;
}

/// Work for that thread.
pub type Job = Box<dyn FnOnce(Rc<dyn Calls>) -> LocalFuture<()> + Send>;

/// Where jobs are brought. There is no bound to how many wait: one per schedule that is due, and one per partition that is
/// read.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::UnboundedSender<Job>);

impl Desk {
    /// A desk, and what the thread takes jobs from.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (desk, jobs) = mpsc::unbounded_channel();
        (Self(desk), jobs)
    }

    /// Has a job done. `false`: the worker has ended.
    pub fn bring(&self, job: impl FnOnce(Rc<dyn Calls>) -> LocalFuture<()> + Send + 'static) -> bool {
        self.0.send(Box::new(job)).is_ok()
    }
}
