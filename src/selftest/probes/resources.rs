//! What the machine has for all: as much of it as can be had, and to stay when it is over.

use serde_json::json;

use super::{Probe, ask, play};
use crate::selftest::judge::{Answer, Finding, holds, refused};
use crate::selftest::plays::Play;

pub(super) static PROBES: &[Probe] = &[
    ask(
        "resources.processes",
        "start more processes than are allowed",
        "appetite",
        |_| json!({"of": "processes", "n": 40}),
        |answer| bounded(answer, "n", 10),
        Some(|_| json!({"of": "processes", "n": 40})),
    ),
    ask(
        "resources.threads",
        "start more threads than are allowed",
        "appetite",
        |_| json!({"of": "threads", "n": 40}),
        |answer| bounded(answer, "n", 10),
        Some(|_| json!({"of": "threads", "n": 40})),
    ),
    play("resources.fork-bomb", "fork without end", "endless", Play::ForkBomb),
    play("resources.memory", "take more memory than is allowed", "hungry", Play::MemoryBomb("memory", "")),
    play(
        "resources.shared-memory",
        "take it as shared memory",
        "hungry",
        Play::MemoryBomb("shared_memory", ""),
    ),
    play("resources.memfd", "take it as files in memory", "hungry", Play::MemoryBomb("file_in_memory", "")),
    play("resources.tmp-memory", "take it as files in /tmp", "hungry", Play::MemoryBomb("disk", "")),
    play("resources.pipes", "take it as full pipes", "hungry", Play::MemoryBomb("pipes", "")),
    play("resources.sockets", "take it as full local sockets", "hungry", Play::MemoryBomb("sockets", "unix")),
    play("resources.tcp", "take it as full TCP connections", "hungry", Play::MemoryBomb("sockets", "tcp")),
    ask(
        "resources.page-cache",
        "have the machine's files cached at others' cost",
        "hungry",
        |_| json!({"of": "page_cache", "mb": 80}),
        |answer| match answer.said() {
            Ok(said) => holds(
                said.as_u64() >= Some(40),
                format!("{said} MB were read, within 50 MB of memory"),
                format!("only {said} MB could be read"),
            ),
            Err(_) if answer.status == 502 => {
                Finding::Contained("the reader ran out of its own memory".into())
            }
            Err(untried) => untried,
        },
        None,
    ),
    ask(
        "resources.disk",
        "fill /tmp",
        "filler",
        |_| json!({"of": "disk", "mb": 64}),
        |answer| bounded(answer, "mb", 16),
        Some(|_| json!({"of": "disk", "mb": 20})),
    ),
    ask(
        "resources.holes",
        "promise oneself a file that there is no room for",
        "filler",
        |_| json!({"of": "hole", "mb": 64}),
        |answer| match answer.said() {
            Ok(said) => refused(&json!({"fallocate": said["allocate"]}), &["ENOSPC"]),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "hole", "mb": 20})),
    ),
    ask(
        "resources.inodes",
        "make files without end",
        "filler",
        |_| json!({"of": "inodes", "n": 100_000}),
        |answer| bounded(answer, "n", 10_000),
        None,
    ),
    ask(
        "resources.descriptors",
        "open files without end",
        "hungry",
        |_| json!({"of": "descriptors", "n": 100_000}),
        |answer| bounded(answer, "n", 1024),
        None,
    ),
    ask(
        "resources.timers",
        "use up the pending signals of the user",
        "hungry",
        |_| json!({"of": "timers", "n": 1_000_000}),
        |answer| bounded(answer, "n", 1024),
        None,
    ),
    ask(
        "resources.queues",
        "use up the message queues of the user",
        "hungry",
        |_| json!({"of": "queues", "n": 1000}),
        |answer| match answer.said() {
            Ok(said) => refused(&json!({"mq_open": said["error"]}), &["EPERM"]),
            Err(untried) => untried,
        },
        None,
    ),
    ask(
        "resources.uncounted",
        "have the kernel keep what it counts to nobody: filters of sockets and calls, datagrams that wait",
        "syscalls",
        |_| json!({"parts": ["uncounted"]}),
        |answer| match answer.said() {
            Ok(said) => refused(&said["uncounted"], &["EPERM"]),
            Err(untried) => untried,
        },
        Some(|_| json!({"parts": ["uncounted"]})),
    ),
    ask(
        "resources.locked",
        "lock memory",
        "hungry",
        |_| json!({"of": "locked", "mb": 16}),
        |answer| match answer.said() {
            Ok(said) => holds(
                said.as_u64().is_some_and(|n| (1..=128 << 10).contains(&n)),
                format!("{said} bytes, and no more"),
                format!("{said} bytes"),
            ),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "locked", "mb": 1})),
    ),
    ask(
        "resources.priority",
        "push in front of others by priority",
        "hungry",
        |_| json!({"of": "priority"}),
        |answer| match answer.said() {
            Ok(said) => refused(
                &json!({"nice": said["nice"], "fifo": said["fifo"], "round robin": said["round robin"]}),
                &["EACCES", "EPERM"],
            ),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "priority"})),
    ),
    play("resources.spin", "spin past the deadline", "endless", Play::Deadline("processor")),
    play("resources.deaf", "spin with every signal ignored", "endless", Play::Deadline("deaf_processor")),
    play("resources.stop", "stop oneself", "endless", Play::Deadline("standstill")),
    ask(
        "resources.zombies",
        "leave dead children to be buried by others",
        "appetite",
        |_| json!({"of": "zombies", "n": 50}),
        |answer| match answer.said() {
            Ok(said) => holds(said == "ok", "50 orphans were buried", format!("{said}")),
            // A fork is refused when the dead still count.
            Err(_) => Finding::Escaped(answer.line()),
        },
        None,
    ),
    play("resources.daemon", "leave a process behind that outlives its sandbox", "parent", Play::Daemon),
    play(
        "resources.log",
        "flood the log, with lines and with one that does not end",
        "printer",
        Play::LogFlood,
    ),
    play(
        "resources.log-control",
        "steer a terminal, or forge lines, through the log",
        "printer",
        Play::LogControl,
    ),
    play(
        "resources.frozen-growth",
        "take memory behind a frozen sandbox's back",
        "sleeper",
        Play::Frozen("grow"),
    ),
    play("resources.frozen-end", "end while frozen or idle", "ender", Play::Frozen("end")),
];

/// It got something, and not more than it may, and was told so.
fn bounded(answer: &Answer, field: &str, most: u64) -> Finding {
    let said = match answer.said() {
        Ok(said) => said,
        Err(untried) => return untried,
    };
    let n = said[field].as_f64().unwrap_or(-1.0);
    let text = format!("{n} of at most {most}: {}", said["error"].as_str().unwrap_or("no error"));
    match (n > 0.0, n <= most as f64 && !said["error"].is_null()) {
        (true, true) => Finding::Contained(text),
        (true, false) => Finding::Escaped(text),
        (false, _) => Finding::Untried(format!("it got nothing at all: {}", answer.line())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bounded_was_tried_and_told_so() {
        let of = |text: &str| bounded(&Answer { status: 200, text: text.into() }, "n", 10);
        assert!(matches!(of(r#"{"n": 7, "error": "EAGAIN"}"#), Finding::Contained(_)));
        assert!(matches!(of(r#"{"n": 40, "error": null}"#), Finding::Escaped(_)));
        assert!(matches!(of(r#"{"n": 7, "error": null}"#), Finding::Escaped(_)));
        assert!(matches!(of(r#"{"n": 0, "error": "EAGAIN"}"#), Finding::Untried(_)));
    }
}
