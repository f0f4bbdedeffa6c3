//! `ol admin logs`: what a function prints.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use actors::name::FunctionName;
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::json;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::function_log::FunctionLog;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::{complain, functions, talk};

/// How often a log that is followed is looked at: at once for a person, and next to nothing for the machine.
const LOOK_EVERY_MS: u16 = 100;

/// Print what a function has printed
#[derive(StructOpt)]
pub(crate) struct Logs {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Go on with what is printed from now on, until Ctrl-C
    #[structopt(short, long)]
    follow: bool,
    /// Begin with the last N lines [default: all]
    #[structopt(short, long = "lines", value_name = "N")]
    n: Option<usize>,
    /// Each line as a JSON object
    #[structopt(long)]
    json: bool,
    /// The function's name
    name: String,
}

impl Logs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let ol_dir = OlDir::at(&self.path)?;
        let uninitialized =
            || CliError::NotRunning { path: ol_dir.path().into(), state: State::Uninitialized };
        let settings = ol_dir.settings()?.ok_or_else(uninitialized)?;
        let path = settings.function_log(&name);
        let unreadable = |error| CliError::file("read", &path)(error);
        let mut log = FunctionLog::open(&path).map_err(unreadable)?;
        if !log.is_there() {
            // The worker knows whether there is such a function; when it does not run, nothing will come either.
            let settings = ol_dir.running().map_err(|_| CliError::NoLog(name.clone(), path.clone()))?;
            let config = format!("/registry/{name}/config");
            functions::accepted("GET", &config, talk::ask_registry(&settings.client(), &config)??)?;
            complain(format_args!("{name} has printed nothing yet"));
        }
        if let Some(n) = self.n {
            log.skip_to_last(n).map_err(unreadable)?;
        }
        let mut out: Box<dyn Write> = match self.json {
            true => Box::new(JsonLines { out: io::stdout().lock(), partial: Vec::new() }),
            false => Box::new(io::stdout().lock()),
        };
        loop {
            match log.write_news(&mut out) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                other => other.map_err(unreadable)?,
            }
            if !self.follow || reader_went_within(LOOK_EVERY_MS) {
                return Ok(());
            }
        }
    }
}

/// Waits; less long when nobody reads standard output any more (`ol admin logs -f f | head`), for a function that
/// prints nothing would never let us find out.
fn reader_went_within(ms: u16) -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut fds, ms) {
        Ok(n) => n > 0,
        Err(_) => false,
    }
}

/// Makes an object of each line that is written to it.
struct JsonLines<W> {
    out: W,
    partial: Vec<u8>,
}

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if let Some(line) = self.partial.strip_suffix(b"\n") {
                let object = described(&String::from_utf8_lossy(line));
                self.partial.clear();
                writeln!(self.out, "{object}")?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `2026-01-31T12:00:00.000Z 3-1 o text`; a line of another form is all text.
fn described(line: &str) -> serde_json::Value {
    let mut words = line.splitn(4, ' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(time), Some(invocation), Some(stream @ ("o" | "e" | "-")), Some(text)) => {
            let stream = match stream {
                "o" => Some("stdout"),
                "e" => Some("stderr"),
                _ => None,
            };
            json!({"time": time, "invocation": invocation, "stream": stream, "text": text})
        }
        _ => json!({"time": null, "invocation": null, "stream": null, "text": line}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_an_object_once_it_is_whole() {
        let mut lines = JsonLines { out: Vec::new(), partial: Vec::new() };
        for piece in
            ["2026-01-31T12:00:00.000Z 3-1 o hel", "lo  you\n2026-01-31T12:00:00.001Z 3-1 - x\nodd\nunfin"]
        {
            lines.write_all(piece.as_bytes()).unwrap();
        }
        let objects: Vec<serde_json::Value> =
            String::from_utf8(lines.out).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        let object = |time, invocation, stream: Option<&str>, text: &str| json!({"time": time, "invocation": invocation, "stream": stream, "text": text});
        assert_eq!(
            objects,
            [
                object(Some("2026-01-31T12:00:00.000Z"), Some("3-1"), Some("stdout"), "hello  you"),
                object(Some("2026-01-31T12:00:00.001Z"), Some("3-1"), None, "x"),
                object(None, None, None, "odd"),
            ]
        );
    }
}
