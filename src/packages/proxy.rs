//! The way out of the installer sandbox: a small HTTP proxy that connects to the index, and to nobody else.
//!
//! It listens inside the sandbox's network namespace and connects from outside. It knows `CONNECT`, by which whoever is
//! inside speaks TLS with the index itself, and `GET` and `HEAD` of plain addresses. What it reads from inside is one
//! head of bounded length; the rest are bytes that it copies, so many and for so long at most.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::sources::{Host, Sources};

/// Connections at once. uv opens up to 50 when it may, and is told to open fewer.
const CONNECTIONS_MAX: usize = 32;
/// Longest head of a request: addresses of packages have some hundred bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most lines of it that `httparse` is given room for; tools send some ten.
const HEADERS_MAX: usize = 64;
/// What is read at once.
const READ_BYTES: usize = 4 << 10;
/// How long a head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the index may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long one connection may last; a wheel of 3 GB takes as long at 10 MB/s.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Addresses that are remembered for the error's text.
const NOTED_MAX: usize = 8;

/// What has happened at the door.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Whom somebody inside wanted to reach, and must not.
    pub(super) refused: BTreeSet<String>,
    /// Why the index could not be reached.
    pub(super) unreachable: BTreeSet<String>,
}

/// See the module's text. Dropped, it closes all connections.
pub(super) struct Door {
    seen: Rc<RefCell<Seen>>,
    tasks: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

struct Rules {
    hosts: Vec<Host>,
    sources: Sources,
    seen: Rc<RefCell<Seen>>,
}

impl Door {
    /// Opens it, on the event loop of this thread, which must be one of its own (`LocalSet`).
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub(super) fn open(listener: std::net::TcpListener, sources: &Sources) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let seen = Rc::<RefCell<Seen>>::default();
        let rules =
            Rc::new(Rules { hosts: sources.hosts(), sources: sources.clone(), seen: Rc::clone(&seen) });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = tokio::task::spawn_local(async move {
            // Dropped with this task, it ends those in it.
            let mut connections = JoinSet::new();
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let rules = Rc::clone(&rules);
                        connections.spawn_local(async move {
                            let _place = place;
                            // Whoever is inside notices; there is nobody else to tell.
                            let _ = timeout(CONNECTION_TIME_MAX, serve(stream, &rules)).await;
                        });
                    }
                    // Out of descriptors, for instance: whoever is inside tries again.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Ok(Self { seen, tasks })
    }

    /// What has happened so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

/// What somebody inside asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// A connection to there.
    Tunnel { host: String, port: u16 },
    /// What is at an address.
    Page { host: String, port: u16, head: Vec<u8> },
}

/// A head that is answered with a refusal of ours.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(&'static str, String);

async fn serve(mut inside: TcpStream, rules: &Rules) -> io::Result<()> {
    let read = timeout(HEAD_PATIENCE, read_head(&mut inside, request)).await;
    let outcome = match read {
        Err(_) => return Ok(()),
        Ok(read) => match read? {
            (Ok(asked), behind) => rules.go(&mut inside, asked, &behind).await?,
            (Err(refusal), _) => Some(refusal),
        },
    };
    if let Some(Refusal(status, text)) = outcome {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
            text.len() + 1
        );
        inside.write_all(answer.as_bytes()).await?;
        inside.shutdown().await?;
    }
    Ok(())
}

/// Reads until there is a whole head, or something that cannot become one. Gives what it says, and what came behind it.
async fn read_head<T>(
    stream: &mut TcpStream,
    understand: impl Fn(&[u8]) -> Head<T>,
) -> io::Result<(T, Vec<u8>)> {
    let mut read = Vec::with_capacity(READ_BYTES);
    loop {
        let room = READ_BYTES.min(HEAD_BYTES_MAX - read.len());
        if room == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let n = read.len();
        read.resize(n + room, 0);
        let n_new = stream.read(&mut read[n..]).await?;
        read.truncate(n + n_new);
        if n_new == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match understand(&read) {
            Head::Partial => {}
            Head::Whole(said, n_bytes) => return Ok((said, read.split_off(n_bytes))),
        }
    }
}

