//! What a reading has come to: what the supervisor is told of it, and what is known once it has been told.

use std::time::Duration;

use actix::Recipient;
use slog::warn;
use tokio::time::Instant;

use super::{Answer, Noticed, RegistryWatcher, SETTLE_MAX, Trouble};
use crate::name::FunctionName;
use crate::world::{Code, RegistryError, World};

/// How long the supervisor may take to take something in. It only ever does short things.
pub const TELL_TIME_MAX: Duration = Duration::from_secs(5);

/// What the supervisor has been told about a function.
pub(super) struct Known<W: World> {
    pub(super) code: Option<W::Code>,
    pub(super) rejected: Option<String>,
    /// From when on somebody's asking is worth another look, if it was rejected for want of its packages.
    pub(super) again_from: Option<Instant>,
    /// It comes by itself, when what has to give it its packages is there again.
    pub(super) is_awaited: bool,
}

/// What a reading has come to.
pub(super) struct Verdict<W: World> {
    /// What the supervisor must be told.
    pub(super) noticed: Option<Noticed<W>>,
    /// What is known once it has been told.
    pub(super) known: Update<W>,
    /// `None`: half written, ask again in a moment.
    pub(super) answer: Option<Answer>,
}

pub(super) enum Update<W: World> {
    Keep,
    Set(Known<W>),
    Forget,
}

impl<W: World> Verdict<W> {
    fn nothing_new(answer: Answer) -> Self {
        Self { noticed: None, known: Update::Keep, answer: Some(answer) }
    }
}

impl<W: World> RegistryWatcher<W> {
    pub(super) fn judge(
        &mut self,
        name: &FunctionName,
        loaded: Result<Option<W::Code>, RegistryError>,
    ) -> Verdict<W> {
        let known = self.known.get(name);
        match loaded {
            Ok(Some(code)) => {
                let version = code.version().to_owned();
                if is_served(known, &code) {
                    return Verdict::nothing_new(Ok(Some(version)));
                }
                Verdict {
                    noticed: Some(Noticed::Changed { name: name.clone(), code: code.clone() }),
                    known: Update::Set(Known {
                        code: Some(code),
                        rejected: None,
                        again_from: None,
                        is_awaited: false,
                    }),
                    answer: Some(Ok(Some(version))),
                }
            }
            Ok(None) if known.is_none() => Verdict::nothing_new(Ok(None)),
            Ok(None) => Verdict {
                noticed: Some(Noticed::Removed { name: name.clone() }),
                known: Update::Forget,
                answer: Some(Ok(None)),
            },
            Err(RegistryError::Invalid(reason)) => self.reject(name, reason),
            Err(RegistryError::Unsettled(reason)) => {
                let began = self.jobs.get(name).map(|job| job.began);
                if began.is_some_and(|began| began.elapsed() < SETTLE_MAX) {
                    return Verdict { noticed: None, known: Update::Keep, answer: None };
                }
                self.reject(name, reason)
            }
            Err(error @ RegistryError::Away(_)) => {
                Verdict::nothing_new(Err(Trouble::Unavailable(error.to_string())))
            }
            Err(error @ RegistryError::Unavailable(_)) => {
                let reason = error.to_string();
                self.failed_since_scan = true;
                let answer = Err(Trouble::Unavailable(reason.clone()));
                if self.trouble.as_ref() == Some(&reason) {
                    return Verdict::nothing_new(answer);
                }
                warn!(self.log, "failed to read the registry, what is known is served on"; "error" => &reason);
                self.trouble = Some(reason.clone());
                let noticed = Some(Noticed::Trouble { reason: Some(reason) });
                Verdict { noticed, known: Update::Keep, answer: Some(answer) }
            }
        }
    }

    fn reject(&self, name: &FunctionName, reason: String) -> Verdict<W> {
        let known = self.known.get(name);
        let answer = Err(Trouble::Rejected(reason.clone()));
        if known.is_some_and(|known| known.rejected.as_ref() == Some(&reason)) {
            return Verdict::nothing_new(answer);
        }
        let code = known.and_then(|known| known.code.clone());
        Verdict {
            noticed: Some(Noticed::Rejected { name: name.clone(), reason: reason.clone() }),
            known: Update::Set(Known { code, rejected: Some(reason), again_from: None, is_awaited: false }),
            answer: Some(answer),
        }
    }
}

/// Whether the supervisor has this code, and nothing is wrong with it.
pub(super) fn is_served<W: World>(known: Option<&Known<W>>, code: &W::Code) -> bool {
    known.is_some_and(|known| {
        known.rejected.is_none() && known.code.as_ref().is_some_and(|old| old.version() == code.version())
    })
}

/// Tell the supervisor, if there is something to tell, and wait until it has taken it in.
pub(super) async fn tell<W: World>(supervisor: Recipient<Noticed<W>>, noticed: Option<Noticed<W>>) -> bool {
    match noticed {
        Some(noticed) => {
            matches!(tokio::time::timeout(TELL_TIME_MAX, supervisor.send(noticed)).await, Ok(Ok(())))
        }
        None => true,
    }
}
