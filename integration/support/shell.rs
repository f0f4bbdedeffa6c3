//! A shell that is told one line after the other, as a person does it, in a network of its own: there every
//! port is free, and `localhost:8080` is nobody else's.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use super::Program;
use super::wait::patience;

/// What no command prints.
const END: &str = "--8f1e-end-of-command--";

/// Ends when it is dropped.
pub(crate) struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Shell {
    pub(crate) fn in_own_network(directory: &Path) -> Self {
        let mut command = Program::at("unshare").words("--net -- sh").within(directory).into_command();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut shell = Self { stdin: child.stdin.take(), child, lines };
        shell.types("exec 2>&1; ip link set lo up");
        shell
    }

    /// Types a line; gives what it printed. It must succeed.
    #[track_caller]
    pub(crate) fn types(&mut self, line: &str) -> String {
        let (text, code) = self.tries(line);
        assert_eq!(code, 0, "{line}\n{text}");
        text
    }

    /// Types a line; gives what it printed and its exit code.
    #[track_caller]
    pub(crate) fn tries(&mut self, line: &str) -> (String, i32) {
        let stdin = self.stdin.as_mut().expect("only the destructor takes it");
        // The command must not read the lines that are still to come.
        write!(stdin, "{{ {line}\n}} </dev/null\necho \"\n{END}$?\"\n").expect("the shell listens");
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(patience(60)) {
                Ok(said) => match said.strip_prefix(END) {
                    // The line break before the mark is ours.
                    Some(code) => {
                        text.truncate(text.len() - 1);
                        return (text, code.parse().expect("it is a number"));
                    }
                    None => text += &(said + "\n"),
                },
                Err(RecvTimeoutError::Timeout) => panic!("no end of: {line}\n{text}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the shell ended at: {line}\n{text}"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // What it started in the background is another's to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
