//! What is tried, where it is a list. The project's own tests try the same, so that nothing is tried here and not there.

/// What nothing may be changed of: all that is outside of `/tmp`, as far as it is worth an attempt. For `files.py`.
pub const FIXED_FILES: &[&str] = &[
    "/dev",
    "/dev/null",
    "/etc",
    "/etc/passwd",
    "/handler",
    "/handler/f.py",
    "/packages",
    "/runtime",
    "/runtime/zygote.py",
    "/runtime/_ol.so",
    "/usr/bin/python3",
    "/usr/lib",
    "/proc",
    "/proc/self/exe",
    "/proc/self/oom_score_adj",
    "/proc/self/uid_map",
    "/proc/self/comm",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/1/oom_score_adj",
    "/root",
    "/",
];

/// Nonsense on a sandbox's sockets that is found out with the answer: its call is a 502, and the sandbox is gone. For
/// `socket_abuse.py`.
pub const NONSENSE: &[&str] = &[
    "garbage",
    "text",
    "too_long",
    "head_beyond_payload",
    "head_without_end",
    "head_with_half_a_header",
    "status_is_none",
    "line_break_in_header",
    "unknown_flags",
    "unknown_kind",
    "request",
    "ready",
    "load_failed",
    "body_first",
    "anothers_number",
    "descriptors",
    // Whoever closes this one waits for a minute: with a thread of the worker's, all its clients.
    "lingering",
    "dumb",
    "gone",
];

/// What is no nonsense yet when the answer comes; the sandbox is found out at its next call at the latest.
pub const NONSENSE_OF_THE_NEXT: &[&str] = &["urgent", "deaf", "refuses", "forgets", "shares"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_the_program_is_tried() {
        let program = include_str!("probes/socket_abuse.py");
        let (_, ways) = program.split_once("\nWAYS = {\n").unwrap();
        let mut ways: Vec<&str> = ways.lines().filter_map(|line| line.trim().split('"').nth(1)).collect();
        // The first is no nonsense; the others are tried elsewhere, as each ends in a way of its own.
        let mut tried = vec!["none", "long_and_silent", "talks_back", "empty_bodies"];
        tried.extend(NONSENSE.iter().chain(NONSENSE_OF_THE_NEXT));
        ways.sort_unstable();
        tried.sort_unstable();
        assert_eq!(ways, tried);
    }
}
