//! `schedule` of `ol.yaml`: when a function is called by the clock.
//!
//! Five fields as in a crontab, or six with the seconds in front; `@daily` and the like; `@every 90m`. In front there may
//! be `CRON_TZ=Europe/Berlin`. OpenLambda reads the same (it has robfig/cron), but for the seconds.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use actors::world::Schedule;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Shortest pause of `@every`: what is shorter is no schedule but a load.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest one, which only bounds the arithmetic.
const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Times that a text describes.
pub(super) struct CronSchedule {
    when: When,
    zone: TimeZone,
}

enum When {
    Pattern(Box<Cron>),
    /// Counted from 1970, so that it does not matter when the worker was started.
    Every(Duration),
}

/// Which of the two texts cannot be meant, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScheduleError {
    /// The schedule itself.
    Schedule(String),
    /// The time zone beside it.
    Timezone(String),
}

impl fmt::Debug for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.when {
            When::Pattern(cron) => write!(f, "{} {}", cron.as_str(), self.zone_name()),
            When::Every(pause) => write!(f, "@every {pause:?}"),
        }
    }
}

impl CronSchedule {
    /// Reads a schedule. `zone`: what stands beside it.
    pub(super) fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        use ScheduleError::{Schedule, Timezone};
        let text = text.trim();
        let (prefix, pattern) = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            Some(rest) => {
                let (name, pattern) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                (Some(name), pattern.trim())
            }
            None => (None, text),
        };
        let zone = match (prefix, zone) {
            (Some(name), Some(_)) => {
                let problem = format!("the schedule names {name} already: leave one of the two out");
                return Err(Timezone(problem));
            }
            (Some(name), None) => find_zone(name).map_err(Schedule)?,
            (None, Some(name)) => find_zone(name).map_err(Timezone)?,
            (None, None) => TimeZone::system(),
        };
        let when = match pattern.strip_prefix("@every") {
            Some(pause) => When::Every(every(pause.trim()).map_err(Schedule)?),
            None => When::Pattern(Box::new(read_pattern(pattern).map_err(Schedule)?)),
        };
        let schedule = Self { when, zone };
        match schedule.next_after(SystemTime::now()) {
            Some(_) => Ok(schedule),
            None => Err(Schedule(format!("'{text}' is never due"))),
        }
    }

    /// The time zone that it is meant in.
    pub(super) fn zone_name(&self) -> String {
        self.zone.iana_name().unwrap_or("the machine's").to_owned()
    }
}

impl Schedule for CronSchedule {
    fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        match &self.when {
            When::Every(pause) => {
                let pause = pause.as_secs();
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs((since / pause + 1) * pause))
            }
            When::Pattern(cron) => {
                let second = Timestamp::from_second(i64::try_from(since).ok()?).ok()?;
                let from = Zoned::new(second, self.zone.clone());
                let next = cron.find_next_occurrence(&from, false).ok()?;
                // Past summer time's end a clock says the same hour twice; time goes on all the same.
                Some(SystemTime::from(next.timestamp())).filter(|next| *next > time)
            }
        }
    }
}

fn find_zone(name: &str) -> Result<TimeZone, String> {
    if name.eq_ignore_ascii_case("local") {
        return Ok(TimeZone::system());
    }
    TimeZone::get(name)
        .map_err(|_| format!("'{name}' is no time zone; write one such as Europe/Berlin, UTC or Local"))
}

fn read_pattern(text: &str) -> Result<Cron, String> {
    let problem = |problem: String| {
        format!(
            "'{text}' is no schedule: {problem}; write five fields such as '*/5 * * * *', or @daily, or @every 90m"
        )
    };
    if text.is_empty() {
        return Err(problem("it is empty".to_owned()));
    }
    let text = if text.eq_ignore_ascii_case("@midnight") { "@daily" } else { text };
    // `5/10` is from 5 on, as robfig/cron takes it.
    let parser =
        CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).sloppy_ranges(true).build();
    parser.parse(text).map_err(|error| problem(error.to_string().trim_end_matches('.').to_owned()))
}

