//! Probes that need more than one call and its answer: what is done, and what is looked at from outside.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::attempts::{NONSENSE, NONSENSE_OF_THE_NEXT};
use super::judge::{Finding, holds, refused};
use super::stage::{N_DRAWING, SECRET, Stage};

/// What is done and looked at, by name; with what the function is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Play {
    Channel,
    Leftovers,
    ForeignSecret,
    Draws,
    Memory,
    Zygote,
    ForkBomb,
    Deadline(&'static str),
    Daemon,
    MemoryBomb(&'static str, &'static str),
    LogFlood,
    LogControl,
    Frozen(&'static str),
}

impl Play {
    /// Has it done. `Err`: it could not be tried.
    pub(super) async fn act(self, stage: &Stage, function: &str) -> Result<Finding, Finding> {
        match self {
            Self::Channel => channel(stage, function).await,
            Self::Leftovers => leftovers(stage).await,
            Self::ForeignSecret => foreign_secret(stage).await,
            Self::Memory => memory(stage).await,
            Self::Draws => draws(stage).await,
            Self::Zygote => zygote(stage, function).await,
            Self::ForkBomb => fork_bomb(stage, function).await,
            Self::Deadline(of) => {
                let answer = stage.ask(function, &json!({"of": of})).await?;
                Ok(holds(answer.status == 504, "it was ended at its deadline", answer.line()))
            }
            Self::Daemon => daemon(stage, function).await,
            Self::MemoryBomb(of, kind) => memory_bomb(stage, function, of, kind).await,
            Self::LogFlood => log_flood(stage, function).await,
            Self::LogControl => log_control(stage, function).await,
            Self::Frozen(then) => frozen(stage, function, then).await,
        }
    }
}

/// How often a function is called until it is served again, after nonsense that only a call of its sandbox finds out.
const N_CALLS_AFTER: usize = 10;

async fn channel(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    let honest = json!({"way": "none"});
    for way in NONSENSE {
        let answer = stage.ask(function, &json!({"way": way})).await?;
        if answer.status != 502 {
            return Ok(Finding::Escaped(format!("{way}: {}", answer.line())));
        }
        let next = stage.ask(function, &honest).await?;
        if next.status != 200 {
            return Ok(Finding::Escaped(format!("after {way} the function is answered {}", next.line())));
        }
    }
    for way in NONSENSE_OF_THE_NEXT {
        let answer = stage.ask(function, &json!({"way": way})).await?;
        if !matches!(answer.status, 200 | 502) {
            return Ok(Finding::Escaped(format!("{way}: {}", answer.line())));
        }
        let mut next = stage.ask(function, &honest).await?;
        for _ in 1..N_CALLS_AFTER {
            if next.status == 200 {
                break;
            }
            next = stage.ask(function, &honest).await?;
        }
        if next.status != 200 {
            return Ok(Finding::Escaped(format!("after {way} the function is answered {}", next.line())));
        }
    }
    Ok(Finding::Contained(format!(
        "each of {} ways ended the sandbox that went it, at once or with its next call, and then calls were served",
        NONSENSE.len() + NONSENSE_OF_THE_NEXT.len()
    )))
}

async fn leftovers(stage: &Stage) -> Result<Finding, Finding> {
    let look = json!({"do": "look"});
    let clean = stage.say("before", &look).await?;
    stage.say("tenant", &json!({"do": "leave", "word": "left-for-others"})).await?;
    let own = stage.say("tenant", &look).await?;
    if !own.to_string().contains("left-for-others") || own["port"] != 0 {
        return Err(Finding::Untried(format!("who left it does not find it either: {own}")));
    }
    let mut findings = Vec::new();
    for name in ["before", "after"] {
        let said = stage.say(name, &look).await?;
        let fields = ["files", "environment", "shared_memory", "queue", "socket", "port", "json"];
        let different: Vec<_> = fields.into_iter().filter(|field| said[*field] != clean[*field]).collect();
        let word = said.to_string().contains("left-for-others") || said.to_string().contains("98765");
        findings.push(holds(
            different.is_empty() && !word,
            format!("'{name}' found nothing"),
            format!("'{name}' found something: {different:?}"),
        ));
    }
    Ok(Finding::all(findings))
}

async fn foreign_secret(stage: &Stage) -> Result<Finding, Finding> {
    let own = stage.say("secret", &json!({"do": "environment"})).await?;
    if !own.to_string().contains(SECRET) {
        return Err(Finding::Untried("the function that has it does not see it".into()));
    }
    let said = stage.say("after", &json!({"do": "environment"})).await?;
    let n = said.as_array().map_or(0, Vec::len);
    Ok(holds(!said.to_string().contains(SECRET), format!("not among {n} variables"), "it was found"))
}

async fn memory(stage: &Stage) -> Result<Finding, Finding> {
    let word = "left-in-memory";
    let backwards: String = word.chars().rev().collect();
    stage.say("tenant", &json!({"do": "fill", "word": word})).await?;
    let mut found = stage.say("after", &json!({"do": "sift", "backwards": backwards})).await?;
    // And once more when the one that wrote it is gone: its pages are free then.
    stage.remove("tenant").await;
    if found == json!([]) {
        found = stage.say("before", &json!({"do": "sift", "backwards": backwards})).await?;
    }
    Ok(holds(found == json!([]), "what is new is empty", format!("it was in {found}")))
}

async fn draws(stage: &Stage) -> Result<Finding, Finding> {
    let mut drawn = Vec::new();
    for number in 1..=N_DRAWING {
        drawn.push(stage.say(&format!("draw-{number}"), &json!({"do": "draw"})).await?);
    }
    let whats = ["random", "secrets", "uuid4", "uuid1", "ssl", "urandom", "tempfile", "uid"];
    let same: Vec<_> = whats
        .into_iter()
        .filter(|what| {
            drawn.iter().map(|draw| draw[*what].to_string()).collect::<BTreeSet<_>>().len() < N_DRAWING
        })
        .collect();
    Ok(holds(
        same.is_empty(),
        format!("{N_DRAWING} siblings drew different ones, {} ways", whats.len()),
        format!("the same: {same:?}"),
    ))
}

/// How often a function is called until it has a zygote, with a twentieth of a second between.
const N_TRIES: usize = 100;

async fn zygote(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    const NONE: &str = "0000000000000000";
    // The first call finds out that the import is long; then a zygote is made of it, and in there it has some rights.
    let mut said = stage.say(function, &json!({})).await?;
    for _ in 0..N_TRIES {
        if said["import"]["capabilities"] != NONE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        said = stage.say(function, &json!({})).await?;
    }
    if said["import"]["capabilities"] == NONE {
        return Err(Finding::Untried("it was given no zygote".into()));
    }
    let seen = &said["import"];
    Ok(Finding::all([
        refused(&seen["refused"], &["EPERM", "EACCES"]),
        refused(&seen["init"], &["EACCES", "EPERM", "ENOENT"]),
        refused(&json!({"the memory of its init": seen["init_memory"]}), &["EACCES", "EPERM", "EROFS"]),
        refused(&seen["read_only"], &["EROFS", "EACCES", "EPERM"]),
        holds(
            said["now"] == "0000000000000000",
            "no capability when it serves",
            format!("capabilities {}", said["now"]),
        ),
    ]))
}

async fn fork_bomb(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    let before = stage.processes().len();
    let answer = stage.ask(function, &json!({"of": "endless_processes"})).await?;
    if answer.status != 504 {
        return Ok(Finding::Escaped(answer.line()));
    }
    // A standby or two may have been made meanwhile; the bomb had ten.
    let is_gone = stage.until(|| stage.processes().len() < before + 10).await;
    Ok(holds(
        is_gone,
        "it was ended at its deadline, with all that it had started",
        "processes of it are left",
    ))
}

async fn daemon(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    let event = json!({"of": "daemon"});
    let is_there = || {
        let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        stage.processes().iter().any(|pid| name(pid).trim() == "left-behind")
    };
    // Where the sandbox lives on, so does what it has started, inside.
    stage.say(function, &event).await?;
    if !stage.until(is_there).await {
        return Err(Finding::Untried("it does not even outlive its call".into()));
    }
    stage.remove(function).await;
    let with_sandbox = stage.until(|| !is_there()).await;
    // Where each call has a sandbox of its own, the daemon ends with the call.
    stage.say("once", &event).await?;
    let with_call = stage.until(|| !is_there()).await;
    Ok(holds(
        with_sandbox && with_call,
        "it ended with its sandbox, and where each call has one of its own, with the call",
        "it is still there",
    ))
}

async fn memory_bomb(stage: &Stage, function: &str, of: &str, kind: &str) -> Result<Finding, Finding> {
    let some = stage.ask(function, &json!({"of": of, "kind": kind, "mb": 1})).await?;
    if some.status != 200 {
        return Err(Finding::Untried(format!("1 MB cannot be had either: {}", some.line())));
    }
    let answer = stage.ask(function, &json!({"of": of, "kind": kind, "mb": 200})).await?;
    // Refused in the middle is as good as killed: the kernel has it either way with buffers of connections.
    let got = answer.json();
    let refused_at = got["error"].as_str().and(got["mb"].as_f64());
    Ok(match (answer.status, refused_at) {
        (502, _) if answer.text.contains("out of memory") => {
            Finding::Contained("out of memory, within 50 MB".into())
        }
        (200, Some(mb)) if mb <= 70.0 => {
            Finding::Contained(format!("refused after {mb} MB: {}", got["error"]))
        }
        _ => Finding::Escaped(answer.line()),
    })
}

async fn log_flood(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    // The stage's worker keeps 2 MB, and what was read at once is not divided between two files.
    const BYTES_MAX: u64 = 6 << 20;
    for (way, mb) in [("flood", 8), ("endless_line", 8), ("empty_lines", 1)] {
        stage.say(function, &json!({"way": way, "mb": mb})).await?;
    }
    let path = stage.log_of(function);
    let is_logged = stage
        .until(|| {
            std::fs::read_to_string(&path).is_ok_and(|log| log.contains("the last word of empty_lines"))
        })
        .await;
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let n_bytes = [bytes(&path), bytes(&path.with_extension("log.1"))];
    Ok(holds(
        is_logged && n_bytes.iter().all(|&n| n <= BYTES_MAX),
        format!("17 MB were printed, {} MB kept", n_bytes.iter().sum::<u64>() >> 20),
        format!("{n_bytes:?} bytes were kept, the last word {}", if is_logged { "too" } else { "not" }),
    ))
}

async fn log_control(stage: &Stage, function: &str) -> Result<Finding, Finding> {
    for way in ["binary", "forged", "streams"] {
        stage.say(function, &json!({"way": way})).await?;
    }
    let path = stage.log_of(function);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    if !stage.until(|| read().contains("the last word of streams")).await {
        return Err(Finding::Untried("what was printed does not come into the log".into()));
    }
    let log = read();
    let strange = log.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\t')).count();
    // Time, sandbox and invocation stand in front of every line, whatever the function makes of it.
    let is_ours = |line: &str| {
        line.split(' ').nth(1).is_some_and(|word| {
            word.contains('-') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        })
    };
    let forged = log.lines().filter(|line| !is_ours(line)).count();
    Ok(holds(
        strange == 0 && forged == 0,
        "escape codes are shown, not obeyed; every line says whose it is",
        format!("{strange} control characters, {forged} lines of nobody"),
    ))
}

/// The sandbox is frozen a tenth of a second after its answer, and would go on after three tenths.
async fn frozen(stage: &Stage, function: &str, then: &str) -> Result<Finding, Finding> {
    const MB_MAX: u64 = 40;
    let event = json!({"of": "grow_afterwards", "after_s": 0.3, "mb": 200, "then": then});
    // What a probe before this one has left would be taken for this one's.
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    while stage.largest_mb() > MB_MAX && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.say(function, &event).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let is_frozen = stage.lambda(function).await["frozen"].as_u64() >= Some(1);
    let mb = stage.largest_mb();
    let next = stage.ask(function, &json!({"of": "memory", "mb": 1})).await?;
    // On a busy machine it may be frozen again before it has died of it, and would then be there for as long as an idle one is.
    stage.remove(function).await;
    // Thawed it goes on, and dies of it: of that its own next call may hear, and nobody else. The same where there is
    // no freezer, only sooner.
    let is_told = matches!(next.status, 200 | 502);
    let state = if is_frozen { "frozen" } else { "not frozen" };
    Ok(holds(
        is_told && (!is_frozen || mb <= MB_MAX),
        format!("{state}, with no process above {mb} MB; its next call: {}", next.status),
        format!("{state}, with a process of {mb} MB; its next call: {}", next.line()),
    ))
}
