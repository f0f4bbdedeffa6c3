//! The brokers of Kafka that functions may name.

use super::Wrong;
use crate::field::FieldPath;

/// What Kafka's clients take for the port of a broker that is named without one.
const PORT: u16 = 9092;

/// The brokers that the worker connects to if an `ol.yaml` names them. Where those send it to is theirs to say: a cluster's
/// brokers give the addresses of one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brokers {
    /// All that there are, as in OpenLambda.
    Any,
    /// These and no others.
    Only(Vec<Broker>),
}

/// The address of one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// In lower case, and without brackets.
    host: String,
    port: u16,
}

impl Broker {
    /// `host`, `host:port`, `[::1]` or `[::1]:port`, taken apart as librdkafka does it; what it would understand in spite of a
    /// mistake (a port with letters behind it, or beyond 65535) is no address here.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => PORT,
        };
        let is_whole = !host.is_empty() && !host.contains(['[', ']', '/', ',', ' ']) && port != 0;
        is_whole.then(|| Self { host: host.to_ascii_lowercase(), port })
    }
}

impl Brokers {
    /// `None`: the configuration names none, not even an empty list.
    pub(super) fn new(named: Option<&[String]>) -> Result<Self, Wrong> {
        let Some(named) = named else { return Ok(Self::Any) };
        let parse = |(n, text): (usize, &String)| {
            Broker::parse(text).ok_or_else(|| {
                let field = FieldPath::from("kafka.brokers").index(n);
                let problem = "is no broker; write one such as \"kafka.example:9092\"";
                Wrong::new(field, format!("'{text}' {problem}"))
            })
        };
        Ok(Self::Only(named.iter().enumerate().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether a function may name this one. Names are compared, not the addresses that they stand for.
    #[must_use]
    pub fn allow(&self, server: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(brokers) => Broker::parse(server).is_some_and(|asked| brokers.contains(&asked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(named: &[&str]) -> Brokers {
        let named: Vec<_> = named.iter().map(|&text| text.to_owned()).collect();
        Brokers::new(Some(&named)).unwrap()
    }

    #[test]
    fn brokers_are_told_apart_by_name_and_port() {
        let brokers = only(&["Kafka.example", "localhost:9093", "[::1]:9092"]);
        for server in ["kafka.example", "KAFKA.example:9092", "localhost:9093", "[::1]"] {
            assert!(brokers.allow(server), "{server}");
        }
        // What the library would take for a port that is allowed, and what means another address to it.
        let evil = [
            "kafka.example:9093",
            "localhost",
            "localhost:9093x",
            "kafka.example:74628",
            "localhost:09093:1",
            "",
        ];
        for server in evil.into_iter().chain(["::1", "[::1]x", "[::1]:", "kafka.example.", "127.0.0.1:9093"])
        {
            assert!(!brokers.allow(server), "{server}");
        }
    }

    #[test]
    fn no_list_is_every_broker_and_an_empty_one_none() {
        assert!(Brokers::new(None).unwrap().allow("anything:1"));
        assert!(!only(&[]).allow("localhost:9092"));
        for wrong in ["", "a,b", "PLAINTEXT://a:9092", "a:b", "a:0", "[::1"] {
            let refused = Brokers::new(Some(&[wrong.to_owned()])).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("kafka.brokers[0]: '{wrong}' is no broker")), "{refused}");
        }
    }
}
