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
    /// A library, below the directory of this processor's.
    Library(&'static str),
    /// `uv`, where the worker finds it.
    Uv,
    /// The server of a package index.
    IndexServer,
    /// The programs of PostgreSQL.
    Database,
    /// Clients of HTTP and WebSocket, in Python.
    Clients,
    /// The package index of the world.
    RealIndex,
    /// The servers that stand in for stores in a cloud.
    Stores,
}

/// Where deps.sh puts them, when all are there.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-clients/made");
/// A file that is there on a machine that reaches the real index.
const REAL_INDEX: &str = "https://pypi.org/simple/six/";

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
            Self::Library(name) => {
                let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
                let is_there = directories.into_iter().any(|entry| entry.path().join(name).exists());
                (!is_there).then(|| format!("the library {name} (quickstart/deps.sh --test)"))
            }
            Self::Uv => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let mut places =
                    std::env::split_paths(&path).chain(["/usr/local/bin".into(), "/usr/bin".into()]);
                let is_there = places.any(|place| place.join("uv").is_file());
                (!is_there).then(|| "the program uv (quickstart/deps.sh)".to_owned())
            }
            Self::IndexServer => {
                let is_there = Path::new(super::index::HOME).join("bin/pypi-server").exists();
                (!is_there).then(|| "the server of an index (quickstart/deps.sh --test)".to_owned())
            }
            Self::Database => {
                let is_there = super::database::programs().is_some();
                (!is_there).then(|| "the database PostgreSQL (quickstart/deps.sh --test)".to_owned())
            }
            Self::Clients => {
                let is_there = Path::new(CLIENTS).exists();
                (!is_there).then(|| "clients in Python (quickstart/deps.sh --test)".to_owned())
            }
            Self::Stores => {
                let is_there = Path::new(super::store::HOME).join("made").exists();
                (!is_there).then(|| "the servers of stores (quickstart/deps.sh --test)".to_owned())
            }
            Self::RealIndex => {
                let mut curl = std::process::Command::new("curl");
                curl.args(["--silent", "--fail", "--max-time", "10", "--output", "/dev/null", REAL_INDEX]);
                let is_there = curl.status().is_ok_and(|status| status.success());
                (!is_there).then(|| format!("{REAL_INDEX}, which cannot be reached"))
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
