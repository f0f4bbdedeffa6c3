//! A small HTTP/1 client over TCP or a Unix socket, every call of which has a deadline.
//!
//! The command line talks to its worker with it, and the integration tests do. One connection per
//! [`Client::request`]; [`Client::connect`] keeps one for many requests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::address::Address;

pub use hyper::{HeaderMap, Method, StatusCode};

/// How long a connection may take to be made: a worker on this machine answers at once or never.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a request may take, answer included: the longest `runtime_sec` by default is 30, and a queue comes before it.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(90);
/// As long as any clock reaches.
const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
/// An answer's longest body: well above what a function may return, and what this process can hold.
const REPLY_BYTES_MAX: usize = 512 << 20;

/// Where to, and how long to wait. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
    connect_wait_max: Duration,
    request_wait_max: Duration,
}

#[derive(Debug, Clone)]
enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or it cannot be reached.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// The address or the path.
        target: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Too late, either connecting or waiting for the whole answer.
    #[error("no answer from {target} within {} ms", .waited.as_millis())]
    TimedOut {
        /// The address or the path.
        target: String,
        /// The time that was given.
        waited: Duration,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("request to {target} failed: {source}")]
    Exchange {
        /// The address or the path.
        target: String,
        /// What went wrong on the way.
        source: hyper::Error,
    },
    /// The body was longer than this client takes, or broke off.
    #[error("cannot read the answer of {target}: {reason}")]
    Body {
        /// The address or the path.
        target: String,
        /// What went wrong.
        reason: String,
    },
    /// The caller's method, path or headers are not HTTP.
    #[error("cannot make a request of that: {0}")]
    Request(#[from] hyper::http::Error),
}

impl Client {
    /// A client of a server on `host:port`.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::new(Target::Tcp { host: host.into(), port })
    }

    /// A client of a server on a Unix socket.
    #[must_use]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(Target::Unix(path.as_ref().to_owned()))
    }

    /// The same client with other limits: on connecting, and on a whole request (connecting included).
    #[must_use]
    pub fn with_deadlines(mut self, connect: Duration, request: Duration) -> Self {
        self.connect_wait_max = connect;
        self.request_wait_max = request;
        self
    }

    /// Send one request on a connection of its own and read the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer in time. Any status code is an answer.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, ClientError> {
        let deadline = from_now(self.request_wait_max);
        let mut connection = self.connect_before(deadline).await?;
        connection.exchange(method, path, headers, body.into(), deadline).await
    }

    /// `GET path`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<Reply, ClientError> {
        self.request(Method::POST, path, &[], body).await
    }

    /// Open a connection for many requests, one after the other.
    ///
    /// # Errors
    /// When nobody listens, or too slowly.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        self.connect_before(from_now(self.connect_wait_max)).await
    }

    fn new(target: Target) -> Self {
        Self { target, connect_wait_max: CONNECT_WAIT_MAX, request_wait_max: REQUEST_WAIT_MAX }
    }

    async fn connect_before(&self, deadline: Instant) -> Result<Connection, ClientError> {
        let target = self.target.to_string();
        let wait = self.connect_wait_max.min(deadline.saturating_duration_since(Instant::now()));
        let failed = |source| ClientError::Connect { target: target.clone(), source };
        // The connection's own future must run beside the request; it ends when the sender is dropped.
        let opening = async {
            match &self.target {
                Target::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                    stream.set_nodelay(true).map_err(failed)?;
                    shake_hands(stream, &target).await
                }
                Target::Unix(path) => {
                    let address = Address::of(path).map_err(failed)?;
                    shake_hands(UnixStream::connect(address.path()).await.map_err(failed)?, &target).await
                }
            }
        };
        let (sender, driver) = timeout(wait, opening)
            .await
            .map_err(|_| ClientError::TimedOut { target: target.clone(), waited: wait })??;
        Ok(Connection { sender, driver, host: self.target.host_header(), client: self.clone() })
    }
}

/// A wait that is longer than the clock reaches has no end that anybody would see.
fn from_now(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + YEARS)
}

async fn shake_hands<S>(
    stream: S,
    target: &str,
) -> Result<(SendRequest<Full<Bytes>>, JoinHandle<()>), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ClientError::Exchange { target: target.to_owned(), source })?;
    Ok((sender, tokio::spawn(async { drop(driver.await) })))
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    host: String,
    client: Client,
}

impl Connection {
    /// Send a request and read the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer in time; the connection is of no use afterwards.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, ClientError> {
        let deadline = from_now(self.client.request_wait_max);
        self.exchange(method, path, headers, body.into(), deadline).await
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        deadline: Instant,
    ) -> Result<Reply, ClientError> {
        let mut request = hyper::Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", &self.host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let target = self.client.target.to_string();
        let exchange = async {
            let broken = |source| ClientError::Exchange { target: target.clone(), source };
            self.sender.ready().await.map_err(broken)?;
            let response = self.sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, REPLY_BYTES_MAX).collect().await.map_err(|error| {
                let reason = if error.is::<LengthLimitError>() {
                    format!("it is longer than {REPLY_BYTES_MAX} bytes")
                } else {
                    error.to_string()
                };
                ClientError::Body { target: target.clone(), reason }
            })?;
            Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        timeout_at(deadline, exchange).await.map_err(|_| ClientError::TimedOut {
            target: self.client.target.to_string(),
            waited: self.client.request_wait_max,
        })?
    }
}

impl Drop for Connection {
    /// A request given up half way must not go on behind its caller's back.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Reply {
    /// The body as text, whatever it holds.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON, or not of this type.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    /// A header field's value, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Target {
    fn host_header(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.host_header()),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    async fn answer(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, reply: &str) -> String {
        let mut seen = Vec::new();
        while !seen.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the client went away early");
        }
        stream.write_all(reply.as_bytes()).await.unwrap();
        String::from_utf8(seen).unwrap()
    }

    #[tokio::test]
    async fn a_request_over_tcp_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, "HTTP/1.1 418 teapot\r\nx: y\r\ncontent-length: 3\r\n\r\nhi\n").await
        });
        let client = Client::tcp("127.0.0.1", port);
        let reply = client.request(Method::GET, "/status?a=b", &[("a", "c")], "").await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str(), reply.header("X")),
            (418, "hi\n", Some("y"))
        );
        let seen = server.await.unwrap();
        assert!(seen.starts_with("GET /status?a=b HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains(&format!("host: 127.0.0.1:{port}\r\n")) && seen.contains("a: c\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn a_unix_socket_works_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ol.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n42").await
        });
        assert_eq!(Client::unix(&path).get("/pid").await.unwrap().json::<u32>().unwrap(), 42);
        assert!(server.await.unwrap().starts_with("GET /pid "));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client =
            Client::tcp("127.0.0.1", port).with_deadlines(Duration::from_secs(5), Duration::from_millis(30));
        let error = client.get("/").await.unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
        assert_eq!(error.to_string(), format!("no answer from 127.0.0.1:{port} within 30 ms"));
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.sock");
        let error = Client::unix(&path).get("/").await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot connect to {}", path.display())), "{error}");
    }
}
