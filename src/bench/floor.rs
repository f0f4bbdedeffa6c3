//! The floors of the warm path: the same HTTP server, handing the same bytes to bare interpreters over
//! Unix socket pairs. No sandbox, no actor, no pool, no deadline. Either one request at a time for each, or
//! with all requests in the socket as they come, each thread to an interpreter of its own.
//!
//! It runs as a process of its own, `ol bench floor`, so that processes and threads lie as with a worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use tokio::sync::{Mutex, oneshot};

use super::bare::{Files, floor, install};
use super::{BenchError, Target};
use crate::frame::{Kind, ResponseHead};
use crate::sandbox::channel::{Channel, ChannelError, Incoming};

/// What `ol bench floor` is.
#[derive(Debug, Clone)]
pub(crate) struct FloorSpec {
    /// The interpreter.
    pub python: PathBuf,
    /// Threads that serve HTTP.
    pub n_threads: usize,
    /// Interpreters. With one, all threads share it; with as many as threads, each has its own.
    pub n_interpreters: usize,
    /// Requests are written to an interpreter that is at work; each thread has one interpreter.
    pub in_flight: bool,
}

/// Who comes first is served first, whichever thread it is on.
type Shared = Mutex<Channel>;

/// An interpreter that one thread has for itself, and who waits for its answers, in order.
struct Pipe {
    channel: RefCell<Channel>,
    waiting: RefCell<VecDeque<oneshot::Sender<Incoming>>>,
    is_read: Cell<bool>,
}

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
            channels.push((socket, answers));
            interpreters.push(interpreter);
        }
        let channels = channels.into_iter().map(|(socket, answers)| Channel::over(socket, answers));
        let (mut shared, mut pipes) = (Vec::new(), Vec::new());
        if spec.in_flight {
            pipes.extend(channels);
        } else {
            shared.extend(channels.map(|channel| Data::new(Mutex::new(channel))));
        }
        let next = Arc::new(AtomicUsize::new(0));
        let pipes = Arc::new(std::sync::Mutex::new(pipes));
        let server = HttpServer::new(move || {
            let taken = pipes.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match taken {
                Some(channel) => {
                    let pipe = Pipe {
                        channel: RefCell::new(channel),
                        waiting: RefCell::default(),
                        is_read: Cell::new(false),
                    };
                    App::new().app_data(Rc::new(pipe)).route("/run/{tail:.*}", web::route().to(run_in_flight))
                }
                None => {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let one = shared.get(i % shared.len().max(1)).cloned();
                    App::new().app_data(one).route("/run/{tail:.*}", web::route().to(run))
                }
            }
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

async fn run(body: Bytes, request: HttpRequest) -> HttpResponse {
    let Some(Some(interpreter)) = request.app_data::<Option<Data<Shared>>>() else {
        return HttpResponse::InternalServerError().body("more threads than interpreters");
    };
    let mut channel = interpreter.lock().await;
    match forward(&mut channel, &body).await {
        Ok(response) => response,
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn forward(channel: &mut Channel, body: &[u8]) -> Result<HttpResponse, ChannelError> {
    channel.send_request(&[], body, false).await?;
    respond(channel.receive().await?)
}

async fn run_in_flight(body: Bytes, request: HttpRequest) -> HttpResponse {
    let pipe = request.app_data::<Rc<Pipe>>().expect("the thread was given one");
    match pipe.forward(&body).await {
        Ok(response) => response,
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

impl Pipe {
    async fn forward(self: &Rc<Self>, body: &[u8]) -> Result<HttpResponse, ChannelError> {
        if !self.is_read.replace(true) {
            actix_web::rt::spawn(Rc::clone(self).read());
        }
        if !self.channel.borrow_mut().try_send_request(&[], body, false)? {
            return Err(io::Error::other("more requests than a socket holds").into());
        }
        let (reach, answer) = oneshot::channel();
        self.waiting.borrow_mut().push_back(reach);
        respond(answer.await.map_err(|_| ChannelError::Closed)?)
    }

    async fn read(self: Rc<Self>) {
        while let Ok(answer) = poll_fn(|cx| self.channel.borrow_mut().poll_receive(cx)).await {
            let Some(reach) = self.waiting.borrow_mut().pop_front() else { break };
            drop(reach.send(answer));
        }
        self.waiting.borrow_mut().clear();
    }
}

fn respond(answer: Incoming) -> Result<HttpResponse, ChannelError> {
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
    /// `in_flight`: see [`FloorSpec`].
    pub(super) fn start(target: &Target, n_interpreters: usize, in_flight: bool) -> Result<Self, BenchError> {
        let mut child = Command::new("/proc/self/exe")
            .args(["bench", "floor", "--python"])
            .arg(&target.python)
            .args([
                "--threads",
                &target.n_http_threads.to_string(),
                "--interpreters",
                &n_interpreters.to_string(),
            ])
            .args(in_flight.then_some("--in-flight"))
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
