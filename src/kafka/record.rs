//! A record of Kafka as the function gets it, and as a dead letter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actors::kafka::inflow::PARTITION_BYTES_MAX;
use actors::name::FunctionName;
use actors::outcome::Outcome;
use bytes::Bytes;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;

use crate::triggers::Event;

/// What a function answers with to be given another record of the partition next.
pub(super) const SEEK: &str = "x-kafka-seek-offset";
/// Longest key that is told. It goes into a header, where it may be three times as long, and all headers have room for
/// 65,535 bytes together.
const KEY_BYTES_MAX: usize = 8 << 10;
/// How much of what a function said of its failure goes into a dead letter.
const ERROR_BYTES_MAX: usize = 1 << 10;
/// What a record takes in memory besides its bytes.
const OVERHEAD_BYTES: usize = 200;
/// What each of its headers takes besides its own: librdkafka's `rd_kafka_header_s`, its place in the list, and what the allocator
/// adds.
const HEADER_OVERHEAD_BYTES: usize = 64;
/// What headers count that cannot be read: as much as the largest record that brokers take by default.
const UNREADABLE_HEADERS_BYTES: usize = PARTITION_BYTES_MAX / 4;

/// A record, and where it stands.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) offset: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    timestamp_ms: Option<i64>,
    /// Those that it came with. They are for a dead letter only: without a topic for these there are none here.
    headers: Option<OwnedHeaders>,
    /// What it takes in memory.
    pub(super) bytes: usize,
}

impl Record {
    /// `may_be_letter`: there is a topic for those that are given up.
    pub(super) fn of(message: &BorrowedMessage<'_>, may_be_letter: bool) -> Self {
        let headers = message.headers().filter(|_| may_be_letter);
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let bytes =
            len(message.key()) + len(message.payload()) + headers.map_or(0, bytes_of) + OVERHEAD_BYTES;
        Self {
            offset: message.offset(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            timestamp_ms: message.timestamp().to_millis(),
            headers: headers.map(BorrowedHeaders::detach),
            bytes,
        }
    }

    /// As a request.
    pub(super) fn event(&self, topic: &str, partition: i32, group: &str) -> Event {
        let mut headers = vec![
            ("x-kafka-topic", topic.to_owned()),
            ("x-kafka-partition", partition.to_string()),
            ("x-kafka-offset", self.offset.to_string()),
            ("x-kafka-group-id", group.to_owned()),
        ];
        if let Some(ms) = self.timestamp_ms {
            headers.push(("x-kafka-timestamp", ms.to_string()));
        }
        if let Some(key) = self.key.as_ref().filter(|key| key.len() <= KEY_BYTES_MAX) {
            headers.push(("x-kafka-key", percent_encoded(key)));
        }
        Event { headers, body: self.value.clone().unwrap_or_default(), wanted: Some(SEEK) }
    }

    /// As a dead letter: the record as it was, and why it is one.
    pub(super) fn letter<'a>(
        &'a self,
        to: &'a str,
        from: &Origin<'_>,
        outcome: &Outcome,
        n_calls: u32,
    ) -> FutureRecord<'a, [u8], [u8]> {
        let mut headers = self.headers.clone().unwrap_or_default();
        let (status, mut error) = match outcome {
            Outcome::Rejected { status, text } | Outcome::Failed { status, text } => {
                (status.to_string(), text.trim_end().to_owned())
            }
            other => (String::new(), other.line()),
        };
        while error.len() > ERROR_BYTES_MAX {
            // The end says more: it is the last line of a traceback.
            let cut = (error.len() - ERROR_BYTES_MAX..error.len()).find(|at| error.is_char_boundary(*at));
            error = error.split_off(cut.unwrap_or(error.len()));
        }
        let said = [
            ("x-ol-function", from.name.to_string()),
            ("x-ol-topic", from.topic.to_owned()),
            ("x-ol-partition", from.partition.to_string()),
            ("x-ol-offset", self.offset.to_string()),
            ("x-ol-calls", n_calls.to_string()),
            ("x-ol-status", status),
            ("x-ol-error", error),
        ];
        for (key, value) in &said {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut letter = FutureRecord::to(to).headers(headers);
        letter.key = self.key.as_deref();
        letter.payload = self.value.as_deref();
        letter
    }
}

/// Where a dead letter comes from.
pub(super) struct Origin<'a> {
    pub(super) name: &'a FunctionName,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
}

