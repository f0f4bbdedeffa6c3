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
    let Ok(head) = timeout(HEAD_PATIENCE, read_head(&mut inside)).await else { return Ok(()) };
    let outcome = match parse(&head?) {
        Ok(asked) => rules.go(&mut inside, asked).await?,
        Err(refusal) => Some(refusal),
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

async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    let mut byte = [0; 1];
    // One by one, so that nothing of what follows is taken: a head is some hundred bytes.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read(&mut byte).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(head)
}

fn parse(head: &[u8]) -> Result<Asked, Refusal> {
    let bad = || Refusal("400 Bad Request", "the installer's proxy does not understand this".into());
    let text = std::str::from_utf8(head).map_err(|_| bad())?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let &[method, target, version] = words.as_slice() else { return Err(bad()) };
    if !version.starts_with("HTTP/1.") {
        return Err(bad());
    }
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
    for line in lines {
        let (name, _) = line.split_once(':').ok_or_else(bad)?;
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
        if !ours.contains(&name.to_ascii_lowercase().as_str()) {
            onward.push_str(line);
            onward.push_str("\r\n");
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
    /// Does what is asked; or what is to be answered instead.
    async fn go(&self, inside: &mut TcpStream, asked: Asked) -> io::Result<Option<Refusal>> {
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
        let mut outside = match connected {
            Ok(outside) => outside,
            Err(error) => {
                let text = format!("{place}: {error}");
                note(&mut self.seen.borrow_mut().unreachable, text.clone());
                return Ok(Some(Refusal("502 Bad Gateway", format!("cannot reach {text}"))));
            }
        };
        match asked {
            Asked::Tunnel { .. } => {
                inside.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
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

    /// To the host itself, or to the machine's own proxy, and for a tunnel through that.
    async fn connect(&self, host: &str, port: u16, is_tunnel: bool) -> io::Result<TcpStream> {
        let Some(proxy) = self.proxy_for(host) else { return TcpStream::connect((host, port)).await };
        let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
        if is_tunnel {
            let who = authorization(proxy);
            let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{who}\r\n");
            stream.write_all(head.as_bytes()).await?;
            let answer = read_head(&mut stream).await?;
            let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
            if first.split(' ').nth(1) != Some("200") {
                return Err(io::Error::other(format!("the proxy {} answers: {first}", proxy.host)));
            }
        }
        Ok(stream)
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
        Some(credentials) => format!("Proxy-Authorization: Basic {}\r\n", base64(credentials.as_bytes())),
        None => String::new(),
    }
}

/// RFC 4648. For one header; no crate of ours has it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number =
            (0..3).fold(0, |number, at| number << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
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
            "\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nx\r\n\r\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
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
                let head = String::from_utf8(read_head(&mut stream).await.unwrap()).unwrap();
                let body = head.lines().next().unwrap().to_owned();
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
}
