//! What of the bytes that a client sends may be read now. As long as a request has no answer, its body may, and of the next request
//! all but the last byte of its head, without which it is none.
//!
//! The body of a request is as long as actix-http takes it to be, once it has read the head. Of a body in chunks nobody here knows where it
//! ends: what is sent behind such a one, before the answer, is let through.

use memchr::memchr;

/// What ends a head.
const END: &[u8; 4] = b"\r\n\r\n";

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Of the body of the last request that has begun.
    n_body_left: u64,
    is_busy: bool,
    was_last: bool,
    n_begun: u64,
    /// The end of a head has passed, and the request has not begun yet.
    has_head: bool,
    /// Bytes after it that have passed.
    n_behind: u64,
    /// Of a head that no request has come of yet something has passed.
    has_part: bool,
    /// So much of what ends a head stands at the end of what has passed.
    n_of_end: usize,
    is_shut: bool,
}

/// The length of a body in chunks, or of none that HTTP knows the length of.
pub(super) const UNKNOWN: u64 = u64::MAX;

impl Gate {
    /// How many of these bytes may pass, in their order.
    pub(super) fn let_through(&mut self, bytes: &[u8]) -> usize {
        self.is_shut = false;
        let n_body = usize::try_from(self.n_body_left).unwrap_or(usize::MAX).min(bytes.len());
        if self.n_body_left != UNKNOWN {
            self.n_body_left -= n_body as u64;
        }
        if n_body > 0 {
            self.n_of_end = 0;
        }
        let mut at = n_body;
        let mut behind_from = self.has_head.then_some(0);
        while at < bytes.len() {
            if self.n_of_end == 0 {
                match memchr(END[0], &bytes[at..]) {
                    Some(n) => at += n,
                    None => {
                        at = bytes.len();
                        break;
                    }
                }
            }
            if bytes[at] != END[self.n_of_end] {
                // It may be the first byte of another one.
                self.n_of_end = usize::from(bytes[at] == END[0]);
            } else if self.n_of_end + 1 < END.len() {
                self.n_of_end += 1;
            } else if self.is_busy || self.was_last || self.has_head {
                self.is_shut = true;
                break;
            } else {
                self.has_head = true;
                self.n_of_end = 0;
                behind_from = Some(at + 1);
            }
            at += 1;
        }
        if let Some(from) = behind_from {
            self.n_behind += (at - from) as u64;
        }
        // Empty lines between requests are of none (RFC 9112, 2.2).
        self.has_part |= bytes[n_body..at].iter().any(|byte| !END.contains(byte));
        at
    }

    /// actix-http has got a request with a body of this length. `is_last`: nothing is read after it.
    pub(super) fn begin(&mut self, n_body: u64, is_last: bool) {
        let n_behind = std::mem::take(&mut self.n_behind);
        // What has passed behind the head is of the body first.
        self.n_body_left = if n_body == UNKNOWN { UNKNOWN } else { n_body.saturating_sub(n_behind) };
        self.has_part = n_behind > n_body;
        if !self.has_part {
            self.n_of_end = 0;
        }
        self.has_head = false;
        self.is_busy = true;
        self.was_last |= is_last;
        self.n_begun += 1;
    }

    /// Its answer is the last one.
    pub(super) fn end_after_this(&mut self) {
        self.was_last = true;
    }

    /// It has been answered.
    pub(super) fn end(&mut self) {
        self.is_busy = false;
        // After the last answer actix-http reads on for a moment, so that the client gets it, and throws away what comes.
        if self.n_body_left == UNKNOWN && !self.was_last {
            self.n_body_left = 0;
        }
    }

    /// actix-http looks at the connection.
    pub(super) fn start_look(&mut self) {
        self.is_shut = false;
        if self.has_head && !self.is_busy {
            // It has not taken what passed for a request: there were empty lines before one.
            self.has_head = false;
            self.n_behind = 0;
        }
    }

    /// Something was not let through when it looked, and would be now.
    pub(super) fn may_read_on(&self) -> bool {
        self.is_shut && (self.n_body_left > 0 || !(self.is_busy || self.was_last))
    }

    /// The client owes the rest of a head, or the first one.
    pub(super) fn awaits_head(&self) -> bool {
        !self.is_busy && (self.has_part || self.n_begun == 0)
    }

