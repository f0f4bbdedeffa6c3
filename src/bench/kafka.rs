//! Records a second that one function is called with from Kafka, beside a consumer that does nothing with them.
//!
//! The broker is librdkafka's own mock cluster, which speaks the real protocol on a port of the loopback, from this process.
//! Both sides read the same topic from its beginning, in turn.

use std::io;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Message};
use serde_json::Value;

use super::report::Quantity;
use super::sample::median;
use super::workload::{self, Entry};
use super::{BenchError, Run};

/// Each with a topic and a function of its own.
const N_ROUNDS: usize = 3;
/// Partitions are called side by side; records of one are not.
const N_PARTITIONS: i32 = 8;
/// Records of a round for each second that was asked for: on two cores a worker takes about so long for them.
const RECORDS_PER_SECOND: f64 = 4000.0;
/// Of a round: fewer say nothing, and of more the mock cluster, which keeps 5 MiB of a partition, would lose the first.
const N_RECORDS: (usize, usize) = (1000, 100_000);
const BODY: &str = r#"{"name": "Alice"}"#;
const CODE: &str = "def f(event):\n    return None\n";
/// How often the worker is asked how far it is: next to nothing beside thousands of calls.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long either side may go without a record. A new group of Kafka's has its partitions after some 3 s.
const PATIENCE: Duration = Duration::from_secs(30);

struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Broker {
    fn start() -> Result<Self, BenchError> {
        let cluster = MockCluster::new(1).map_err(|error| floor("start a broker", error))?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .map_err(|error| floor("write records", error))?;
        Ok(Self { cluster, producer })
    }

    fn fill(&self, topic: &str, n: usize) -> Result<(), BenchError> {
        let failed = |error| floor("write records", error);
        self.cluster.create_topic(topic, N_PARTITIONS, 1).map_err(failed)?;
        for i in 0..n {
            let partition = (i % N_PARTITIONS as usize) as i32;
            let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition).payload(BODY);
            self.producer.send(record).map_err(|(error, _)| failed(error))?;
        }
        self.producer.flush(PATIENCE).map_err(failed)
    }

    fn yaml(&self, topic: &str) -> String {
        let servers = self.cluster.bootstrap_servers().replace(',', "\", \"");
        format!(
            "triggers:\n  kafka:\n    - bootstrap_servers: [\"{servers}\"]\n      topics: [\"{topic}\"]\n      auto_offset_reset: earliest\n"
        )
    }

    /// Records a second of a consumer that only looks at each, from the first one on.
    fn read(&self, topic: &str, n: usize) -> Result<f64, BenchError> {
        let failed = |error| floor("read records", error);
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", format!("floor-{topic}"))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .map_err(failed)?;
        consumer.subscribe(&[topic]).map_err(failed)?;
        let (mut began, mut n_read, mut last) = (None, 0, Instant::now());
        while n_read < n {
            match consumer.poll(LOOK_EVERY) {
                Some(Ok(record)) => {
                    began.get_or_insert_with(Instant::now);
                    last = Instant::now();
                    if record.payload() != Some(BODY.as_bytes()) {
                        return Err(floor(
                            "read records",
                            io::Error::other("another record than was written"),
                        ));
                    }
                    n_read += 1;
                }
                // What is wrong for a while: the group is being formed.
                Some(Err(_)) | None if last.elapsed() < PATIENCE => {}
                Some(Err(error)) => return Err(failed(error)),
                None => return Err(floor("read records", io::Error::from(io::ErrorKind::TimedOut))),
            }
        }
        Ok(per_second(n - 1, began))
    }
}

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let wanted = (run.plan.length.as_secs_f64() * RECORDS_PER_SECOND) as usize;
    let n = (wanted / N_ROUNDS).clamp(N_RECORDS.0, N_RECORDS.1);
    let broker = Broker::start()?;
    let names = workload::new_names("kafka", N_ROUNDS);
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for (round, name) in names.iter().enumerate() {
        run.tell(format!("kafka: round {} of {N_ROUNDS}", round + 1));
        broker.fill(name, n)?;
        // There and back, so that no side is always the one after the other.
        for is_floor in [round % 2 == 0, round % 2 != 0] {
            if is_floor {
                floors.push(broker.read(name, n)?);
            } else {
                let one = std::slice::from_ref(name);
                run.upload_as(one, |_| Entry::of(&[("f.py", CODE), ("ol.yaml", &broker.yaml(name))])).await?;
                let called = called(run, name, n).await;
                run.remove(one).await;
                ours.push(called?);
            }
        }
    }
    let shares = ours.iter().zip(&floors).map(|(ours, floor)| 100.0 * ours / floor);
    let share = median(shares).unwrap_or_default();
    let mut add =
        |what: String, value, unit| run.report.add_quantity(Quantity::new("kafka", what, value, unit));
    let per_s = |values: Vec<f64>| median(values).unwrap_or_default();
    add(format!("records of {N_PARTITIONS} partitions, one call each, one lambda"), per_s(ours), "/s");
    add("floor: a consumer that does nothing with them".to_owned(), per_s(floors), "/s");
    add("of the floor".to_owned(), share, "%");
    Ok(())
}

/// Records a second that a function was called with, from the first one on.
async fn called(run: &Run, name: &str, n: usize) -> Result<f64, BenchError> {
    let (mut first, mut last) = (None, (0, Instant::now()));
    loop {
        let status: Value = run.client().get("/lambdas").await?.json().unwrap_or_default();
        let rows = status["lambdas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let trigger = rows.iter().find(|row| row["name"] == name).map(|row| &row["kafka"][0]);
        let count = |field: &str| trigger.and_then(|trigger| trigger[field].as_u64()).unwrap_or_default();
        let (n_done, now) = (count("done") as usize, Instant::now());
        if count("failed") > 0 || last.1.elapsed() > PATIENCE {
            let trigger = trigger.map(ToString::to_string).unwrap_or_default();
            return Err(BenchError::Refused(format!(
                "the function '{name}' is not fed from Kafka: {trigger}"
            )));
        }
        if n_done > last.0 {
            last = (n_done, now);
        }
        match first {
            None if n_done > 0 => first = Some((n_done, now)),
            Some((n_before, began)) if n_done >= n => return Ok(per_second(n - n_before, Some(began))),
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn per_second(n: usize, began: Option<Instant>) -> f64 {
    began.map_or(0.0, |began| n as f64 / began.elapsed().as_secs_f64())
}

fn floor(what: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BenchError {
    BenchError::Floor { what, source: io::Error::other(error) }
}
