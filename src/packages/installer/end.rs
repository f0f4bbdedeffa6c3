//! How a run has ended, and what is told of it.

use std::collections::BTreeSet;

use actors::world::PackageError;
use serde::Deserialize;
use slog::{Logger, warn};

use super::super::proxy::Seen;
use super::super::sources::Host;
use super::super::storage::{ENTRIES_MAX, Excess};
use super::InstallerSpec;
use super::watch::{FREE_BYTES_MIN, FREE_FILES_MIN};

/// What is told of what a tool has said: from its end.
const SAID_BYTES_MAX: usize = 3_000;

/// What the driver says.
#[derive(Deserialize)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) output: String,
}

/// How a run has ended.
pub(super) enum End {
    /// The tool was done.
    Said(Said),
    /// The sandbox was gone before that.
    Died(String),
    /// It took too long.
    Late,
    /// It wrote more bytes than it may.
    Large,
    /// It made more files than can be looked through.
    TooMuch(Excess),
    /// The disk has too few bytes left.
    DiskFull,
    /// The disk has too few inodes left.
    NoInodes,
}

impl End {
    /// Whether it has done what it was to do; or what went wrong, in words. `about`: what it was to do.
    pub(super) fn judge(
        self,
        about: &str,
        spec: &InstallerSpec,
        seen: &Seen,
        was_out_of_memory: bool,
        log: &Logger,
    ) -> Result<(), PackageError> {
        let disk = |what: String| Err(PackageError::Failed(format!("{about}: the disk is full; {what}")));
        let mut text = match &self {
            End::Said(Said { code: 0, .. }) => {
                if !seen.refused.is_empty() {
                    warn!(log, "an installer wanted to reach somebody else than the index, and was kept from it";
                        "about" => about, "whom" => list(&seen.refused));
                }
                return Ok(());
            }
            End::Said(Said { output, .. }) => tidy(output),
            End::Died(why) => format!("the installer died: {why}"),
            End::Late => format!(
                "it was not done within {} s, and was ended (installer_limits.runtime_sec)",
                spec.runtime.as_secs()
            ),
            End::Large => {
                format!("it wrote more than {} MB, and was ended (packages_max_mb)", spec.bytes_max >> 20)
            }
            End::TooMuch(Excess::Entries) => {
                format!("it made more than {ENTRIES_MAX} files and directories, and was ended")
            }
            End::TooMuch(Excess::Depth) => {
                "it made directories so deep in each other that they cannot be looked through, and was ended"
                    .to_owned()
            }
            End::DiskFull => return disk(format!("less than {} MB are free", FREE_BYTES_MIN >> 20)),
            End::NoInodes => return disk(format!("less than {FREE_FILES_MIN} files more can be made on it")),
        };
        if was_out_of_memory {
            text += &format!(
                "\nIt used more than {} MB of memory (installer_limits.mem_mb).",
                spec.limits.memory_bytes >> 20
            );
        }
        if !seen.refused.is_empty() {
            // Hosts are the machine's to allow, whatever a list of requirements says.
            let hosts: Vec<String> = spec.sources.hosts().iter().map(Host::to_string).collect();
            text += &format!(
                "\nIt wanted to reach {}, which it may not: an installer reaches the index and nobody else ({}). \
                 The worker's installer_hosts can name more.",
                list(&seen.refused),
                hosts.join(", ")
            );
        }
        if !seen.unreachable.is_empty() {
            let text =
                format!("{}: the package index cannot be reached ({})", about, list(&seen.unreachable));
            return Err(PackageError::Away(text));
        }
        if let Some(advice) = advice(&text) {
            text += "\n";
            text += advice;
        }
        Err(PackageError::Refused(format!("{}:\n{text}", about)))
    }
}

fn list(texts: &BTreeSet<String>) -> String {
    texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What people can read of it, and not more than they would.
fn tidy(output: &str) -> String {
    let plain: String = output.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let plain = plain.trim();
    let mut from = plain.len().saturating_sub(SAID_BYTES_MAX);
    while !plain.is_char_boundary(from) {
        from += 1;
    }
    if from == 0 { plain.to_owned() } else { format!("[...] {}", &plain[from..]) }
}

/// What to do, where the tools do not say.
fn advice(text: &str) -> Option<&'static str> {
    let has = |words: &str| text.contains(words);
    if has("Hash mismatch") || has("DO NOT MATCH THE HASHES") {
        return Some(
            "The archive is not the one that the hash was made of: make the hashes anew if you trust it, and do not use it if not.",
        );
    }
    let compiler = ["gcc", "cc1", "cc: ", "c++", "g++", "clang", "rustc", "cargo", "cmake"];
    if (has("o such file or directory")
        || has("not found")
        || has("unable to execute")
        || has("No such file"))
        && compiler.iter().any(|name| has(name))
        || has("ompiler cannot be found")
    {
        return Some(
            "It has no wheel for the sandboxes' Python and has to be compiled, for which something is missing on this worker: \
             ask for a version that has a wheel, or have the compiler installed where the sandboxes find it (build-essential).",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_says_is_cut_and_cleaned() {
        let long = format!("{}\x1b[31mend\u{fc}", "x".repeat(2 * SAID_BYTES_MAX));
        let said = tidy(&long);
        assert!(
            said.len() < SAID_BYTES_MAX + 10 && said.ends_with("[31mend\u{fc}") && !said.contains('\x1b')
        );
        assert_eq!(tidy(" short \n"), "short");
    }

    #[test]
    fn a_missing_compiler_is_told_in_words() {
        assert!(advice("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory").is_some());
        assert!(advice("No solution found").is_none());
    }
}
