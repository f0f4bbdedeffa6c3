//! Frames between the worker and a sandbox: the Rust side of `docs/PROTOCOL.md`.

use std::fmt;

/// Version of the protocol that both sides must speak.
pub const PROTOCOL: u32 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 12;
/// The body goes on in `BODY` frames.
pub const MORE: u8 = 1;
/// The function failed (responses only).
pub const FAILED: u8 = 2;
/// The sandbox is one of many that work at the same time, and pushes nobody aside when it is woken (requests only).
pub const BATCH: u8 = 4;
/// The client wants a WebSocket (requests only).
pub const SOCKET: u8 = 8;
/// The message is text (messages of a WebSocket only).
pub const TEXT: u8 = 16;
/// Be ready, and leave the rest to the first request, which is there already (`WARM` only).
pub const BRIEF: u8 = 32;
/// A frame to the sandbox goes as packets of at most this, and the next frame begins a new one. What a sandbox reads
/// at once, so that a request in one packet is read whole or not at all.
pub const PACKET_BYTES_MAX: usize = 65_536;
/// Longest payload of a frame, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = i32::MAX as u32;

/// What a frame is for. The numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the sandbox: become this function.
    Load = 1,
    /// To the sandbox: an invocation.
    Request = 2,
    /// To the sandbox: the request's body goes on.
    RequestBody = 3,
    /// To the sandbox: nobody waits for the answer any more.
    Cancel = 4,
    /// To the sandbox: touch what a request touches.
    Warm = 5,
    /// To the sandbox: become a zygote that has this function loaded.
    Zygote = 6,
    /// To a fork of such a zygote: serve, as somebody of your own.
    Renew = 7,
    /// To the sandbox: a message of the client's, over a WebSocket.
    Message = 8,
    /// To the sandbox: the WebSocket is closed; there will be no more messages.
    Closed = 9,
    /// From the sandbox: the answer to those four.
    Ready = 16,
    /// From the sandbox: an answer.
    Response = 17,
    /// From the sandbox: the answer's body goes on.
    ResponseBody = 18,
    /// From the sandbox: the code could not be loaded.
    LoadFailed = 19,
    /// From the sandbox: a message for the client, over a WebSocket.
    SocketMessage = 20,
    /// From the sandbox: the WebSocket is to be closed.
    SocketClose = 21,
}

impl Kind {
    fn from_sandbox(byte: u8) -> Option<Self> {
        Some(match byte {
            16 => Self::Ready,
            17 => Self::Response,
            18 => Self::ResponseBody,
            19 => Self::LoadFailed,
            20 => Self::SocketMessage,
            21 => Self::SocketClose,
            _ => return None,
        })
    }
}

/// The twelve bytes in front of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the payload: head and body.
    pub n_payload: u32,
    /// What it is for.
    pub kind: Kind,
    /// [`MORE`], [`FAILED`], [`BATCH`], [`SOCKET`], [`TEXT`], [`BRIEF`].
    pub flags: u8,
    /// Bytes of the payload that are the head.
    pub n_head: u16,
    /// Which invocation, 0 outside of one.
    pub invocation: u32,
}

/// A sandbox sent what is no frame. It is broken, or it means harm: it is destroyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox broke the frame protocol: {0}")]
pub struct BrokenFrame(pub &'static str);

impl Header {
    /// The bytes that go over the socket.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.n_payload.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.n_head.to_le_bytes());
        bytes[8..].copy_from_slice(&self.invocation.to_le_bytes());
        bytes
    }

    /// Reads a header that a sandbox sent.
    ///
    /// # Errors
    /// When no sandbox of ours sends such a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BrokenFrame> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self {
            n_payload: word(0),
            kind: Kind::from_sandbox(bytes[4]).ok_or(BrokenFrame("unknown kind"))?,
            flags: bytes[5],
            n_head: u16::from_le_bytes([bytes[6], bytes[7]]),
            invocation: word(8),
        };
        if header.n_payload > PAYLOAD_BYTES_MAX {
            return Err(BrokenFrame("the payload is too long"));
        }
        if u32::from(header.n_head) > header.n_payload {
            return Err(BrokenFrame("the head is longer than the payload"));
        }
        let known = if header.kind == Kind::SocketMessage { TEXT } else { MORE | FAILED };
        if header.flags & !known != 0 {
            return Err(BrokenFrame("unknown flags"));
        }
        if header.kind == Kind::ResponseBody && header.more() && header.n_body() == 0 {
            // Without end they would cost their reader time, and be no sign of life.
            return Err(BrokenFrame("a piece of a body with nothing in it"));
        }
        Ok(header)
    }

    /// Whether the body goes on in further frames.
    #[must_use]
    pub fn more(self) -> bool {
        self.flags & MORE != 0
    }

    /// Whether the message is text.
    #[must_use]
    pub fn is_text(self) -> bool {
        self.flags & TEXT != 0
    }

    /// Whether the function failed.
    #[must_use]
    pub fn failed(self) -> bool {
        self.flags & FAILED != 0
    }

    /// Bytes of the payload that are the body.
    #[must_use]
    pub fn n_body(self) -> usize {
        self.n_payload as usize - usize::from(self.n_head)
    }
}