    pub(super) fn was_last(&self) -> bool {
        self.was_last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What actix-http makes of what passes: as many requests as have passed, at once.
    #[derive(Default)]
    struct Reader {
        passed: Vec<u8>,
        /// Where the next request begins.
        at: usize,
        n_read: usize,
    }

    impl Reader {
        /// The length of the next request's body, if its head has passed.
        fn next(&mut self, bodies: &[Vec<u8>]) -> Option<usize> {
            while self.passed[self.at..].starts_with(b"\r\n") {
                self.at += 2;
            }
            let head = self.passed[self.at..].windows(4).position(|window| window == END)?;
            let n_body = bodies[self.n_read].len();
            self.at += head + END.len() + n_body;
            self.n_read += 1;
            Some(n_body)
        }
    }

    proptest! {
        #[test]
        fn one_request_at_a_time_and_every_byte_in_its_order(
            bodies in prop::collection::vec(
                prop::collection::vec(prop::sample::select(b"\r\n\r\nx".to_vec()), 0..12), 1..5),
            n_empty in prop::collection::vec(0_usize..3, 5),
            pieces in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut sent = Vec::new();
            for (body, n_empty) in bodies.iter().zip(n_empty) {
                sent.extend_from_slice(&b"\r\n".repeat(n_empty));
                sent.extend_from_slice(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n");
                sent.extend_from_slice(body);
            }
            let (mut gate, mut reader) = (Gate::default(), Reader::default());
            let mut pieces = pieces.iter().cycle();
            let mut n_looks = 0;
            while reader.passed.len() < sent.len() || reader.n_read < bodies.len() {
                n_looks += 1;
                prop_assert!(n_looks < 1000, "it hangs with {} of {} bytes", reader.passed.len(), sent.len());
                gate.start_look();
                loop {
                    let from = reader.passed.len();
                    let to = sent.len().min(from + pieces.next().unwrap());
                    let n = gate.let_through(&sent[from..to]);
                    reader.passed.extend_from_slice(&sent[from..from + n]);
                    if n == 0 {
                        break;
                    }
                }
                let is_new = if gate.is_busy { None } else { reader.next(&bodies) };
                if let Some(n_body) = is_new {
                    gate.begin(n_body as u64, false);
                }
                let n_before = reader.n_read;
                prop_assert!(!gate.is_busy || reader.passed.len() < reader.at || {
                    let ahead = &reader.passed[reader.at..];
                    let first = ahead.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(ahead.len());
                    !ahead[first..].windows(4).any(|window| window == END)
                }, "a request was let through before the answer of the one before");
                prop_assert_eq!(n_before, reader.n_read);
                if gate.is_busy && reader.passed.len() >= reader.at {
                    gate.end();
                } else {
                    prop_assert!(is_new.is_some() || gate.may_read_on() || reader.passed.len() == sent.len());
                }
            }
            prop_assert_eq!(reader.passed, sent);
        }
    }

    #[test]
    fn a_request_that_is_sent_ahead_waits_without_its_last_byte() {
        let mut gate = Gate::default();
        let two = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        assert_eq!(gate.let_through(two), two.len() - 1);
        gate.begin(0, false);
        assert_eq!(gate.let_through(b"\n"), 0);
        assert!(!gate.may_read_on());
        gate.end();
        assert!(gate.may_read_on() && gate.awaits_head());
        gate.start_look();
        assert_eq!(gate.let_through(b"\n"), 1);
        gate.begin(0, false);
        assert!(!gate.awaits_head());
    }

    #[test]
    fn nothing_is_read_after_the_last_request() {
        let mut gate = Gate::default();
        let two = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        assert_eq!(gate.let_through(two), two.len() - 1);
        gate.begin(0, true);
        gate.end();
        gate.start_look();
        assert_eq!(gate.let_through(b"\n"), 0);
        assert!(!gate.may_read_on());
    }

    #[test]
    fn the_rest_of_a_body_may_be_thrown_away_after_the_last_answer() {
        let mut gate = Gate::default();
        gate.let_through(b"POST / HTTP/1.1\r\n\r\n");
        gate.begin(UNKNOWN, false);
        gate.end_after_this();
        gate.end();
        assert_eq!(gate.let_through(b"\r\n\r\n\r\n\r\n"), 8);
    }

    #[test]
    fn an_empty_line_after_a_body_is_no_part_of_a_head() {
        let mut gate = Gate::default();
        assert!(gate.awaits_head(), "the first one");
        gate.let_through(b"POST / HTTP/1.1\r\n\r\nab");
        gate.begin(2, false);
        gate.let_through(b"\r\n");
        gate.end();
        assert!(!gate.awaits_head());
        gate.let_through(b"P");
        assert!(gate.awaits_head());
    }
}
