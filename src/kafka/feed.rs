//! The thread of one reader: everything that is said to librdkafka about its consumer is said here.
//!
//! When partitions are taken away, or the reader ends, the thread waits for the calls under way before it commits; it is
//! the only one that waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::name::FunctionName;
use actors::stats::FeedState;
use actors::world::KafkaSource;
use futures_util::StreamExt;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use slog::{Logger, debug, info, warn};
use tokio::sync::{OnceCell, mpsc};

use super::KafkaSettings;
use super::partition::{DeadLetters, Function, Reader};
use super::record::Record;
use super::shared::{Command, Item, Key, Shared, Trouble, lock};
use super::telling::Telling;
use crate::stats::Stats;
use crate::triggers::Desk;

/// How often what is done is committed: what a killed worker calls again is at most the records of so long.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How long partitions that go to another reader may wait for a call. Then its record is called again over there. The whole
/// group stands still meanwhile.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a seek may take; it is done by another thread of this process.
const SEEK_PATIENCE: Duration = Duration::from_secs(5);
/// How often librdkafka tells how it fares.
const STATISTICS_MS: &str = "2000";
/// How soon a topic is seen that was not there, or has new partitions.
const METADATA_MS: &str = "5000";
/// What librdkafka fetches ahead, of all partitions together; its default of 64 MiB for each of many readers is too much.
const FETCHED_KBYTES: &str = "8192";

/// How soon librdkafka fetches on when that was too much; by default it waits for a second.
const FETCH_AGAIN_MS: &str = "100";

/// What a reader is to do.
pub(super) struct Plan {
    pub(super) name: FunctionName,
    pub(super) group: String,
    pub(super) source: KafkaSource,
    pub(super) settings: KafkaSettings,
    pub(super) grace: Duration,
    pub(super) desk: Desk,
    pub(super) stats: &'static Stats,
    pub(super) log: Logger,
}

impl Plan {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.source.bootstrap_servers.join(","))
            .set("client.id", format!("openlambda-{}", self.name))
            .set("socket.keepalive.enable", "true")
            .set("allow.auto.create.topics", "false");
        config
    }

    fn consumer(&self) -> ClientConfig {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let mut config = self.client();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", if self.source.from_earliest { "earliest" } else { "latest" })
            .set("session.timeout.ms", ms(self.settings.session_timeout))
            .set("heartbeat.interval.ms", ms(self.settings.heartbeat_interval))
            .set("topic.metadata.refresh.interval.ms", METADATA_MS)
            .set("queued.max.messages.kbytes", FETCHED_KBYTES)
            .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS)
            .set("statistics.interval.ms", STATISTICS_MS);
        config
    }

    fn dead_letters(&self) -> Option<DeadLetters> {
        let topic = self.source.dead_letter_topic.clone()?;
        let mut config = self.client();
        // Whoever may not create topics gets an error, which is told; whoever may has it created by the first letter.
        config.set("allow.auto.create.topics", "true").set("acks", "all").set("message.timeout.ms", "10000");
        Some(DeadLetters { topic, config, producer: OnceCell::new() })
    }
}

