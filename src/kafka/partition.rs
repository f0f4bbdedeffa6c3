//! One partition's records, called one after the other. Runs on the thread of triggers.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::kafka::attempts::{Attempts, Next};
use actors::name::FunctionName;
use actors::outcome::Outcome;
use rdkafka::ClientConfig;
use rdkafka::producer::FutureProducer;
use rdkafka::util::Timeout;
use slog::{Logger, error, info, warn};
use tokio::sync::{OnceCell, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::feed::Quiet;
use super::record::{Origin, Record};
use super::shared::{Command, Item, Key, Run, Shared, Trouble, lock};
use super::telling::Telling;
use crate::stats::Stats;
use crate::triggers::Calls;

/// How long a dead letter may take to be on its way; then it is tried again.
const LETTER_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before a dead letter is sent again, or a seek is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a function's partitions have in common.
pub(super) struct Function {
    pub(super) name: FunctionName,
    pub(super) group: String,
    pub(super) calls_max: u32,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) shared: Arc<Shared>,
    pub(super) stats: &'static Stats,
    pub(super) given_up: Telling,
    pub(super) not_understood: Telling,
    pub(super) not_sought: Telling,
    pub(super) log: Logger,
}

/// Where records go that were given up. Connects with the first one.
pub(super) struct DeadLetters {
    pub(super) topic: String,
    pub(super) config: ClientConfig,
    pub(super) producer: OnceCell<FutureProducer<Quiet>>,
}

/// The end of a partition's queue that calls.
pub(super) struct Reader {
    pub(super) function: Arc<Function>,
    pub(super) key: Key,
    pub(super) run: Arc<Run>,
    pub(super) records: mpsc::UnboundedReceiver<Item>,
    pub(super) stopped: watch::Receiver<()>,
}

impl Reader {
    /// Until the partition is stopped.
    pub(super) async fn read(mut self, calls: Rc<dyn Calls>) {
        let mut attempts = Attempts::new(self.function.calls_max, u64::from(self.key.1.unsigned_abs()));
        while let Some(Item { record, epoch }) = self.records.recv().await {
            if !self.run.begin() {
                return;
            }
            if epoch == self.run.epoch() {
                self.see_through(&record, &mut attempts, &calls).await;
            }
            self.run.end();
            let resumed = lock(&self.function.shared.inflow).done(&self.key, record.bytes);
            if !resumed.is_empty() {
                self.function.shared.command(Command::Resume(resumed));
            }
        }
    }

    /// Calls a record until it is done with, or the partition is stopped.
    async fn see_through(&mut self, record: &Record, attempts: &mut Attempts, calls: &Rc<dyn Calls>) {
        let function = Arc::clone(&self.function);
        let shared = &function.shared;
        let offset = record.offset;
        loop {
            let permit = tokio::select! {
                biased;
                // Of more partitions than are called at once: what has not begun is for whoever reads it next.
                _ = self.stopped.changed() => return,
                permit = shared.permits.acquire() => permit,
            };
            let Ok(permit) = permit else { return };
            let began = Instant::now();
            let event = record.event(&self.key.0, self.key.1, &function.group);
            let answer = calls.call(&function.name, event).await;
            function.stats.kafka.add(began.elapsed());
            drop(permit);
            let seek = answer.found.as_deref().and_then(|text| self.wanted(text));
            self.count(&answer.outcome);
            match attempts.judge(offset, &answer.outcome, seek) {
                Next::Commit => {
                    shared.reached(&self.key, &self.run, offset + 1);
                    return;
                }
                Next::Again { pause } => {
                    if !self.pause(pause).await {
                        return;
                    }
                }
                // Its feed is about to be dropped; if not, it has come back.
                Next::Stop => {
                    if !self.pause(PAUSE).await {
                        return;
                    }
                }
                Next::Seek { offset, pause } => {
                    self.seek(offset, pause).await;
                    return;
                }
                Next::Letter { n_calls } => {
                    self.give_up(record, &answer.outcome, n_calls).await;
                    return;
                }
            }
        }
    }

