//! What a test needs of the machine. A test that cannot run says what is missing; with `REQUIRE_ALL=1`
//! it fails, so that nothing is passed over in silence.

use std::path::Path;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    /// To make sandboxes.
    Root,
    /// A program in the usual places.
    Program(&'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Self::Root if nix::unistd::geteuid().is_root() => None,
            Self::Root => Some("the rights of root (make test-integration)".to_owned()),
            Self::Program(name) => {
                let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
                let is_there = places.iter().any(|place| Path::new(place).join(name).exists());
                (!is_there).then(|| format!("the program {name}"))
            }
        }
    }
}

/// Whether the test may go on. For [`requires!`].
#[track_caller]
pub(crate) fn have_all(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!("cannot run here, it needs {}", missing.join(" and "));
    assert!(std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"), "{text}");
    // Past the capture of the test harness: a test that did not run must not look like one that did.
    let thread = std::thread::current();
    let line = format!("\nSKIPPED {}: {text}\n", thread.name().unwrap_or("a test"));
    let _ = nix::unistd::write(std::io::stderr(), line.as_bytes());
    false
}

/// Leaves the test, and says why, where something is missing: `requires!(Root, Program("tar"))`.
macro_rules! requires {
    ($($need:ident $(($($of:expr),*))?),+) => {
        if !$crate::support::require::have_all(&[$($crate::support::require::Need::$need $(($($of),*))?),+]) {
            return;
        }
    };
}
pub(crate) use requires;
