//! The load generator: keep-alive connections, each with one request under way, all on the thread that
//! calls; and single calls that are timed one by one.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::call::{Call, Head, parse_head};
use super::sample::Sample;

/// At the begin of each slice, not counted: connections are made, frozen sandboxes thaw.
const LEAD: Duration = Duration::from_millis(200);
/// How long after a slice's end its last answers may come before they are errors.
const STRAGGLE_MAX: Duration = Duration::from_secs(35);
/// A connection that fails so often in a row is given up.
const FAILURES_MAX: u32 = 20;
/// The answers of all workloads are shorter.
const BUFFER_BYTES: usize = 16 << 10;

/// One keep-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    answer: Answer,
}

/// One that blocks.
struct BlockingConnection {
    stream: std::net::TcpStream,
    answer: Answer,
}

/// What has been read of an answer.
struct Answer {
    input: Box<[u8]>,
    n_read: usize,
    head: Option<Head>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The answer was there, but wrong; the connection is still good.
    #[error("{0}")]
    Wrong(String),
    /// The connection is of no more use.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Answer::new() })
    }

    /// One request and its answer, checked.
    pub(super) async fn call(&mut self, call: &Call) -> Result<(), CallError> {
        self.stream.write_all(&call.request).await?;
        self.answer.begin();
        loop {
            let n = self.stream.read(self.answer.room()).await?;
            if self.answer.is_whole(n)? {
                return self.answer.check(call);
            }
        }
    }
}

impl BlockingConnection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STRAGGLE_MAX))?;
        Ok(Self { stream, answer: Answer::new() })
    }

    fn call(&mut self, call: &Call) -> Result<(), CallError> {
        self.stream.write_all(&call.request)?;
        self.answer.begin();
        loop {
            let n = self.stream.read(self.answer.room())?;
            if self.answer.is_whole(n)? {
                return self.answer.check(call);
            }
        }
    }
}

impl Answer {
    fn new() -> Self {
        Self { input: vec![0; BUFFER_BYTES].into(), n_read: 0, head: None }
    }

    fn begin(&mut self) {
        (self.n_read, self.head) = (0, None);
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.input[self.n_read..]
    }

    /// `n` more bytes are there.
    fn is_whole(&mut self, n: usize) -> io::Result<bool> {
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.n_read += n;
        if self.head.is_none() {
            self.head = parse_head(&self.input[..self.n_read]).map_err(io::Error::other)?;
        }
        let Some(head) = self.head else { return Ok(false) };
        let n_all = head.n_head + head.n_body;
        if n_all > self.input.len() || self.n_read > n_all {
            return Err(io::Error::other("the answer is longer than it may be"));
        }
        Ok(self.n_read == n_all)
    }

    fn check(&self, call: &Call) -> Result<(), CallError> {
        let head = self.head.ok_or_else(|| io::Error::other("there is no answer"))?;
        call.check(head.status, &self.input[head.n_head..self.n_read]).map_err(CallError::Wrong)
    }
}

/// Keep `n_connections` busy for `length`: each sends its next request when its last one was answered, and
/// goes through `calls` in turn.
pub(super) async fn drive(
    address: SocketAddr,
    calls: &[Call],
    n_connections: usize,
    length: Duration,
) -> Sample {
    let begin = Instant::now() + LEAD;
    let window = Window { begin, end: begin + length };
    let sample = RefCell::new(Sample::new());
    let all = join_all((0..n_connections).map(|i| keep_busy(address, calls, i, window, &sample)));
    if timeout(LEAD + length + STRAGGLE_MAX, all).await.is_err() {
        sample.borrow_mut().add_error("answers were missing long after the end of the slice".into());
    }
    let mut sample = sample.into_inner();
    sample.elapsed = length;
    sample
}

/// The stretch of time in which a call has to end to be counted.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

async fn keep_busy(address: SocketAddr, calls: &[Call], i: usize, window: Window, sample: &RefCell<Sample>) {
    let mut n_failures = 0;
    while n_failures < FAILURES_MAX {
        let ended = match Connection::open(address).await {
            Ok(mut connection) => converse(&mut connection, calls, i, window, sample, &mut n_failures).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => return,
            Err(error) => {
                n_failures += 1;
                sample.borrow_mut().add_error(error.to_string());
            }
        }
    }
}