/// What has been read of a head.
#[derive(Debug, PartialEq, Eq)]
enum Head<T> {
    Partial,
    /// All of it, of so many bytes; or enough of it to see that it is none.
    Whole(T, usize),
}

/// What somebody inside asks for.
fn request(read: &[u8]) -> Head<Result<Asked, Refusal>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(read) {
        Ok(httparse::Status::Partial) => Head::Partial,
        Ok(httparse::Status::Complete(n_bytes)) => Head::Whole(asked(&request), n_bytes),
        Err(_) => Head::Whole(Err(bad()), read.len()),
    }
}

/// What another proxy answers: its status, and that in words.
fn response(read: &[u8]) -> Head<(Option<u16>, String)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let none = || Head::Whole((None, "something that is not HTTP".to_owned()), read.len());
    match response.parse(read) {
        Ok(httparse::Status::Partial) => Head::Partial,
        Ok(httparse::Status::Complete(n_bytes)) => {
            let Some(code) = response.code else { return none() };
            let words = format!("{code} {}", response.reason.unwrap_or_default());
            Head::Whole((Some(code), words.trim_end().to_owned()), n_bytes)
        }
        Err(_) => none(),
    }
}

fn bad() -> Refusal {
    Refusal("400 Bad Request", "the installer's proxy does not understand this".into())
}

fn asked(request: &httparse::Request<'_, '_>) -> Result<Asked, Refusal> {
    let (Some(method), Some(target)) = (request.method, request.path) else { return Err(bad()) };
    if method == "CONNECT" {
        let (host, port) = address(target, None).ok_or_else(bad)?;
        return Ok(Asked::Tunnel { host, port });
    }
    if !matches!(method, "GET" | "HEAD") {
        let text = "the installer's proxy passes on GET, HEAD and CONNECT only".into();
        return Err(Refusal("405 Method Not Allowed", text));
    }
    let rest = target.strip_prefix("http://").ok_or_else(bad)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (credentials, authority) = match authority.rsplit_once('@') {
        Some((credentials, authority)) => (Some(credentials), authority),
        None => (None, authority),
    };
    let (host, port) = address(authority, Some(80)).ok_or_else(bad)?;
    if credentials.is_some() {
        // Both tools send them as a header.
        return Err(bad());
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut onward = format!("{method} {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    for header in request.headers.iter() {
        // About this connection, or about a body, which there is none of.
        let ours = [
            "host",
            "connection",
            "proxy-connection",
            "proxy-authorization",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "content-length",
            "expect",
        ];
        if !ours.contains(&header.name.to_ascii_lowercase().as_str()) {
            let value = std::str::from_utf8(header.value).map_err(|_| bad())?;
            onward.push_str(&format!("{}: {value}\r\n", header.name));
        }
    }
    onward.push_str("\r\n");
    Ok(Asked::Page { host, port, head: onward.into_bytes() })
}

/// `host:port`, `[::1]:port`.
fn address(text: &str, port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, own)) if !own.ends_with(']') => (host, own.parse().ok()?),
        _ => (text, port?),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then(|| (host.to_ascii_lowercase(), port))
}

