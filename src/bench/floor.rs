//! The floor of the warm path: the same HTTP server, handing the same bytes to bare interpreters over
//! Unix socket pairs, one request at a time each. No sandbox, no actor, no pool, no deadline.
//!
//! It runs as a process of its own, `ol bench floor`, so that processes and threads lie as with a worker.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};
use tokio::sync::Mutex;

use super::bare::{Files, floor, install};
use super::{BenchError, Target};
use crate::frame::{Kind, ResponseHead};
use crate::sandbox::channel::{Channel, ChannelError};

/// What `ol bench floor` is.
#[derive(Debug, Clone)]
pub(crate) struct FloorSpec {
    /// The interpreter.
    pub python: PathBuf,
    /// Threads that serve HTTP.
    pub n_threads: usize,
    /// Interpreters. With one, all threads share it; with as many as threads, each has its own.
    pub n_interpreters: usize,
}

/// Who comes first is served first, whichever thread it is on.
type Shared = Mutex<Channel>;

/// Serve until standard input is closed; the port goes to standard output.
///
/// # Errors
/// When it cannot start.
pub(crate) fn serve(spec: &FloorSpec) -> Result<(), BenchError> {
    actix::System::new().block_on(async {
        let files = Files::write()?;
        let load = files.load();
        let mut interpreters = Vec::new();
        let mut channels = Vec::new();
        for _ in 0..spec.n_interpreters.max(1) {
            let interpreter = files.start(&spec.python, &[])?;
            install(interpreter.socket(), &load).map_err(floor("load the function"))?;
            let socket = interpreter.socket().try_clone().map_err(floor("make a socket"))?;
            socket.set_nonblocking(true).map_err(floor("make a socket"))?;
            let answers = socket.try_clone().map_err(floor("make a socket"))?;
            channels.push(Data::new(Mutex::new(Channel::over(socket, answers))));
            interpreters.push(interpreter);
        }
        let next = Arc::new(AtomicUsize::new(0));
        let server = HttpServer::new(move || {
            let i = next.fetch_add(1, Ordering::Relaxed) % channels.len();
            App::new().app_data(channels[i].clone()).route("/run/{tail:.*}", web::route().to(run))
        })
        .workers(spec.n_threads)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .map_err(floor("listen"))?;
        let port = server.addrs().first().map_or(0, SocketAddr::port);
        let server = server.run();
        let handle = server.handle();
        let server = actix::spawn(server);
        let mut out = io::stdout();
        writeln!(out, "{port}").and_then(|()| out.flush()).map_err(floor("tell the port"))?;
        // Whoever started us has gone or wants us to.
        let closed = web::block(|| io::stdin().read_to_end(&mut Vec::new())).await;
        handle.stop(false).await;
        drop((closed, server, interpreters));
        Ok(())
    })
}

async fn run(body: Bytes, interpreter: Data<Shared>) -> HttpResponse {
    let mut channel = interpreter.lock().await;
    match forward(&mut channel, &body).await {
        Ok(response) => response,
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn forward(channel: &mut Channel, body: &[u8]) -> Result<HttpResponse, ChannelError> {
    channel.send_request(&[], body, false).await?;
    let answer = channel.receive().await?;
    let head = ResponseHead::parse(&answer.head)?;
    let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(if answer.header.kind == Kind::Response {
        status
    } else {
        StatusCode::BAD_GATEWAY
    });
    for header in head.headers() {
        response.append_header(header);
    }
    Ok(response.body(answer.body))
}

/// A floor that runs; it is gone when this is.
pub(super) struct Floor {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Floor {
    pub(super) fn start(target: &Target, n_interpreters: usize) -> Result<Self, BenchError> {
        let mut child = Command::new("/proc/self/exe")
            .args(["bench", "floor", "--python"])
            .arg(&target.python)
            .args([
                "--threads",
                &target.n_http_threads.to_string(),
                "--interpreters",
                &n_interpreters.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(floor("start 'ol bench floor'"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was asked for");
        let read = BufReader::new(stdout).read_line(&mut line);
        let port = read.and_then(|_| line.trim().parse().map_err(io::Error::other));
        let mut started = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        started.address.set_port(port.map_err(floor("read the port of 'ol bench floor'"))?);
        Ok(started)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It ends by itself: it has interpreters to take along.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