async fn converse(
    connection: &mut Connection,
    calls: &[Call],
    i: usize,
    window: Window,
    sample: &RefCell<Sample>,
    n_failures: &mut u32,
) -> io::Result<()> {
    let mut sent = Instant::now();
    for call in calls.iter().cycle().skip(i % calls.len()) {
        let result = connection.call(call).await;
        let now = Instant::now();
        if now >= window.end {
            return Ok(());
        }
        match result {
            Ok(()) => {
                *n_failures = 0;
                if now >= window.begin {
                    sample.borrow_mut().add(now - sent);
                }
            }
            Err(CallError::Wrong(said)) => sample.borrow_mut().add_error(said),
            Err(CallError::Broken(error)) => return Err(error),
        }
        sent = now;
    }
    Ok(())
}

/// Each call once, `n_at_once` under way at a time, with a pause before each.
pub(super) async fn each_once(
    address: SocketAddr,
    calls: &[Call],
    n_at_once: usize,
    pause: Duration,
) -> Sample {
    let sample = RefCell::new(Sample::new());
    let rest = RefCell::new(calls.iter());
    let begin = Instant::now();
    let one = || async {
        let mut connection = None;
        loop {
            let Some(call) = rest.borrow_mut().next() else { return };
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if connection.is_none() {
                connection = Connection::open(address).await.ok();
            }
            let Some(open) = connection.as_mut() else {
                sample.borrow_mut().add_error("cannot connect".into());
                continue;
            };
            let sent = Instant::now();
            match open.call(call).await {
                Ok(()) => sample.borrow_mut().add(sent.elapsed()),
                Err(error) => {
                    sample.borrow_mut().add_error(error.to_string());
                    connection = None;
                }
            }
        }
    };
    join_all((0..n_at_once).map(|_| one())).await;
    let mut sample = sample.into_inner();
    sample.elapsed = begin.elapsed();
    sample
}

/// Each call once, one after the other, with a pause before each. By a client that blocks, as that of the floors does: an event loop and
/// its timer take as long to wake up as a short call.
pub(super) async fn one_by_one(address: SocketAddr, calls: &[Call], pause: Duration) -> Sample {
    let calls = calls.to_vec();
    let sample = tokio::task::spawn_blocking(move || {
        let mut sample = Sample::new();
        let begin = Instant::now();
        let mut connection = None;
        for call in &calls {
            std::thread::sleep(pause);
            if connection.is_none() {
                connection = BlockingConnection::open(address).ok();
            }
            let Some(open) = connection.as_mut() else {
                sample.add_error("cannot connect".into());
                continue;
            };
            let sent = Instant::now();
            match open.call(call) {
                Ok(()) => sample.add(sent.elapsed()),
                Err(error) => {
                    sample.add_error(error.to_string());
                    connection = None;
                }
            }
        }
        sample.elapsed = begin.elapsed();
        sample
    });
    sample.await.expect("nothing in it panics")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that answers each request with the next of `answers`, in pieces as given.
    async fn server(answers: &'static [&'static [&'static str]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in answers {
                    let mut input = [0; 1024];
                    if stream.read(&mut input).await.unwrap_or(0) == 0 {
                        break;
                    }
                    for piece in *answer {
                        stream.write_all(piece.as_bytes()).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_in_pieces_are_put_together_and_checked() {
        let address = server(&[
            &["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 3\r\n\r\n\"", "a\""],
            &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\"b\""],
            &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\"a\""],
        ])
        .await;
        let call = Call::post("/", "{}", "\"a\"");
        let mut connection = Connection::open(address).await.unwrap();
        connection.call(&call).await.unwrap();
        assert!(matches!(connection.call(&call).await, Err(CallError::Wrong(_))));
        connection.call(&call).await.unwrap();
        assert!(matches!(connection.call(&call).await, Err(CallError::Broken(_))));
    }

    #[tokio::test]
    async fn each_call_is_made_once_and_errors_are_counted() {
        let address =
            server(&[&["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], &["nonsense\r\n\r\n"]]).await;
        let calls = vec![Call::post("/", "{}", ""); 6];
        let evented = each_once(address, &calls, 1, Duration::ZERO).await;
        let blocking = one_by_one(address, &calls, Duration::ZERO).await;
        for sample in [evented, blocking] {
            assert_eq!((sample.n(), sample.n_errors), (3, 3));
            assert!(sample.first_error.unwrap().contains("HTTP/1.1"));
        }
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_an_error_and_no_endless_loop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let sample = drive(address, &[Call::post("/", "", "")], 2, Duration::from_millis(1)).await;
        assert_eq!((sample.n(), sample.n_errors), (0, 2 * u64::from(FAILURES_MAX)));
    }
}
