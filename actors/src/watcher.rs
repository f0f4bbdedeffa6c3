//! The view of the registry: which function is new, changed, gone or broken.
//!
//! ```text
//!   Touched ──▶ touched (settling) ──▶ queued ──▶ loading ──▶ providing ──▶ told to the supervisor ──▶ known
//!   Rescan, Lookup, Refresh ──────────────▲          │           (its packages)
//!                                         └──────────┘ still being written: again after SETTLE
//! ```
//!
//! A [`Lookup`] of a name that nobody here has heard of, where somebody elsewhere has to be asked, waits among strangers instead.
//!
//! Whatever watches the file system says which names were touched, in any number; each is read once it has
//! been left alone for [`SETTLE`]. What was read is told to the supervisor, which answers when it has taken
//! it in: that is why [`Lookup`] and [`Refresh`] can promise that a function they have found is live. (The
//! supervisor never waits for the watcher.)
//!
//! | part | what |
//! |---|---|
//! | `touches` | files that are left alone for a moment |
//! | `strangers` | names of which nothing is known |
//! | `reading` | who is read next, and who waits for it |
//! | `providing` | packages, before code goes into service |
//! | `verdict` | what a reading has come to |
//! | `scan` | the whole registry, and again when it could not be read |

mod providing;
mod reading;
mod scan;
mod strangers;
#[cfg(test)]
mod tests;
mod touches;
mod verdict;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, ResponseActFuture,
    ResponseFuture, SpawnHandle, WrapFuture, fut,
};
use slog::Logger;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::packages::Packages;
use crate::world::{Registry, World};
pub use providing::PACKAGES_AGAIN;
use reading::Job;
pub use reading::{ASKERS_MAX, LOAD_TIME_MAX, LOADS_MAX, UNSETTLED_AGAIN};
use scan::Scan;
pub use scan::{RETRY_PAUSE, RETRY_PAUSE_MAX};
use strangers::Strangers;
pub use strangers::{STRANGERS_ASKED_MAX, STRANGERS_MAX};
use touches::Touches;
pub use touches::{SETTLE, SETTLE_MAX};
use verdict::Known;
pub use verdict::TELL_TIME_MAX;

/// Something has happened to these functions' files.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Touched {
    /// Whose files.
    pub names: Vec<FunctionName>,
}

/// Look at the whole registry: events may have been lost.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rescan;

/// Is there a function of this name? `Ok(true)`: there is, and it is in the routing table.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, Trouble>")]
pub struct Lookup {
    /// The name that was asked for.
    pub name: FunctionName,
}

/// Read this function now. The answer is the version that is live from now on, or `None` if there is no such
/// function (any more).
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<String>, Trouble>")]
pub struct Refresh {
    /// The function that was uploaded or removed.
    pub name: FunctionName,
}

/// Where the registry lies does not answer, or with `None`, answers again. Whoever says so also looks after it: nothing is read
/// anew because of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reach {
    /// Why it does not answer.
    pub trouble: Option<String>,
}

/// What was seen in the registry; for the supervisor, which answers when it has taken it in.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Noticed<W: World> {
    /// A function is new, or has new code, or is again what it was before a broken upload.
    Changed {
        /// Which function.
        name: FunctionName,
        /// What is served from now on.
        code: W::Code,
    },
    /// A function is gone.
    Removed {
        /// Which function.
        name: FunctionName,
    },
    /// A function's files are not a function.
    Rejected {
        /// Which function.
        name: FunctionName,
        /// What to mend.
        reason: String,
    },
    /// The registry cannot be read, or with `None`, can be read again.
    Trouble {
        /// What failed.
        reason: Option<String>,
    },
}

/// Why a function was not found, or not taken into service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It is there, and is not a function; the text says what to mend.
    #[error("{0}")]
    Rejected(String),
    /// It is there, and its packages are not yet.
    #[error("the packages that the function needs are being installed; try again")]
    Installing,
    /// The registry could not be read.
    #[error("{0}")]
    Unavailable(String),
    /// Too many functions wait to be read.
    #[error("too many functions are being read; try again")]
    Busy,
}

impl Trouble {
    /// Who asks for what comes by itself may ask again.
    fn awaited(self, is_awaited: bool) -> Self {
        match self {
            Self::Rejected(reason) if is_awaited => Self::Unavailable(reason),
            other => other,
        }
    }
}

/// How long a lookup waits for packages: long enough to see which of them are there, and to install small ones. Who wants to wait longer
/// asks again, so that a few functions whose packages are being installed do not take the places of all other lookups.
pub const INSTALL_WAIT_MAX: Duration = Duration::from_millis(250);

