//! Code that is a version and a few settings.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::CLASS;
use crate::cron::timetable::CronEntry;
use crate::world::{Class, Code, Hold, KafkaSource, PoolLimits};

pub(crate) fn limits() -> PoolLimits {
    PoolLimits {
        max_instances: 4,
        min_warm: 0,
        queue_length_max: 8,
        queue_wait_max: Duration::from_secs(2),
        freeze_after: Duration::from_secs(10),
        release_after: Some(Duration::from_secs(60)),
    }
}

#[derive(Clone, Debug)]
pub(crate) struct FakeCode {
    pub(crate) version: String,
    pub(crate) limits: PoolLimits,
    pub(crate) packages: Vec<String>,
    pub(crate) reuse: bool,
    pub(crate) imports: bool,
    pub(crate) class: Class,
    pub(crate) cron: Vec<CronEntry>,
    pub(crate) kafka: Vec<KafkaSource>,
    pub(crate) kept: Arc<Mutex<Option<Hold>>>,
}

pub(crate) fn code(version: &str) -> FakeCode {
    FakeCode {
        version: version.into(),
        limits: limits(),
        packages: Vec::new(),
        reuse: true,
        imports: true,
        class: CLASS,
        cron: Vec::new(),
        kafka: Vec::new(),
        kept: Arc::default(),
    }
}

impl Code for FakeCode {
    fn version(&self) -> &str {
        &self.version
    }
    fn limits(&self) -> PoolLimits {
        self.limits
    }
    fn class(&self) -> Class {
        self.class
    }
    fn packages(&self) -> &[String] {
        &self.packages
    }
    fn is_settled(&self) -> bool {
        self.packages.iter().all(|line| line.contains("=="))
    }
    fn pins(&self) -> Vec<String> {
        self.packages.clone()
    }
    fn keep(&self, packages: Hold) {
        *self.kept.lock().unwrap() = Some(packages);
    }
    fn reuse(&self) -> bool {
        self.reuse
    }
    fn imports(&self) -> bool {
        self.imports
    }
    fn cron(&self) -> Vec<CronEntry> {
        self.cron.clone()
    }
    fn kafka(&self) -> Vec<KafkaSource> {
        self.kafka.clone()
    }
}
