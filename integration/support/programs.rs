//! Running `ol` and `admin` as a shell would, with a deadline.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::wait::{DEADLINE_S, within};

/// A command that is being put together.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn ol() -> Self {
        Self::at(Self::ol_path())
    }

    pub(crate) fn admin() -> Self {
        Self::at(Self::admin_path())
    }

    /// Any other program.
    pub(crate) fn at(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path);
        command.stdin(Stdio::null());
        Self { command }
    }

    /// Where `ol` is.
    pub(crate) fn ol_path() -> PathBuf {
        Self::path("ol", env!("CARGO_BIN_EXE_ol"))
    }

    /// Where `admin` is.
    pub(crate) fn admin_path() -> PathBuf {
        Self::path("admin", env!("CARGO_BIN_EXE_admin"))
    }

    fn path(name: &str, built: &str) -> PathBuf {
        match std::env::var_os("OL_TEST_BIN_DIR") {
            Some(dir) => Path::new(&dir).join(name),
            None => built.into(),
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Words as in a shell, without its quotes.
    pub(crate) fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    pub(crate) fn within(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// For what this does not do itself.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        self.run_within(DEADLINE_S)
    }

    /// The same for what takes longer than anything usual.
    #[track_caller]
    pub(crate) fn run_within(mut self, seconds: u64) -> Output {
        let shown = format!("{:?}", self.command);
        let spawned = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = Ended(spawned.unwrap_or_else(|error| panic!("cannot start {shown}: {error}")));
        let stdout = read_aside(child.0.stdout.take().expect("it is piped"));
        let stderr = read_aside(child.0.stderr.take().expect("it is piped"));
        let status =
            within(seconds, &format!("{shown} ends"), || child.0.try_wait().expect("it is our child"));
        let text = |reader: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().expect("reading does not panic")).into_owned()
        };
        Output { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs it, and gives what it said; it must succeed.
    #[track_caller]
    pub(crate) fn succeed(self) -> String {
        let shown = format!("{:?}", self.command);
        let output = self.run();
        assert_eq!(output.code, Some(0), "{shown} failed:\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs it, and gives what it complained of; it must fail.
    #[track_caller]
    pub(crate) fn fail(self) -> Output {
        let shown = format!("{:?}", self.command);
        let output = self.run();
        assert!(output.code.is_some_and(|code| code != 0), "{shown} did not fail: {output:?}");
        output
    }
}

/// A child that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Ended long ago, if all went well: then both do nothing.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}