    fn wanted(&self, text: &str) -> Option<i64> {
        let offset = text.trim().parse().ok().filter(|offset| *offset >= 0);
        if offset.is_none()
            && let Some(n_untold) = self.function.not_understood.tell(Instant::now())
        {
            // A header may be 64 KiB long, and come with each record.
            let start = &text[..text.floor_char_boundary(100)];
            warn!(self.function.log, "X-Kafka-Seek-Offset is not understood, and passed over";
                "value" => start, "n_more_before" => n_untold);
        }
        offset
    }

    fn count(&self, outcome: &Outcome) {
        self.function.shared.count(|figures| match outcome {
            Outcome::Done { .. } => figures.done += 1,
            Outcome::Failed { .. } | Outcome::Rejected { .. } => {
                figures.failed += 1;
                figures.last_error = Some(outcome.line());
            }
            Outcome::NoRoom { .. } | Outcome::Gone => {}
        });
    }

    /// `false`: the partition was stopped meanwhile.
    async fn pause(&mut self, pause: Duration) -> bool {
        if self.run.is_over() {
            return false;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.stopped.changed() => {}
        }
        !self.run.is_over()
    }

    /// Has the partition go on elsewhere, after a pause. What was read ahead is dropped.
    async fn seek(&mut self, offset: i64, pause: Duration) {
        if pause.is_zero() || self.pause(pause).await {
            self.have_sought(offset).await;
        }
        // Also when the partition is stopped: then it goes on there with whoever reads it next.
        self.function.shared.reached(&self.key, &self.run, offset);
        self.function.shared.count(|figures| figures.seeks += 1);
    }

    /// Until the reader is there, or the partition is stopped: by the reader's own thread, which waits for this record then and
    /// seeks for nobody.
    async fn have_sought(&mut self, offset: i64) {
        while !self.run.is_over() {
            let (done, answer) = oneshot::channel();
            self.function.shared.command(Command::Seek { key: self.key.clone(), offset, done });
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                _ = self.stopped.changed() => return,
            };
            match answer {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    if let Some(n_untold) = self.function.not_sought.tell(Instant::now()) {
                        warn!(self.function.log, "cannot go to another record, trying again"; "partition" => self.key.1,
                            "offset" => offset, "error" => error, "n_more_before" => n_untold);
                    }
                }
                // The reader has ended.
                Err(_) => return,
            }
            self.pause(PAUSE).await;
        }
    }

    /// The function will not take this record. It goes to the dead letters, or into the log.
    async fn give_up(&mut self, record: &Record, outcome: &Outcome, n_calls: u32) {
        let function = Arc::clone(&self.function);
        let shared = &function.shared;
        if let Some(n_untold) = function.given_up.tell(Instant::now()) {
            warn!(function.log, "a record is given up"; "partition" => self.key.1, "offset" => record.offset,
                "n_calls" => n_calls, "outcome" => outcome.line(), "dead_letter" => function.dead_letters.is_some(),
                "n_more_before" => n_untold);
        }
        if let Some(letters) = &function.dead_letters {
            // Before it is there the record is not done with: otherwise it would be nowhere.
            while let Err(problem) = self.send(letters, record, outcome, n_calls).await {
                let text = format!("a dead letter cannot be sent to {}: {problem}", letters.topic);
                if shared.troubled(Trouble::Letters(text.clone())) {
                    error!(function.log, "a dead letter cannot be sent, trying again"; "reason" => text);
                }
                if !self.pause(PAUSE).await {
                    return;
                }
            }
            if shared.relieved(|trouble| matches!(trouble, Trouble::Letters(_))) {
                info!(function.log, "dead letters can be sent again");
            }
        }
        shared.count(|figures| {
            figures.given_up += 1;
            figures.dead_letters += u64::from(function.dead_letters.is_some());
        });
        shared.reached(&self.key, &self.run, record.offset + 1);
    }

    async fn send(
        &self,
        letters: &DeadLetters,
        record: &Record,
        outcome: &Outcome,
        n_calls: u32,
    ) -> Result<(), String> {
        let connect = async || letters.config.create_with_context(Quiet(self.function.log.clone()));
        let producer = letters
            .producer
            .get_or_try_init(connect)
            .await
            .map_err(|error: rdkafka::error::KafkaError| error.to_string())?;
        let origin = Origin { name: &self.function.name, topic: &self.key.0, partition: self.key.1 };
        let letter = record.letter(&letters.topic, &origin, outcome, n_calls);
        match producer.send(letter, Timeout::After(LETTER_PATIENCE)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
