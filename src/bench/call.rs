//! One call as bytes: what is sent, and what must come back.
//!
//! The load generator must not be the bottleneck of what it measures, so it knows no more of HTTP than
//! this: a request is a fixed piece of memory, an answer is a status, a `Content-Length` and a body.

use super::BenchError;

/// A request, and the body that is its only right answer (with status 200); `None`: any answer with a status of 2xx.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) request: Box<[u8]>,
    pub(super) expected: Option<Box<[u8]>>,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Bytes up to the body.
    pub(super) n_head: usize,
    /// Bytes of the body.
    pub(super) n_body: usize,
}

/// Why bytes are no answer that this client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotHttp {
    #[error("the answer does not begin with an HTTP/1.1 status")]
    Status,
    #[error("the answer has no Content-Length")]
    Length,
}

impl Call {
    /// `POST path` with a JSON body.
    pub(super) fn post(path: &str, body: &str, expected: &str) -> Self {
        Self { expected: Some(expected.as_bytes().into()), ..Self::post_any(path, body) }
    }

    /// The same, where nobody knows the answer beforehand.
    pub(super) fn post_any(path: &str, body: &str) -> Self {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self { request: request.into_bytes().into(), expected: None }
    }

    /// Whether an answer is the right one.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn check(&self, status: u16, body: &[u8]) -> Result<(), String> {
        let Some(expected) = &self.expected else {
            let is_success = (200..300).contains(&status);
            return if is_success { Ok(()) } else { Err(format!("{status} {:?}", start_of(body))) };
        };
        if status == 200 && *body == **expected {
            return Ok(());
        }
        Err(format!("{status} {:?} instead of 200 {:?}", start_of(body), String::from_utf8_lossy(expected)))
    }
}

/// As much of an answer as a person wants to see.
fn start_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).trim_end().to_owned()
}

/// Read the head of an answer; `None` while it is not whole.
///
/// # Errors
/// When it is none, or of a length that is not told beforehand.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, NotHttp> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let status = match bytes.first_chunk::<13>() {
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', a, b, c, _]) => {
            [a, b, c].iter().try_fold(0, |sum, digit| Some(sum * 10 + u16::from(digit_of(**digit)?)))
        }
        _ => None,
    };
    let status = status.ok_or(NotHttp::Status)?;
    let n_body = bytes[..end].split(|byte| *byte == b'\n').find_map(content_length).ok_or(NotHttp::Length)?;
    Ok(Some(Head { status, n_head: end + 4, n_body }))
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let value =
        line.get(..NAME.len()).filter(|name| name.eq_ignore_ascii_case(NAME)).map(|_| &line[NAME.len()..])?;
    let digits = value.trim_ascii();
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| Some(sum * 10 + usize::from(digit_of(*digit)?)))
}

fn digit_of(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}

/// Where a worker's port is, as an address that answers.
///
/// # Errors
/// When nobody does.
pub(super) fn reach(host: &str, port: u16) -> Result<std::net::SocketAddr, BenchError> {
    use std::net::{TcpStream, ToSocketAddrs};
    let failed = |source| BenchError::Connect { target: format!("{host}:{port}"), source };
    let mut last = std::io::ErrorKind::NotFound.into();
    // `localhost` is often both 127.0.0.1 and ::1, and a worker listens on one of them.
    for address in (host, port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nx: y\r\n\r\n\"Hello, Alice!\"";
        for n in 0..bytes.len() - 15 {
            assert_eq!(parse_head(&bytes[..n]), Ok(None), "{n}");
        }
        let head = parse_head(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.n_body, &bytes[head.n_head..]), (200, 15, &b"\"Hello, Alice!\""[..]));
    }

    #[test]
    fn what_it_does_not_understand_is_an_error_and_no_guess() {
        assert_eq!(parse_head(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n"), Err(NotHttp::Status));
        assert_eq!(parse_head(b"HTTP/1.1 2x0 OK\r\ncontent-length: 1\r\n\r\n"), Err(NotHttp::Status));
        assert_eq!(parse_head(b"\r\n\r\n"), Err(NotHttp::Status));
        for length in ["", "-1", "1 2", "99999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            assert_eq!(parse_head(text.as_bytes()), Err(NotHttp::Length), "{length:?}");
        }
        assert_eq!(
            parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(NotHttp::Length)
        );
    }

    #[test]
    fn only_the_right_body_with_200_is_right() {
        let call = Call::post("/run/x", "{}", "\"a\"");
        assert!(call.request.ends_with(b"content-length: 2\r\n\r\n{}"));
        assert_eq!(call.check(200, b"\"a\""), Ok(()));
        assert!(call.check(429, b"\"a\"").unwrap_err().starts_with("429 "));
        assert!(call.check(200, b"").is_err());
    }
}
