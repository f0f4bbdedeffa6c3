//! Installed packages. One actor owns them, so that one day there is one install per package and version,
//! shared by all who wait.
//!
//! This version installs nothing yet: a function that asks for packages is told what to do instead.

use actix::{Actor, Context, Handler, Message, MessageResult};
use slog::{Logger, debug};

use crate::monitor::{Crash, Monitor};
use crate::world::LaunchError;

/// See to it that these packages can be imported.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), LaunchError>")]
pub struct Require {
    /// As the user wrote them.
    pub packages: Vec<String>,
}

/// How many packages a message to a person lists.
const LISTED_MAX: usize = 5;

/// The owner of installed packages.
#[derive(Debug)]
pub struct Packages {
    log: Logger,
    _monitor: Monitor,
}

impl Packages {
    /// Owns nothing yet.
    #[must_use]
    pub fn new(log: Logger, monitor: Monitor) -> Self {
        Self { log, _monitor: monitor }
    }
}

impl Actor for Packages {
    type Context = Context<Self>;
}

impl Handler<Require> for Packages {
    type Result = MessageResult<Require>;

    fn handle(&mut self, Require { packages }: Require, _ctx: &mut Context<Self>) -> Self::Result {
        if packages.is_empty() {
            return MessageResult(Ok(()));
        }
        debug!(self.log, "packages are required, and cannot be installed"; "n_packages" => packages.len());
        MessageResult(Err(LaunchError::Unsupported(refusal_of(&packages))))
    }
}

impl Handler<Crash> for Packages {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

fn refusal_of(packages: &[String]) -> String {
    let listed = packages.iter().take(LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = packages.len().saturating_sub(LISTED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "requirements.txt asks for {listed}{more}, and this version of the worker does not install packages yet: \
         put the packages' folders beside the function's code, or remove them from requirements.txt"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_names_the_file_and_what_to_do() {
        let names: Vec<String> = (0..7).map(|i| format!("p{i}")).collect();
        let text = refusal_of(&names);
        assert!(text.contains("requirements.txt asks for p0, p1, p2, p3, p4 and 2 more"), "{text}");
        assert!(text.contains("beside the function's code"), "{text}");
    }
}
