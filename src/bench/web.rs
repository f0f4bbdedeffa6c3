//! WSGI and ASGI apps, beside the servers that people run them with: the same app, as many processes, no sandbox. And how
//! long a piece of a stream is under way.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::call::Call;
use super::load::drive;
use super::report::{Goal, Quantity, Row};
use super::sample::{Sample, median, merged, ratio};
use super::workload::{self, Entry};
use super::{BenchError, Run};

/// Goal: calls per second, of the server's that runs the same app.
const THROUGHPUT_MIN: f64 = 0.6;
/// Goal: from the moment at which an app sends a piece to that at which a client has it, in milliseconds.
const PIECE_MS_MAX: f64 = 2.0;
/// Slices that each side's time is cut into.
const N_SLICES: u32 = 5;
/// How long a server may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Pieces that are timed.
const N_PIECES: usize = 100;
const ANSWER: &str = "Hello, world!";
/// Both apps. `/stream` sends what time it is.
const CODE: &str = r#"import asyncio
import time

HEAD = [("content-type", "text/plain"), ("content-length", "13")]


def wsgi(environ, start):
    if environ["PATH_INFO"].endswith("/stream"):
        start("200 OK", [])
        return pieces()
    start("200 OK", HEAD)
    return [b"Hello, world!"]


def pieces():
    for _ in range(PIECES):
        time.sleep(0.005)
        yield b"%d\n" % time.time_ns()


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"].endswith("/stream"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(PIECES):
            await asyncio.sleep(0.005)
            await send({"type": "http.response.body", "body": b"%d\n" % time.time_ns(), "more_body": True})
        return await send({"type": "http.response.body"})
    headers = [(name.encode(), value.encode()) for name, value in HEAD]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
"#;

/// uvicorn with several processes. Its own `--workers` hands on sockets of which asyncio does not see that they are TCP, and
/// so leaves Nagle's algorithm on: each answer, being two writes, then waits 40 ms for an acknowledgement.
const UVICORN: &str = r#"
import os, signal, socket, sys
import uvicorn
port, n, app = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def listening():
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    return listener
pids = []
for listener in [listening() for _ in range(n)]:
    pid = os.fork()
    if not pid:
        uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run(sockets=[listener])
        os._exit(0)
    pids.append(pid)
    listener.close()
signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
for pid in pids:
    os.waitpid(pid, 0)
"#;

/// One of the two.
struct Kind {
    /// As the function's environment says it, and in `CODE`.
    name: &'static str,
    server: &'static str,
    what: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { name: "wsgi", server: "gunicorn", what: "WSGI hello" },
    Kind { name: "asgi", server: "uvicorn", what: "ASGI hello" },
];

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let names = workload::new_names("web", KINDS.len());
    let n_processes = run.plan.target.n_http_threads;
    let code = code();
    let entry = |at: usize| {
        let variable = format!("OL_{}_ENTRY", KINDS[at].name.to_uppercase());
        let yaml = format!(
            "environment:\n  {variable}: {}\nlimits:\n  max_instances: {n_processes}\n",
            KINDS[at].name
        );
        Entry::of(&[("f.py", &code), ("ol.yaml", &yaml)])
    };
    run.upload_as(&names, entry).await?;
    let measured = async {
        for (kind, name) in KINDS.iter().zip(&names) {
            beside(run, kind, name).await?;
        }
        for (kind, name) in KINDS.iter().zip(&names) {
            run.tell(format!("web: pieces of {}", kind.name));
            let ms = pieces(run.address, name).await.map_err(failed("read a stream"))?;
            if let Some(ms) = median(ms) {
                let what = format!("a piece of a stream, {}: from being sent to being there, p50", kind.name);
                run.report.add_quantity(Quantity::new("web", what, ms, "ms").at_most(PIECE_MS_MAX));
            }
        }
        Ok(())
    };
    let measured: Result<(), BenchError> = measured.await;
    run.remove(&names).await;
    measured
}

fn code() -> String {
    CODE.replace("PIECES", &N_PIECES.to_string())
}