impl Rules {
    /// Does what is asked; or what is to be answered instead. `behind`: what came after the head.
    async fn go(&self, inside: &mut TcpStream, asked: Asked, behind: &[u8]) -> io::Result<Option<Refusal>> {
        let (Asked::Tunnel { host, port } | Asked::Page { host, port, .. }) = &asked;
        let (host, port) = (host.clone(), *port);
        let place = format!("{host}:{port}");
        if !self.hosts.iter().any(|allowed| allowed.is(&host, port)) {
            note(&mut self.seen.borrow_mut().refused, place.clone());
            let text = format!("the installer may not reach {place}: it is none of the index's hosts");
            return Ok(Some(Refusal("403 Forbidden", text)));
        }
        let connected =
            timeout(CONNECT_PATIENCE, self.connect(&host, port, matches!(asked, Asked::Tunnel { .. }))).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (mut outside, early) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let text = format!("{place}: {error}");
                note(&mut self.seen.borrow_mut().unreachable, text.clone());
                return Ok(Some(Refusal("502 Bad Gateway", format!("cannot reach {text}"))));
            }
        };
        match asked {
            Asked::Tunnel { .. } => {
                inside.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                inside.write_all(&early).await?;
                outside.write_all(behind).await?;
                copy_bidirectional(inside, &mut outside).await?;
            }
            Asked::Page { head, .. } => {
                let head = self.for_proxy(&place, &host, head);
                outside.write_all(&head).await?;
                tokio::io::copy(&mut outside, inside).await?;
                inside.shutdown().await?;
            }
        }
        Ok(None)
    }

    fn proxy_for(&self, host: &str) -> Option<&super::sources::Proxy> {
        self.sources.proxy.as_ref().filter(|_| !self.sources.is_direct(host))
    }

    /// To the host itself, or to the machine's own proxy, and for a tunnel through that. With it comes what was said from there already.
    async fn connect(&self, host: &str, port: u16, is_tunnel: bool) -> io::Result<(TcpStream, Vec<u8>)> {
        let Some(proxy) = self.proxy_for(host) else {
            return Ok((TcpStream::connect((host, port)).await?, Vec::new()));
        };
        let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
        if is_tunnel {
            let who = authorization(proxy);
            let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{who}\r\n");
            stream.write_all(head.as_bytes()).await?;
            let ((code, words), early) = read_head(&mut stream, response).await?;
            if code != Some(200) {
                return Err(io::Error::other(format!("the proxy {} answers: {words}", proxy.host)));
            }
            return Ok((stream, early));
        }
        Ok((stream, Vec::new()))
    }

    /// A proxy is asked with the whole address, and wants to know by whom.
    fn for_proxy(&self, place: &str, host: &str, head: Vec<u8>) -> Vec<u8> {
        let Some(proxy) = self.proxy_for(host) else { return head };
        let text = String::from_utf8(head).expect("it was put together as text");
        let (first, rest) = text.split_once("\r\n").expect("a head has a first line");
        let (method, rest_of_first) = first.split_once(' ').expect("it was put together so");
        format!("{method} http://{place}{rest_of_first}\r\n{}{rest}", authorization(proxy)).into_bytes()
    }
}

fn authorization(proxy: &super::sources::Proxy) -> String {
    match &proxy.credentials {
        Some(credentials) => {
            format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(credentials))
        }
        None => String::new(),
    }
}