fn every(text: &str) -> Result<Duration, String> {
    let problem = || format!("'@every {text}' is no schedule: write a pause such as 90m or 1h30m");
    let pause = humantime::Duration::from_str(text).map_err(|_| problem())?;
    // In whole seconds, as robfig/cron rounds it.
    let pause = Duration::from_secs(pause.as_secs());
    if pause < EVERY_MIN || pause > EVERY_MAX {
        return Err(format!("'@every {text}': a pause is from 1 s to 366 days"));
    }
    Ok(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, zone: &str, from: &str) -> String {
        let schedule = CronSchedule::parse(text, Some(zone)).unwrap();
        let from = SystemTime::from(from.parse::<Timestamp>().unwrap());
        Timestamp::try_from(schedule.next_after(from).unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_schedule_is_read_as_a_crontab_is() {
        for (text, from, expected) in [
            ("*/5 * * * *", "2026-03-01T10:02:30.5Z", "2026-03-01T10:05:00Z"),
            ("0 9 * * mon-fri", "2026-02-27T12:00:00Z", "2026-03-02T09:00:00Z"),
            // Day of the month or day of the week, as in Vixie's cron.
            ("0 0 13 * 5", "2026-03-07T00:00:00Z", "2026-03-13T00:00:00Z"),
            ("0 0 14 * 5", "2026-03-13T00:00:00Z", "2026-03-14T00:00:00Z"),
            // Sunday is 0 and 7.
            ("0 0 * * 0", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
            ("0 0 * * 7", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
            ("*/10 * * * * *", "2026-03-01T10:02:30Z", "2026-03-01T10:02:40Z"),
            ("@daily", "2026-03-01T10:02:30Z", "2026-03-02T00:00:00Z"),
            ("@midnight", "2026-03-01T10:02:30Z", "2026-03-02T00:00:00Z"),
            ("@hourly", "2026-03-01T10:02:30Z", "2026-03-01T11:00:00Z"),
            ("@every 90s", "2026-03-01T00:00:00Z", "2026-03-01T00:01:30Z"),
            ("@every 1h30m", "2026-03-01T00:00:00Z", "2026-03-01T01:30:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ] {
            assert_eq!(next(text, "UTC", from), expected, "{text}");
        }
    }

    #[test]
    fn a_schedule_is_meant_in_its_time_zone_and_keeps_to_summer_time() {
        // Half past two does not exist in the night of 29 March, and comes twice in that of 25 October.
        let berlin = |from| next("30 2 * * *", "Europe/Berlin", from);
        assert_eq!(berlin("2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(berlin("2026-03-29T12:00:00Z"), "2026-03-30T00:30:00Z");
        let first = berlin("2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00Z");
        assert_eq!(berlin(&first), "2026-10-26T01:30:00Z");
        let schedule = CronSchedule::parse("CRON_TZ=Asia/Tokyo 0 6 * * *", None).unwrap();
        assert_eq!(schedule.zone_name(), "Asia/Tokyo");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_to_write() {
        for text in [
            "",
            "*",
            "* * * *",
            "61 * * * *",
            "* * * * * * *",
            "@fortnightly",
            "@every",
            "@every 0s",
            "@every soon",
            "@reboot",
            "CRON_TZ=Mars/Base 0 0 * * *",
            "CRON_TZ=UTC",
            "0 0 30 2 *",
            "a b c d e",
        ] {
            let error = CronSchedule::parse(text, None).unwrap_err();
            assert!(
                matches!(&error, ScheduleError::Schedule(problem) if problem.len() > 10),
                "{text}: {error:?}"
            );
        }
        for (text, zone) in [("* * * * *", "Nowhere"), ("TZ=UTC * * * * *", "UTC")] {
            let error = CronSchedule::parse(text, Some(zone)).unwrap_err();
            assert!(matches!(error, ScheduleError::Timezone(_)), "{text}: {error:?}");
        }
    }
}