/// Appends one line of a head.
///
/// # Errors
/// When the value could end the line, and so forge the next.
pub fn push_line(head: &mut Vec<u8>, value: &[u8]) -> Result<(), HeadError> {
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
        return Err(HeadError::ControlCharacter);
    }
    head.extend_from_slice(value);
    head.push(b'\n');
    Ok(())
}

/// Why there is no head for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line break or NUL in a method, a target or a header.
    #[error("a header holds a line break")]
    ControlCharacter,
    /// More than the 65,535 bytes that a head has room for.
    #[error("the request's headers are longer than 65,535 bytes together")]
    TooLong,
}

/// The head of a response: status and headers.
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    /// 100 to 999, as the function said.
    pub status: u16,
    headers: &'a [u8],
}

impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.status, String::from_utf8_lossy(self.headers))
    }
}

impl<'a> ResponseHead<'a> {
    /// Reads the head of a `RESPONSE`.
    ///
    /// # Errors
    /// When it is not as the protocol says.
    pub fn parse(head: &'a [u8]) -> Result<Self, BrokenFrame> {
        let (status, headers) =
            head.split_first_chunk::<4>().ok_or(BrokenFrame("the response has no status"))?;
        let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\n'] = status else {
            return Err(BrokenFrame("the response has no status"));
        };
        let digit = |byte: &u8| u16::from(byte - b'0');
        if !headers.is_empty() && headers.last() != Some(&b'\n') {
            return Err(BrokenFrame("the last header has no end"));
        }
        Ok(Self { status: digit(a) * 100 + digit(b) * 10 + digit(c), headers })
    }

    /// Header names and values in the order in which they were sent.
    pub fn headers(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut lines = self.headers.split(|&byte| byte == b'\n');
        std::iter::from_fn(move || Some((lines.next().filter(|name| !name.is_empty())?, lines.next()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_vectors() {
        let header =
            Header { n_payload: 0x0102, kind: Kind::Response, flags: MORE, n_head: 4, invocation: 7 };
        let bytes = [2, 1, 0, 0, 17, 1, 4, 0, 7, 0, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Ok(header));
        assert_eq!(
            Header { kind: Kind::Request, flags: 0, ..header }.encode(),
            [2, 1, 0, 0, 2, 0, 4, 0, 7, 0, 0, 0]
        );
        assert_eq!(
            Header { n_payload: 3, kind: Kind::Message, flags: MORE | TEXT, n_head: 0, invocation: 7 }
                .encode(),
            [3, 0, 0, 0, 8, 17, 0, 0, 7, 0, 0, 0]
        );
        let bytes = [3, 0, 0, 0, 20, 16, 0, 0, 7, 0, 0, 0];
        let header =
            Header { n_payload: 3, kind: Kind::SocketMessage, flags: TEXT, n_head: 0, invocation: 7 };
        assert_eq!((header.encode(), Header::decode(&bytes)), (bytes, Ok(header)));
    }

    #[test]
    fn a_response_head_is_read() {
        let head = ResponseHead::parse(b"200\ncontent-type\napplication/json\nx\n\n").unwrap();
        assert_eq!(head.status, 200);
        let headers: Vec<_> = head.headers().collect();
        assert_eq!(headers, [(&b"content-type"[..], &b"application/json"[..]), (b"x", b"")]);
    }

    #[test]
    fn nonsense_is_refused() {
        for head in [&b""[..], b"20\n", b"abc\n", b"099\n", b"200", b"200\nx"] {
            assert!(ResponseHead::parse(head).is_err(), "{head:?}");
        }
        for bytes in [
            [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 17, 0, 1, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 17, 8, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 17, 16, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 20, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 18, 1, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 18, 1, 1, 0, 0, 0, 0, 0],
        ] {
            assert!(Header::decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_line_break_cannot_be_smuggled_into_a_head() {
        let mut head = Vec::new();
        assert_eq!(push_line(&mut head, b"GET"), Ok(()));
        assert_eq!(push_line(&mut head, b"a\nb"), Err(HeadError::ControlCharacter));
        assert_eq!(head, b"GET\n");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: [u8; HEADER_BYTES], head: Vec<u8>) {
            let _ = Header::decode(&bytes);
            if let Ok(head) = ResponseHead::parse(&head) {
                let _ = head.headers().count();
            }
        }
    }
}