fn note(noted: &mut BTreeSet<String>, text: String) {
    if noted.len() < NOTED_MAX {
        noted.insert(text);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::task::LocalSet;

    use super::*;

    fn parse(head: &[u8]) -> Result<Asked, Refusal> {
        match request(head) {
            Head::Whole(asked, _) => asked,
            Head::Partial => panic!("it is whole: {}", String::from_utf8_lossy(head)),
        }
    }

    #[test]
    fn heads_are_understood_or_refused() {
        let tunnel = |host: &str, port| Ok(Asked::Tunnel { host: host.into(), port });
        assert_eq!(parse(b"CONNECT PyPI.org:443 HTTP/1.1\r\nHost: x\r\n\r\n"), tunnel("pypi.org", 443));
        assert_eq!(parse(b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n"), tunnel("::1", 443));
        let page = parse(b"GET http://a.example:81/simple/x/ HTTP/1.1\r\nhost: a\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n");
        let head =
            b"GET /simple/x/ HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\nAccept: */*\r\n\r\n"
                .to_vec();
        assert_eq!(page, Ok(Asked::Page { host: "a.example".into(), port: 81, head }));
        for wrong in [
            "POST http://a/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "GET http://a b/ HTTP/1.1\r\n\r\n",
            "CONNECT a/b:1 HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nx\r\n\r\n",
            "GET http://user:word@a/ HTTP/1.1\r\n\r\n",
            "\x16\x03\x01 no HTTP at all",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    /// A door to this index only, and what it answers to a head.
    async fn ask(sources: &Sources, head: String) -> (String, Seen) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door::open(listener, sources).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer, door.seen())
    }

    async fn index() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let line = |read: &[u8]| {
                    let text = String::from_utf8(read.to_vec()).unwrap();
                    match text.find("\r\n\r\n") {
                        Some(at) => Head::Whole(text.lines().next().unwrap().to_owned(), at + 4),
                        None => Head::Partial,
                    }
                };
                let (body, _) = read_head(&mut stream, line).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address.to_string()
    }

    #[tokio::test]
    async fn the_index_is_reached_both_ways_and_nobody_else_is() {
        LocalSet::new()
            .run_until(async {
                let (index, other) = (index().await, index().await);
                let sources =
                    Sources::default().with("no-index", "").with("find-links", &format!("http://{index}/"));
                let (answer, _) = ask(&sources, format!("GET http://{index}/simple/ HTTP/1.1\r\n\r\n")).await;
                assert!(answer.ends_with("GET /simple/ HTTP/1.1"), "{answer}");
                let through = format!("CONNECT {index} HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n");
                let (answer, seen) = ask(&sources, through).await;
                assert!(answer.contains("200 Connection") && answer.ends_with("GET /x HTTP/1.1"), "{answer}");
                assert!(seen.refused.is_empty());
                let (answer, seen) = ask(&sources, format!("GET http://{other}/x HTTP/1.1\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("may not reach"), "{answer}");
                assert_eq!(seen.refused, BTreeSet::from([other]));
            })
            .await;
    }

    #[tokio::test]
    async fn an_index_that_is_away_is_told_apart() {
        LocalSet::new()
            .run_until(async {
                let closed =
                    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
                let sources = Sources::default().with("index-url", &format!("http://{closed}/simple"));
                let (answer, seen) =
                    ask(&sources, format!("GET http://{closed}/simple/x/ HTTP/1.1\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
                assert_eq!((seen.refused.len(), seen.unreachable.len()), (0, 1));
            })
            .await;
    }

    /// Somebody who answers each connection with this, and gives what he was told.
    async fn proxy(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let all = |read: &[u8]| match read.ends_with(b"\r\n\r\n") {
                true => Head::Whole(String::from_utf8(read.to_vec()).unwrap(), read.len()),
                false => Head::Partial,
            };
            let (head, _) = read_head(&mut stream, all).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            head
        });
        (address.to_string(), told)
    }

    #[tokio::test]
    async fn a_tunnel_goes_through_the_machines_proxy_with_its_credentials_and_loses_no_byte() {
        LocalSet::new()
            .run_until(async {
                let sources = |proxy: &str| {
                    let mut sources = Sources::default()
                        .with("no-index", "")
                        .with("find-links", "http://index.example:81/");
                    sources.proxy = super::super::sources::Proxy::parse(&format!("http://me:word@{proxy}"));
                    sources
                };
                let (address, told) = proxy("HTTP/1.1 200 Fine\r\nVia: me\r\n\r\nand at once this").await;
                let ask_for = "CONNECT index.example:81 HTTP/1.1\r\n\r\n";
                let (answer, _) = ask(&sources(&address), ask_for.into()).await;
                assert!(answer.ends_with("\r\n\r\nand at once this"), "{answer}");
                let told = told.await.unwrap();
                assert!(told.starts_with("CONNECT index.example:81 HTTP/1.1\r\n"), "{told}");
                assert!(told.contains("Proxy-Authorization: Basic bWU6d29yZA==\r\n"), "{told}");
                for (says, words) in [
                    ("HTTP/1.1 407 Who are you\r\n\r\n", "answers: 407 Who are you"),
                    ("hello", "answers: something that is not HTTP"),
                ] {
                    let (address, _told) = proxy(says).await;
                    let (answer, seen) = ask(&sources(&address), ask_for.into()).await;
                    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains(words), "{answer}");
                    assert_eq!(seen.unreachable.len(), 1);
                }
            })
            .await;
    }

    #[tokio::test]
    async fn a_head_without_end_is_not_read_to_its_end() {
        LocalSet::new()
            .run_until(async {
                let long = format!("GET http://a/{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
                let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let address = listener.local_addr().unwrap();
                let _door = Door::open(listener, &Sources::default()).unwrap();
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(long.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                // It hangs up, with or without a reset.
                let _ = stream.read_to_end(&mut answer).await;
                assert!(answer.is_empty());
            })
            .await;
    }
}
