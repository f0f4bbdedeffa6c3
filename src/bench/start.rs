//! How long the commands take: `init`, and `up -d` until the worker answers. In a directory and with a
//! port of their own.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::memory::{PSS_MB_MAX, pss_bytes};
use super::report::Quantity;
use super::sample::median;
use super::{BenchError, Run};

/// How often each is done.
const N_TIMES: usize = 5;
/// Goals: seconds.
const INIT_S_MAX: f64 = 5.0;
const UP_S_MAX: f64 = 1.0;
/// A worker that has just started still prepares its first sandboxes.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) fn measure(run: &mut Run) -> Result<(), BenchError> {
    let dir = tempfile::Builder::new().prefix("ol-bench-").tempdir().map_err(|source| BenchError::File {
        what: "make a directory in",
        path: std::env::temp_dir(),
        source,
    })?;
    let (mut init_s, mut up_s, mut pss) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..N_TIMES {
        run.tell(format!("start: {} of {N_TIMES}", i + 1));
        // A new directory each time: the second `init` of one finds its work done.
        let path = dir.path().join(i.to_string());
        init_s.push(ol(&path, &["worker", "init"])?);
        let port = format!("worker_port={}", free_port());
        // Until it can be told to end again, nothing may return early.
        let up = ol(&path, &["worker", "up", "-d", "-o", &port]);
        if up.is_ok() {
            std::thread::sleep(SETTLE);
            pss.extend(pid(&path).and_then(pss_bytes));
        }
        let down = ol(&path, &["worker", "down"]);
        up_s.push(up?);
        down?;
    }
    let mut add = |what: &str, values: Vec<f64>, unit, limit| {
        if let Some(value) = median(values) {
            run.report.add_quantity(Quantity::new("start", what, value, unit).at_most(limit));
        }
    };
    add("'ol worker init', median of 5", init_s, "s", INIT_S_MAX);
    add("'ol worker up -d' until it returns, median of 5", up_s, "s", UP_S_MAX);
    add(
        "worker that has served nothing, PSS",
        pss.into_iter().map(|bytes| bytes / 1e6).collect(),
        "MB",
        PSS_MB_MAX,
    );
    Ok(())
}

/// The seconds that a command of ours takes.
pub(super) fn ol(path: &Path, args: &[&str]) -> Result<f64, BenchError> {
    let failed = |said: String| BenchError::Command { command: args.join(" "), said };
    let begin = Instant::now();
    // Not a pipe for its output: a worker in the background would hold it open.
    let errors = path.with_extension("err");
    let file = fs::File::create(&errors).map_err(|error| failed(error.to_string()))?;
    let status = Command::new("/proc/self/exe")
        .args(args)
        .arg("-p")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .map_err(|error| failed(error.to_string()))?;
    let took = begin.elapsed();
    if status.success() {
        return Ok(took.as_secs_f64());
    }
    Err(failed(fs::read_to_string(&errors).unwrap_or_default().trim().to_owned()))
}

/// Free at this moment, and not given to others soon: the kernel goes through its ports in turn.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    listener.and_then(|listener| listener.local_addr()).map_or(0, |address| address.port())
}

pub(super) fn pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path.join("worker/worker.pid")).ok()?.trim().parse().ok()
}