/// What headers take in memory.
fn bytes_of(headers: &impl Headers) -> usize {
    let one = |header: Header<'_, &[u8]>| {
        HEADER_OVERHEAD_BYTES + header.key.len() + header.value.map_or(0, <[u8]>::len)
    };
    let all = || (0..headers.count()).filter_map(|at| headers.try_get(at)).map(one).sum();
    // A name may be any bytes, and rdkafka panics where they are not UTF-8. The reader must not end with that; as a dead letter
    // they are passed on unread.
    catch_unwind(AssertUnwindSafe(all)).unwrap_or(UNREADABLE_HEADERS_BYTES)
}

/// Visible ASCII as it is, but for the percent sign; everything else as `%` and two digits.
fn percent_encoded(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
impl Record {
    /// One that no broker has sent.
    pub(super) fn made_up(offset: i64, key: &[u8]) -> Self {
        Self {
            offset,
            key: Some(Bytes::copy_from_slice(key)),
            value: None,
            timestamp_ms: Some(1_800_000_000_123),
            headers: None,
            bytes: key.len() + OVERHEAD_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &[u8]) -> Record {
        Record::made_up(7, key)
    }

    #[test]
    fn a_record_tells_where_it_stands_and_its_key_whatever_that_is() {
        let event = record(b"user 1%\n\xff").event("orders", 3, "lambda-f");
        let header =
            |name| event.headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
        assert_eq!(header("x-kafka-topic"), Some("orders"));
        assert_eq!(header("x-kafka-partition"), Some("3"));
        assert_eq!(header("x-kafka-offset"), Some("7"));
        assert_eq!(header("x-kafka-group-id"), Some("lambda-f"));
        assert_eq!(header("x-kafka-timestamp"), Some("1800000000123"));
        assert_eq!(header("x-kafka-key"), Some("user%201%25%0A%FF"));
        assert!(event.body.is_empty());
    }

    #[test]
    fn a_key_of_8_kib_is_told_whatever_its_bytes_are_and_a_longer_one_is_not() {
        let key_of = |key: &[u8]| {
            let headers = record(key).event("orders", 3, "lambda-f").headers;
            headers.into_iter().find_map(|(name, value)| (name == "x-kafka-key").then_some(value))
        };
        for byte in [b'x', 0xff] {
            let key = key_of(&[byte; 8 << 10]).unwrap();
            let told: Vec<u8> = percent_encoding::percent_decode_str(&key).collect();
            assert_eq!(told, [byte; 8 << 10]);
            assert_eq!(key_of(&[byte; (8 << 10) + 1]), None);
        }
    }

    #[test]
    fn headers_count_with_their_names_and_values() {
        let mut headers = OwnedHeaders::new();
        for n in 0..100 {
            headers = headers.insert(Header { key: "a name", value: (n != 0).then_some(&[0; 10_000][..]) });
        }
        let bytes = bytes_of(headers.as_borrowed());
        assert_eq!(bytes, 100 * ("a name".len() + HEADER_OVERHEAD_BYTES) + 99 * 10_000);
        assert_eq!(bytes_of(OwnedHeaders::new().as_borrowed()), 0);
    }

    #[test]
    fn headers_that_cannot_be_read_count_as_much_as_they_may_be_and_end_nothing() {
        /// As rdkafka has a header whose name is not UTF-8.
        struct Strange;

        impl Headers for Strange {
            fn count(&self) -> usize {
                1
            }

            fn try_get(&self, _at: usize) -> Option<Header<'_, &[u8]>> {
                panic!("not UTF-8, on purpose")
            }
        }

        assert_eq!(bytes_of(&Strange), UNREADABLE_HEADERS_BYTES);
    }

    #[test]
    fn a_dead_letter_says_why_it_is_one() {
        let name: FunctionName = "f".parse().unwrap();
        let from = Origin { name: &name, topic: "orders", partition: 3 };
        let outcome =
            Outcome::Failed { status: 500, text: format!("{}é\nValueError: no\n", "x".repeat(5000)) };
        let record = record(b"k");
        let letter = record.letter("dead", &from, &outcome, 5);
        let headers = letter.headers.unwrap();
        let header = |name: &str| {
            let found = headers.iter().find(|header| header.key == name).unwrap();
            String::from_utf8(found.value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(header("x-ol-offset"), "7");
        assert_eq!(header("x-ol-calls"), "5");
        assert_eq!(header("x-ol-status"), "500");
        assert!(header("x-ol-error").ends_with("é\nValueError: no"));
        assert!(header("x-ol-error").len() <= ERROR_BYTES_MAX);
        assert_eq!((letter.topic, letter.key, letter.payload), ("dead", Some(&b"k"[..]), None));
    }
}
