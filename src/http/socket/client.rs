//! The client's side of a WebSocket: bytes to messages, and messages to bytes.

use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Item, Message};
use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Longest message of a client, in bytes: it is kept until it is whole, for each socket. As much as the clients of most
/// libraries take.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// A frame's header.
const FRAME_HEADER_BYTES_MAX: usize = 14;
/// Longest reason for a close that fits into a control frame.
const REASON_BYTES_MAX: usize = 123;

/// A message of the client's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message {
        is_text: bool,
        body: Bytes,
    },
    /// To be answered with the same.
    Ping(Bytes),
    Pong,
    Close(Option<CloseReason>),
}

/// What a client does that ends the socket: with which code, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault(pub(super) CloseCode, pub(super) String);

/// Reads what a client sends.
#[derive(Debug)]
pub(super) struct Ear {
    codec: Codec,
    unread: BytesMut,
    /// A message of which the end is missing.
    begun: Option<(bool, BytesMut)>,
}

impl Ear {
    pub(super) fn new() -> Self {
        Self { codec: Codec::new().max_size(MESSAGE_BYTES_MAX), unread: BytesMut::new(), begun: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// What comes next, if it is there.
    ///
    /// # Errors
    /// When the client does not keep to the protocol.
    pub(super) fn next(&mut self) -> Result<Option<Heard>, Fault> {
        loop {
            let frame = match self.codec.decode(&mut self.unread) {
                Ok(Some(frame)) => frame,
                // A frame that is announced too long is not waited for.
                Ok(None) if self.unread.len() > MESSAGE_BYTES_MAX + FRAME_HEADER_BYTES_MAX => {
                    return Err(too_long());
                }
                Ok(None) => return Ok(None),
                Err(actix_http::ws::ProtocolError::Overflow) => return Err(too_long()),
                Err(error) => return Err(Fault(CloseCode::Protocol, error.to_string())),
            };
            match frame {
                Frame::Text(body) => return message(true, body).map(Some),
                Frame::Binary(body) => return message(false, body).map(Some),
                Frame::Ping(body) => return Ok(Some(Heard::Ping(body))),
                Frame::Pong(_) => return Ok(Some(Heard::Pong)),
                Frame::Close(reason) => return Ok(Some(Heard::Close(reason))),
                Frame::Continuation(item) => {
                    if let Some(heard) = self.go_on(item)? {
                        return Ok(Some(heard));
                    }
                }
            }
        }
    }

    fn go_on(&mut self, item: Item) -> Result<Option<Heard>, Fault> {
        let (piece, is_last) = match item {
            Item::FirstText(piece) => {
                self.begun = Some((true, BytesMut::new()));
                (piece, false)
            }
            Item::FirstBinary(piece) => {
                self.begun = Some((false, BytesMut::new()));
                (piece, false)
            }
            Item::Continue(piece) => (piece, false),
            Item::Last(piece) => (piece, true),
        };
        // The codec has seen to it that there is one.
        let Some((is_text, body)) = &mut self.begun else { return Ok(None) };
        if body.len() + piece.len() > MESSAGE_BYTES_MAX {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
        if !is_last {
            return Ok(None);
        }
        let (is_text, body) = (*is_text, body.split().freeze());
        self.begun = None;
        message(is_text, body).map(Some)
    }
}

fn too_long() -> Fault {
    Fault(CloseCode::Size, format!("a message is longer than {} KiB", MESSAGE_BYTES_MAX >> 10))
}

fn message(is_text: bool, body: Bytes) -> Result<Heard, Fault> {
    if is_text && std::str::from_utf8(&body).is_err() {
        return Err(Fault(CloseCode::Invalid, "a text is not UTF-8".to_owned()));
    }
    Ok(Heard::Message { is_text, body })
}

/// Writes what a client gets.
#[derive(Debug)]
pub(super) struct Mouth {
    codec: Codec,
    /// A message is under way in pieces.
    is_amid: bool,
}

impl Mouth {
    pub(super) fn new() -> Self {
        Self { codec: Codec::new(), is_amid: false }
    }

    /// A message, or a piece of it: there is `more` of it or not. `None`: it is not what it is said to be.
    pub(super) fn message(&mut self, is_text: bool, piece: Bytes, more: bool) -> Option<Bytes> {
        let message = match (self.is_amid, more) {
            (false, false) if is_text => Message::Text(piece.try_into().ok()?),
            (false, false) => Message::Binary(piece),
            (false, true) if is_text => Message::Continuation(Item::FirstText(piece)),
            (false, true) => Message::Continuation(Item::FirstBinary(piece)),
            (true, true) => Message::Continuation(Item::Continue(piece)),
            (true, false) => Message::Continuation(Item::Last(piece)),
        };
        self.is_amid = more;
        self.encode(message)
    }

    pub(super) fn ping(&mut self) -> Option<Bytes> {
        self.encode(Message::Ping(Bytes::new()))
    }

    pub(super) fn pong(&mut self, body: Bytes) -> Option<Bytes> {
        self.encode(Message::Pong(body))
    }

    pub(super) fn close(&mut self, reason: Option<CloseReason>) -> Option<Bytes> {
        self.encode(Message::Close(reason))
    }

    fn encode(&mut self, message: Message) -> Option<Bytes> {
        let mut bytes = BytesMut::new();
        self.codec.encode(message, &mut bytes).ok()?;
        Some(bytes.freeze())
    }
}

/// A close with this code, if it is one that may be sent (RFC 6455, 7.4), and as much of the reason as fits.
pub(super) fn reason(code: u16, text: &str) -> Option<CloseReason> {
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return None;
    }
    let end = (0..=text.len().min(REASON_BYTES_MAX)).rev().find(|&at| text.is_char_boundary(at));
    let text = &text[..end.unwrap_or_default()];
    Some(CloseReason { code: code.into(), description: (!text.is_empty()).then(|| text.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a client sends it, masked with zeros.
    fn frame(first: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match body.len() {
            n @ 0..126 => bytes.push(0x80 | n as u8),
            n @ 126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes
    }

    fn heard(bytes: &[u8]) -> Result<Vec<Heard>, Fault> {
        let mut ear = Ear::new();
        let mut all = Vec::new();
        // However it is cut.
        for piece in bytes.chunks(7) {
            ear.push(piece);
            while let Some(heard) = ear.next()? {
                all.push(heard);
            }
        }
        Ok(all)
    }

    fn message(is_text: bool, body: &[u8]) -> Heard {
        Heard::Message { is_text, body: Bytes::copy_from_slice(body) }
    }

    #[test]
    fn messages_are_put_together() {
        let bytes = [
            frame(0x81, "é".as_bytes()),
            frame(0x82, b"\xff"),
            frame(0x01, b"\xc3"),
            frame(0x89, b"are you there?"),
            frame(0x80, b"\xa9"),
            frame(0x88, &[3, 232]),
        ];
        let said = heard(&bytes.concat()).unwrap();
        let reason = CloseReason { code: CloseCode::Normal, description: None };
        let expected = [
            message(true, "é".as_bytes()),
            message(false, b"\xff"),
            Heard::Ping(Bytes::from_static(b"are you there?")),
            message(true, "é".as_bytes()),
            Heard::Close(Some(reason)),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_against_the_protocol_has_its_code() {
        let long = vec![0; MESSAGE_BYTES_MAX];
        let longer = vec![0; MESSAGE_BYTES_MAX + 1];
        let mut endless = frame(0x82, b"");
        endless[1] = 0x80 | 127;
        endless.truncate(2);
        endless.extend_from_slice(&(1u64 << 40).to_be_bytes());
        endless.extend_from_slice(&[0; MESSAGE_BYTES_MAX + 20]);
        let in_pieces = [frame(0x02, &long), frame(0x80, b"1")].concat();
        let unmasked = vec![0x82, 1, 0];
        for (bytes, code) in [
            (frame(0x81, b"\xff"), CloseCode::Invalid),
            (frame(0x82, &longer), CloseCode::Size),
            (endless, CloseCode::Size),
            (in_pieces, CloseCode::Size),
            (unmasked, CloseCode::Protocol),
            (frame(0x80, b"nothing begun"), CloseCode::Protocol),
            (frame(0xC1, b"reserved"), CloseCode::Protocol),
            (frame(0x83, b"unknown"), CloseCode::Protocol),
        ] {
            let fault = heard(&bytes).unwrap_err();
            assert_eq!(fault.0, code, "{}", fault.1);
        }
        assert_eq!(heard(&frame(0x82, &long)).unwrap(), [message(false, &long)]);
    }

    #[test]
    fn a_message_in_pieces_is_one_message() {
        let mut mouth = Mouth::new();
        let mut say = |piece: &'static str, more| mouth.message(true, piece.into(), more).unwrap().to_vec();
        assert_eq!(say("ab", true), [0x01, 2, b'a', b'b']);
        assert_eq!(say("c", true), [0x00, 1, b'c']);
        assert_eq!(say("d", false), [0x80, 1, b'd']);
        assert_eq!(say("e", false), [0x81, 1, b'e']);
        assert_eq!(mouth.message(true, Bytes::from_static(b"\xff"), false), None);
    }

    #[test]
    fn a_reason_fits_and_a_code_may_be_sent() {
        let long = "é".repeat(100);
        let cut = reason(1011, &long).unwrap().description.unwrap();
        assert_eq!(cut.len(), 122);
        assert_eq!(reason(3000, "").unwrap().description, None);
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(reason(code, "x"), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_ear_panic(bytes: Vec<u8>) {
            let _ = heard(&bytes);
        }
    }
}
