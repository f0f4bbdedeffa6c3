//! `triggers.cron` of `ol.yaml`: when a function is called by the clock.

use std::sync::Arc;

use actors::cron::timetable::CronEntry;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Checked, wrong};
use crate::field::FieldPath;
use crate::registry::schedule::{CronSchedule, ScheduleError};

/// An invocation by the clock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CronTrigger {
    /// Five fields, as in a crontab.
    pub schedule: String,
    /// The time zone that it is meant in; `None`: the machine's.
    #[serde(default)]
    pub timezone: Option<String>,
}

impl CronTrigger {
    fn read(&self) -> Result<CronSchedule, ScheduleError> {
        CronSchedule::parse(&self.schedule, self.timezone.as_deref())
    }

    pub(super) fn check(&self, path: &FieldPath) -> Checked {
        match self.read() {
            Ok(_) => Ok(()),
            Err(ScheduleError::Schedule(problem)) => wrong(path.clone().name("schedule"), problem),
            Err(ScheduleError::Timezone(problem)) => wrong(path.clone().name("timezone"), problem),
        }
    }

    /// `None`: it could be read when the file was; but the time zone has gone from the machine since.
    pub(super) fn entry(&self) -> Option<CronEntry> {
        let schedule = self.read().ok()?;
        let (text, zone) = (self.schedule.trim().to_owned(), schedule.zone_name());
        Some(CronEntry { text, zone, schedule: Arc::new(schedule) })
    }

    pub(super) fn to_json(&self) -> Value {
        let mut shown = json!({ "Schedule": self.schedule });
        if let Some(zone) = &self.timezone {
            shown["Timezone"] = json!(zone);
        }
        shown
    }
}