/// The watcher of the registry.
pub struct RegistryWatcher<W: World> {
    registry: W::Registry,
    packages: Link<Packages<W>>,
    supervisor: Recipient<Noticed<W>>,
    known: HashMap<FunctionName, Known<W>>,
    touched: Touches,
    settling: Option<SpawnHandle>,
    jobs: HashMap<FunctionName, Job>,
    queue: VecDeque<FunctionName>,
    strangers: Strangers,
    /// Functions whose packages are asked for again in a while.
    providing_later: HashSet<FunctionName>,
    n_loading: usize,
    scan: Scan,
    retry: Backoff,
    retrying: Option<SpawnHandle>,
    /// Why the registry could not be read, if that was so the last time.
    trouble: Option<String>,
    /// Why the place where it lies does not answer, as was said last.
    out_of_reach: Option<String>,
    /// Something could not be read since the last scan began.
    failed_since_scan: bool,
    log: Logger,
    _monitor: Monitor,
}

type Answer = Result<Option<String>, Trouble>;

impl<W: World> RegistryWatcher<W> {
    /// Knows nothing yet; scans the registry as soon as it runs.
    #[must_use]
    pub fn new(
        registry: W::Registry,
        packages: Link<Packages<W>>,
        supervisor: Recipient<Noticed<W>>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        Self {
            registry,
            packages,
            supervisor,
            known: HashMap::new(),
            touched: Touches::default(),
            settling: None,
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            strangers: Strangers::default(),
            providing_later: HashSet::new(),
            n_loading: 0,
            scan: Scan::Resting,
            retry: Backoff::new(RETRY_PAUSE, RETRY_PAUSE_MAX),
            retrying: None,
            trouble: None,
            out_of_reach: None,
            failed_since_scan: false,
            log,
            _monitor: monitor,
        }
    }

    /// Read what has been left alone for long enough, and come back when the next may have been.
    fn read_settled(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for name in self.touched.take_settled(now) {
            self.want(name, ctx);
        }
        if let Some(next) = self.touched.next_due() {
            // A timer's grain is a millisecond.
            let pause = (next - now).max(Duration::from_millis(1));
            self.settling = Some(ctx.run_later(pause, |watcher, ctx| {
                watcher.settling = None;
                watcher.read_settled(ctx);
            }));
        }
    }
}

impl<W: World> Actor for RegistryWatcher<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.rescan(ctx);
    }
}

impl<W: World> Handler<Touched> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, Touched { names }: Touched, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for name in names {
            self.touched.add(name, now);
        }
        if self.settling.is_none() {
            self.read_settled(ctx);
        }
    }
}

impl<W: World> Handler<Rescan> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, _: Rescan, ctx: &mut Context<Self>) {
        self.rescan(ctx);
    }
}

impl<W: World> Handler<Reach> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, Reach { trouble }: Reach, ctx: &mut Context<Self>) {
        self.out_of_reach = trouble;
        // What cannot be read here is told of before what cannot be asked for elsewhere.
        if self.trouble.is_none() {
            self.tell_of_trouble(self.out_of_reach.clone(), ctx);
        }
    }
}

impl<W: World> Handler<Lookup> for RegistryWatcher<W> {
    type Result = ResponseActFuture<Self, Result<bool, Trouble>>;

    fn handle(&mut self, Lookup { name }: Lookup, ctx: &mut Context<Self>) -> Self::Result {
        match self.known.get(&name) {
            Some(Known { code: Some(_), .. }) => return Box::pin(fut::ok(true)),
            Some(Known { rejected: Some(reason), again_from, is_awaited, .. })
                if again_from.is_none_or(|again_from| Instant::now() < again_from) =>
            {
                return Box::pin(fut::err(Trouble::Rejected(reason.clone()).awaited(*is_awaited)));
            }
            _ => {}
        }
        let is_stranger = !self.known.contains_key(&name)
            && !self.jobs.contains_key(&name)
            && !self.registry.is_at_hand(&name);
        let mut answer = if is_stranger {
            self.want_stranger(name.clone(), ctx)
        } else {
            self.want_now(name.clone(), false, ctx)
        };
        let first = async move {
            let early = tokio::time::timeout(INSTALL_WAIT_MAX, &mut answer).await;
            early.map_err(|_| answer)
        };
        Box::pin(first.into_actor(self).then(move |first, watcher, _ctx| {
            let is_providing = watcher.jobs.get(&name).is_some_and(|job| job.providing.is_some());
            let answer = async move {
                let answer = match first {
                    Ok(answer) => answer,
                    Err(_) if is_providing => return Err(Trouble::Installing),
                    Err(answer) => answer.await,
                };
                answer.map(|version| version.is_some())
            };
            answer.into_actor(watcher)
        }))
    }
}

impl<W: World> Handler<Refresh> for RegistryWatcher<W> {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, Refresh { name }: Refresh, ctx: &mut Context<Self>) -> Self::Result {
        // What was touched until now is read with this.
        self.touched.forget(&name);
        self.want_now(name, true, ctx)
    }
}

impl<W: World> Handler<Crash> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}