/// Reads until it is told to stop, or cannot go on; then the trouble says why.
pub(super) fn run(plan: Plan, shared: &Arc<Shared>, heard: mpsc::UnboundedReceiver<Command>) {
    let log = plan.log.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(read(plan, shared, heard)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = ended {
        shared.troubled(Trouble::Other(reason));
    }
    shared.ended();
    debug!(log, "a reader of Kafka has ended");
}

async fn read(
    plan: Plan,
    shared: &Arc<Shared>,
    mut heard: mpsc::UnboundedReceiver<Command>,
) -> Result<(), String> {
    let context =
        Context { shared: Arc::clone(shared), topics: plan.source.topics.clone(), log: plan.log.clone() };
    let consumer: StreamConsumer<Context> =
        plan.consumer().create_with_context(context).map_err(|error| error.to_string())?;
    let topics: Vec<_> = plan.source.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(|error| error.to_string())?;
    let function = Arc::new(Function {
        name: plan.name.clone(),
        group: plan.group.clone(),
        calls_max: plan.source.calls_max,
        dead_letters: plan.dead_letters(),
        shared: Arc::clone(shared),
        stats: plan.stats,
        given_up: Telling::default(),
        not_understood: Telling::default(),
        not_sought: Telling::default(),
        log: plan.log.clone(),
    });
    let mut ticks = tokio::time::interval(COMMIT_EVERY);
    let mut stream = consumer.stream();
    let ended = loop {
        tokio::select! {
            biased;
            command = heard.recv() => match command {
                Some(Command::Resume(keys)) => {
                    // What was taken away meanwhile cannot be resumed, and need not.
                    let _ = consumer.resume(&list(keys.into_iter().map(|key| (key, None))));
                }
                // Whoever was stopped in the meantime does not wait for it any more, and has noted where to go on.
                Some(Command::Seek { done, .. }) if done.is_closed() => {}
                Some(Command::Seek { key, offset, done }) => {
                    let _ = done.send(seek(&consumer, shared, &key, offset));
                }
                Some(Command::Stop) | None => break Ok(()),
            },
            _ = ticks.tick() => commit(&consumer, shared.uncommitted(), CommitMode::Async, &plan.log),
            message = stream.next() => match message {
                Some(Ok(message)) => {
                    if !take(&consumer, &plan.desk, &function, &message) {
                        break Ok(());
                    }
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => break Err(code.to_string()),
                Some(Err(error)) => troubled(&plan, shared, &error),
                None => break Ok(()),
            },
        }
    };
    let left = shared.stop(None, plan.grace);
    commit(&consumer, left, CommitMode::Sync, &plan.log);
    ended
}

/// A record has come. `false`: there is nobody any more to call.
fn take(
    consumer: &StreamConsumer<Context>,
    desk: &Desk,
    function: &Arc<Function>,
    message: &BorrowedMessage<'_>,
) -> bool {
    let shared = &function.shared;
    let (topic, partition) = (message.topic(), message.partition());
    let record = Record::of(message, function.dead_letters.is_some());
    let key = match shared.with(topic, partition, |to| to.key.clone()) {
        Some(key) => key,
        None => {
            let (key, run, records, stopped) = shared.open(topic, partition);
            let reader = Reader { function: Arc::clone(function), key: key.clone(), run, records, stopped };
            if !desk.bring(move |calls| Box::pin(reader.read(calls))) {
                return false;
            }
            key
        }
    };
    // Before whoever takes it out can.
    let pause = lock(&shared.inflow).took(&key, record.bytes);
    shared.with(topic, partition, |to| {
        // A queue without an end belongs to a thread that has ended.
        let _ = to.records.send(Item { record, epoch: to.run.epoch() });
    });
    if pause && let Err(error) = consumer.pause(&list([(key, None)])) {
        debug!(function.log, "cannot pause a partition"; "partition" => partition, "error" => %error);
    }
    shared.relieved(|trouble| matches!(trouble, Trouble::Other(_)));
    true
}

fn seek(consumer: &StreamConsumer<Context>, shared: &Shared, key: &Key, offset: i64) -> Result<(), String> {
    if !shared.next_epoch(key) {
        return Err("the partition was taken away".to_owned());
    }
    consumer.seek(&key.0, key.1, Offset::Offset(offset), SEEK_PATIENCE).map_err(|error| error.to_string())
}

fn list(entries: impl IntoIterator<Item = (Key, Option<i64>)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in entries {
        let mut entry = list.add_partition(&topic, partition);
        if let Some(offset) = offset {
            // Only what is no offset cannot be set.
            let _ = entry.set_offset(Offset::Offset(offset));
        }
    }
    list
}

fn commit<C: Consumer<Context>>(consumer: &C, done: Vec<(Key, i64)>, mode: CommitMode, log: &Logger) {
    if done.is_empty() {
        return;
    }
    let done = list(done.into_iter().map(|(key, next)| (key, Some(next))));
    if let Err(error) = consumer.commit(&done, mode) {
        // With the next tick; or never, and then these records are called again.
        let shared = &consumer.client().context().shared;
        if let Some(n_untold) = shared.uncommitted.tell(Instant::now()) {
            warn!(log, "cannot commit"; "error" => %error, "n_more_before" => n_untold);
        }
        shared.commit_again();
    }
}

fn troubled(plan: &Plan, shared: &Shared, error: &KafkaError) {
    let code = error.rdkafka_error_code();
    let servers = plan.source.bootstrap_servers.join(", ");
    let trouble = match code {
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut,
        ) => Trouble::Brokers(format!("no broker answers ({servers}); trying again")),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Trouble::Topic(format!("there is no topic {}, or not yet", plan.source.topics.join(" or ")))
        }
        _ => Trouble::Other(error.to_string()),
    };
    if shared.troubled(trouble) {
        warn!(plan.log, "cannot read from Kafka; trying again"; "error" => %error);
    }
}

/// What librdkafka calls back. All of it but the log runs on the reader's thread.
struct Context {
    shared: Arc<Shared>,
    topics: Vec<String>,
    log: Logger,
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, what: &str, text: &str) {
        debug!(self.log, "librdkafka"; "what" => what, "text" => text);
    }

    fn stats(&self, statistics: Statistics) {
        let is_up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        let is_there = |topic: &String| {
            let known = statistics.topics.get(topic);
            known.is_some_and(|topic| topic.partitions.values().any(|partition| partition.leader >= 0))
        };
        let all_there = self.topics.iter().all(is_there);
        let relieved = self.shared.relieved(|trouble| match trouble {
            Trouble::Brokers(_) => is_up,
            Trouble::Topic(_) => all_there,
            Trouble::Letters(_) | Trouble::Other(_) => false,
        });
        if relieved {
            info!(self.log, "Kafka can be read again");
        }
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        let lags: Vec<i64> =
            partitions.map(|partition| partition.consumer_lag).filter(|lag| *lag >= 0).collect();
        let lag = (!lags.is_empty()).then(|| lags.iter().sum());
        self.shared.count(|figures| figures.lag = lag);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(self.log, "librdkafka"; "error" => %error, "reason" => reason);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(revoked) = rebalance else { return };
        let keys = revoked.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect();
        let done = self.shared.stop(Some(keys), REVOKE_PATIENCE);
        commit(consumer, done, CommitMode::Sync, &self.log);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let n = consumer.assignment().map_or(0, |assigned| assigned.count());
        self.shared.count(|figures| {
            figures.partitions = n;
            figures.state = match rebalance {
                Rebalance::Assign(_) => FeedState::Reading,
                Rebalance::Revoke(_) | Rebalance::Error(_) => FeedState::Joining,
            };
        });
        if let Rebalance::Assign(_) = rebalance {
            self.shared.relieved(|trouble| matches!(trouble, Trouble::Brokers(_)));
            info!(self.log, "reads from Kafka"; "n_partitions" => n);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(self.log, "a commit has failed"; "error" => %error);
            self.shared.commit_again();
        }
    }
}

/// For what sends dead letters: how it fares is seen by whether they arrive.
pub(super) struct Quiet(pub(super) Logger);

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, what: &str, text: &str) {
        debug!(self.0, "librdkafka"; "what" => what, "text" => text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(self.0, "librdkafka"; "error" => %error, "reason" => reason);
    }
}
