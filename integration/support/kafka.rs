//! A Kafka to read from: librdkafka's own mock cluster, which speaks the real protocol on ports of the loopback. It lives in
//! this process; what reads from it is the worker, in another.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::wait::{eventually, patience};

/// One broker.
pub(crate) struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

/// A record that was read back.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) key: Option<String>,
    pub(crate) value: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Broker {
    /// With these topics, and so many partitions each.
    pub(crate) fn start(topics: &[(&str, i32)]) -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster can be made");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .expect("a producer can be made");
        let broker = Self { cluster, producer };
        for (topic, n) in topics {
            broker.create(topic, *n);
        }
        broker
    }

    pub(crate) fn create(&self, topic: &str, n_partitions: i32) {
        self.cluster.create_topic(topic, n_partitions, 1).expect("a topic can be made");
    }

    /// Whether there is such a topic. Asked as one asks who does not want it made.
    pub(crate) fn has(&self, topic: &str) -> bool {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("allow.auto.create.topics", "false")
            .create()
            .expect("a consumer can be made");
        let told = consumer.fetch_metadata(None, patience(20)).expect("the broker answers");
        told.topics().iter().any(|one| one.name() == topic)
    }

    pub(crate) fn servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Nobody can reach it.
    pub(crate) fn go_away(&self) {
        self.cluster.broker_down(-1).expect("brokers can be taken down");
    }

    pub(crate) fn come_back(&self) {
        self.cluster.broker_up(-1).expect("brokers can be brought up");
    }

    /// An `ol.yaml` that reads this topic from its beginning; `more` are further lines of the trigger.
    pub(crate) fn yaml(&self, topic: &str, more: &str) -> String {
        let more: String = more.lines().map(|line| format!("      {line}\n")).collect();
        let servers: String = self.servers().split(',').map(|one| format!("        - \"{one}\"\n")).collect();
        format!(
            "triggers:\n  kafka:\n    - bootstrap_servers:\n{servers}      topics: [\"{topic}\"]\n      auto_offset_reset: earliest\n{more}"
        )
    }

    pub(crate) fn send(&self, topic: &str, partition: i32, key: Option<&str>, value: &str) {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition).payload(value);
        record.key = key;
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("cannot send: {error}"));
    }

    /// One with these headers, and no key.
    pub(crate) fn send_with(&self, topic: &str, partition: i32, value: &str, headers: &[(&str, &str)]) {
        let add =
            |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
        let headers = headers.iter().fold(OwnedHeaders::new(), add);
        let record: BaseRecord<'_, str, str> =
            BaseRecord::to(topic).partition(partition).payload(value).headers(headers);
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("cannot send: {error}"));
    }

    /// Waits until all that was sent is there.
    pub(crate) fn flush(&self) {
        self.producer.flush(patience(60)).expect("what was sent arrives");
    }

    /// All records of a topic's first partition, as soon as there are so many.
    #[track_caller]
    pub(crate) fn read(&self, topic: &str, n: usize) -> Vec<Read> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("group.id", "the-test")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer can be made");
        let mut all = TopicPartitionList::new();
        for partition in 0..4 {
            all.add_partition_offset(topic, partition, Offset::Beginning).expect("it is an offset");
        }
        consumer.assign(&all).expect("it can be assigned");
        let mut found = Vec::new();
        eventually(&format!("{n} records in {topic}"), || {
            while let Some(message) = consumer.poll(Duration::from_millis(10)) {
                let Ok(message) = message else { continue };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers().map(|headers| {
                    let pair = |header: Header<'_, &[u8]>| {
                        (header.key.to_owned(), text(header.value.unwrap_or_default()))
                    };
                    headers.iter().map(pair).collect()
                });
                found.push(Read {
                    key: message.key().map(text),
                    value: message.payload().map(text).unwrap_or_default(),
                    headers: headers.unwrap_or_default(),
                });
            }
            (found.len() >= n).then(|| found.clone())
        })
    }

    /// Up to where a function has read a partition; `None`: nowhere.
    pub(crate) fn committed(&self, function: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("group.id", format!("lambda-{function}"))
            .create()
            .expect("a consumer can be made");
        let mut one = TopicPartitionList::new();
        one.add_partition(topic, partition);
        let committed = consumer.committed_offsets(one, patience(10)).ok()?;
        match committed.elements().first()?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

/// What functions tell over TCP, line by line, each line answered. Unlike what they print, it outlives their worker.
pub(crate) struct Collector {
    pub(crate) port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let port = listener.local_addr().expect("it has an address").port();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&lines);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                thread::spawn(move || {
                    let Ok(mut answers) = stream.try_clone() else { return };
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                        if answers.write_all(b"k").is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, lines }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A function that tells the body of each call, and then returns.
    pub(crate) fn teller(&self) -> String {
        format!(
            "import json, socket\nline = None\ndef f(event):\n    global line\n    if line is None:\n        line = socket.create_connection(('127.0.0.1', {}))\n    line.sendall((json.dumps(event) + '\\n').encode())\n    line.recv(1)\n",
            self.port
        )
    }
}
