//! What is told to a client of which no request could be read. actix-http answers 400 or 431, without a word, and ends the connection:
//! that answer is held back, and one with a sentence sent in its place.

use std::time::{Duration, SystemTime};

use actix_http::error::ParseError;
use actix_web::body::MessageBody as _;
use actix_web::http::header::HttpDate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Socket;
use crate::http::error::HttpError;

/// What a head may have at most, as actix-http has it.
pub(in crate::http) const HEADERS_MAX: usize = 96;
pub(in crate::http) const HEAD_KIB_MAX: usize = 128;
/// How long a client may take for a refusal, and is read on for so that it gets it: what arrives at a closed socket has the kernel take back
/// what was sent.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any refusal of actix-http's.
const LENGTH_MAX: usize = 200;

/// What is wrong with a request.
pub(super) fn of(error: &ParseError) -> HttpError {
    HttpError::Malformed(match error {
        ParseError::TooLarge => return HttpError::HeadTooLarge,
        ParseError::Method => "there is no such method".into(),
        ParseError::Uri(error) => format!("its path is none ({error})"),
        ParseError::Version => "its first line does not end with HTTP/1.1 or HTTP/1.0".into(),
        ParseError::Header => {
            "a header, or the first line, has what HTTP does not allow there, or there is no Host".into()
        }
        other => other.to_string(),
    })
}

/// Where a refusal of actix-http's begins, if these bytes end with what looks like one. It has no headers but those that every answer has.
pub(super) fn begins_at(bytes: &[u8]) -> Option<usize> {
    let head = bytes.strip_suffix(b"\r\n\r\n")?;
    let from = head.len().saturating_sub(LENGTH_MAX);
    let at = from + head[from..].windows(7).rposition(|window| window == b"HTTP/1.")?;
    let mut lines = std::str::from_utf8(&head[at..]).ok()?.split("\r\n");
    let (_version, status) = lines.next()?.split_once(' ')?;
    let is_refusal = matches!(status, "400 Bad Request" | "431 Request Header Fields Too Large");
    let mut is_empty = false;
    let is_plain = lines.all(|line| {
        is_empty |= line == "content-length: 0";
        matches!(line.split(':').next(), Some("content-length" | "connection" | "date"))
    });
    (is_refusal && is_empty && is_plain).then_some(at)
}

/// Sends this to the client, and nothing after it.
pub(super) async fn tell<C: Socket>(socket: &mut C, error: &HttpError) {
    let bytes = as_bytes(error);
    let said = async {
        socket.write_all(&bytes).await?;
        socket.shutdown().await?;
        let mut sink = [0; 8 << 10];
        while socket.read(&mut sink).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whoever does not take it in time, or has gone, has no use for it.
    let _ = timeout(PATIENCE, said).await;
}

/// Sends what was held back and is no refusal.
pub(super) async fn write<C: Socket>(socket: &mut C, bytes: &[u8]) {
    if !bytes.is_empty() {
        let _ = timeout(PATIENCE, socket.write_all(bytes)).await;
    }
}

fn as_bytes(error: &HttpError) -> Vec<u8> {
    let response = error.response();
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let body = response.into_body().try_into_bytes().expect("an error is a text");
    let date = HttpDate::from(SystemTime::now());
    bytes.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\ndate: {date}\r\n\r\n", body.len()).as_bytes(),
    );
    bytes.extend_from_slice(&body);
    bytes
}