/// The app in the worker and in its server, slice by slice in turn.
async fn beside(run: &mut Run, kind: &Kind, name: &str) -> Result<(), BenchError> {
    let n_connections = run.plan.n_connections;
    let call = vec![Call::post(&format!("/run/{name}"), workload::body(), ANSWER)];
    let server = Server::start(kind, run.plan.target.n_http_threads, n_connections)?;
    if server.is_none() {
        eprintln!("ol bench: '{}' is measured alone: there is no {} in PATH", kind.what, kind.server);
    }
    let mut sides = vec![(kind.what.to_owned(), run.address, Vec::new())];
    if let Some(server) = &server {
        server.wait_until_it_listens().await?;
        let what = format!("{} with {} processes", kind.server, run.plan.target.n_http_threads);
        sides.push((what, server.address, Vec::new()));
    }
    for (what, address, _) in &sides {
        run.tell(format!("web: {what}: warming up"));
        drive(*address, &call, n_connections, run.plan.warmup).await;
    }
    for i in 0..N_SLICES {
        // There and back, so that no side is always the one after another.
        if i % 2 == 1 {
            sides.reverse();
        }
        for (what, address, slices) in &mut sides {
            run.tell(format!("web: {what}: slice {} of {N_SLICES}", i + 1));
            slices.push(drive(*address, &call, n_connections, run.plan.length / N_SLICES).await);
        }
        if i % 2 == 1 {
            sides.reverse();
        }
    }
    let floor = sides.get(1).map(|(_, _, slices)| slices.clone());
    for (what, address, slices) in &sides {
        let mut row = Row::of("web", what, &merged(slices));
        row.per_s = median(slices.iter().map(Sample::per_s));
        if let Some(floor) = &floor {
            row.throughput_of_floor = ratio(slices, floor, Sample::per_s);
            row.p50_of_floor = ratio(slices, floor, |slice| slice.percentile_us(50.0));
            if *address == run.address {
                let goal = |x| Goal::at_least("calls/s of the server", THROUGHPUT_MIN, x);
                row.goals.extend(row.throughput_of_floor.map(goal));
            }
        }
        run.report.add(row);
    }
    Ok(())
}

/// How long each piece was under way, in milliseconds.
async fn pieces(address: SocketAddr, name: &str) -> io::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /run/{name}/stream HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut under_way = Vec::new();
    let mut bytes = vec![0; 16 << 10];
    loop {
        let n = timeout(START_PATIENCE, stream.read(&mut bytes)).await??;
        if n == 0 {
            return Ok(under_way);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_nanos();
        // The only lines that are so long are times; those of chunks and headers are none.
        let text = String::from_utf8_lossy(&bytes[..n]);
        let sent = text.lines().filter(|line| line.len() > 16).filter_map(|line| line.parse::<u128>().ok());
        under_way.extend(sent.map(|sent| now.saturating_sub(sent) as f64 / 1e6));
    }
}

/// A server of the world that runs the app; it is gone when this is.
struct Server {
    child: Child,
    address: SocketAddr,
    _code: TempDir,
}

impl Server {
    /// `None`: there is none on this machine.
    fn start(kind: &Kind, n_processes: usize, n_connections: usize) -> Result<Option<Self>, BenchError> {
        let Some(program) = in_path(kind.server) else { return Ok(None) };
        let place = tempfile::tempdir().map_err(failed("write an app"))?;
        std::fs::write(place.path().join("app.py"), code()).map_err(failed("write an app"))?;
        // Free a moment ago; whoever takes it in between makes the server fail, and says so.
        let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let address = address.map_err(failed("find a port"))?;
        let app = format!("app:{}", kind.name);
        let mut command;
        if kind.server == "gunicorn" {
            // Its plain workers close each connection; these keep them.
            command = Command::new(program);
            command.args(["--worker-class", "gthread", "--keep-alive", "75", "--workers"]);
            command.arg(n_processes.to_string()).arg("--threads").arg(n_connections.max(2).to_string());
            command.args(["--log-level", "critical", "--no-control-socket", "--bind"]);
            command.arg(address.to_string()).arg(&app);
        } else {
            command = Command::new(program.with_file_name("python3"));
            command.arg("-c").arg(UVICORN);
            command.arg(address.port().to_string()).arg(n_processes.to_string()).arg(&app);
        }
        let child = command.current_dir(place.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(failed("start a server"))?;
        Ok(Some(Self { child, address, _code: place }))
    }

    async fn wait_until_it_listens(&self) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match TcpStream::connect(self.address).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(failed("reach a server")(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has processes to take along.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|place| place.join(program)).find(|path| path.is_file())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Floor { what, source }
}
