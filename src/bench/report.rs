//! What came out: tables for people, JSON for programs.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::machine::Machine;
use super::sample::Sample;
use super::{BenchError, ERROR_SHARE_MAX, Plan, plot};

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// How it was asked for.
    pub settings: Settings,
    /// What was timed, in the order of the run.
    pub calls: Vec<Row>,
    /// What was weighed, and what was timed once.
    pub quantities: Vec<Quantity>,
}

/// The plan's numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    seconds: f64,
    warmup_seconds: f64,
    connections: usize,
    cold_lambdas: usize,
    live_sandboxes: usize,
    http_threads: usize,
    version: &'static str,
    /// A debug build measures itself, not the worker.
    debug_build: bool,
}

/// Calls of one kind. Times are in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    scenario: String,
    what: String,
    n: u64,
    n_errors: u64,
    pub(super) p50_us: Option<f64>,
    p99_us: Option<f64>,
    max_us: Option<f64>,
    /// Right answers per second.
    pub(super) per_s: Option<f64>,
    /// Median over the slices of ours / floor.
    pub(super) throughput_of_floor: Option<f64>,
    /// The same for p50.
    pub(super) p50_of_floor: Option<f64>,
    /// Share of the processors' time that was idle, 0 to 1.
    pub(super) idle: Option<f64>,
    pub(super) goals: Vec<Goal>,
    first_error: Option<String>,
    #[serde(skip)]
    error_share: f64,
    /// For the plot.
    #[serde(skip)]
    sample: Sample,
}

/// One number.
#[derive(Debug, Clone, Serialize)]
pub struct Quantity {
    scenario: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    goal: Option<Goal>,
}

/// What is to be reached.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Goal {
    what: &'static str,
    at_least: bool,
    limit: f64,
    value: f64,
    /// Whether it was.
    met: bool,
}

/// What tables are drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Lines around the cells.
    Lines,
    /// As in a Markdown document.
    Markdown,
}

impl Goal {
    pub(super) fn at_least(what: &'static str, limit: f64, value: f64) -> Self {
        Self { what, at_least: true, limit, value, met: value >= limit }
    }

    pub(super) fn at_most(what: &'static str, limit: f64, value: f64) -> Self {
        Self { what, at_least: false, limit, value, met: value <= limit }
    }

    fn text(&self) -> String {
        let sign = if self.at_least { "≥" } else { "≤" };
        let word = if self.met { "met" } else { "NOT MET" };
        format!("{} {sign} {}: {word} ({:.2})", self.what, self.limit, self.value)
    }
}

impl Row {
    pub(super) fn of(scenario: &str, what: &str, sample: &Sample) -> Self {
        let some = |value: f64| (sample.n() > 0).then_some(value);
        Self {
            scenario: scenario.to_owned(),
            what: what.to_owned(),
            n: sample.n(),
            n_errors: sample.n_errors,
            p50_us: some(sample.percentile_us(50.0)),
            p99_us: some(sample.percentile_us(99.0)),
            max_us: some(sample.max_us()),
            per_s: some(sample.per_s()),
            throughput_of_floor: None,
            p50_of_floor: None,
            idle: None,
            goals: Vec::new(),
            first_error: sample.first_error.clone(),
            error_share: sample.error_share(),
            sample: sample.clone(),
        }
    }

    /// Of calls that come as often as somebody sends them, how many there are in a second says nothing.
    pub(super) fn without_rate(mut self) -> Self {
        self.per_s = None;
        self
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let ratio = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2}")));
        [
            self.scenario.clone(),
            self.what.clone(),
            self.n.to_string(),
            self.n_errors.to_string(),
            or_dash(self.p50_us.map(milliseconds)),
            or_dash(self.p99_us.map(milliseconds)),
            or_dash(self.max_us.map(milliseconds)),
            or_dash(self.per_s.map(|per_s| format!("{per_s:.0}"))),
            ratio(self.throughput_of_floor),
            ratio(self.p50_of_floor),
            or_dash(self.idle.map(|idle| format!("{:.0} %", idle * 100.0))),
            self.goals.iter().map(Goal::text).collect::<Vec<_>>().join("; "),
        ]
    }
}

const COLUMNS: [&str; 12] = [
    "scenario",
    "what",
    "calls",
    "errors",
    "p50 ms",
    "p99 ms",
    "max ms",
    "calls/s",
    "calls/s of floor",
    "p50 of floor",
    "idle",
    "goal",
];
const QUANTITY_COLUMNS: [&str; 4] = ["scenario", "what", "value", "goal"];

/// Three digits that count: `0.0712`, `5.31`, `123`.
fn milliseconds(us: f64) -> String {
    let ms = us / 1e3;
    match ms {
        ms if ms < 1.0 => format!("{ms:.3}"),
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

impl Quantity {
    pub(super) fn new(
        scenario: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self { scenario, what: what.into(), value, unit, goal: None }
    }

    pub(super) fn at_most(mut self, limit: f64) -> Self {
        self.goal = Some(Goal::at_most(self.unit, limit, self.value));
        self
    }

    pub(super) fn at_least(mut self, limit: f64) -> Self {
        self.goal = Some(Goal::at_least(self.unit, limit, self.value));
        self
    }

    fn cells(&self) -> [String; QUANTITY_COLUMNS.len()] {
        let goal = self.goal.as_ref().map_or_else(String::new, Goal::text);
        let value =
            if self.value >= 100.0 { format!("{:.0}", self.value) } else { format!("{:.2}", self.value) };
        [self.scenario.into(), self.what.clone(), format!("{value} {}", self.unit), goal]
    }
}

impl Report {
    pub(super) fn new(machine: Machine, plan: &Plan) -> Self {
        let settings = Settings {
            seconds: plan.length.as_secs_f64(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            connections: plan.n_connections,
            cold_lambdas: plan.n_cold,
            live_sandboxes: plan.n_live,
            http_threads: plan.target.n_http_threads,
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        };
        Self { machine, settings, calls: Vec::new(), quantities: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.calls.push(row);
    }

    pub(super) fn add_quantity(&mut self, quantity: Quantity) {
        self.quantities.push(quantity);
    }

    pub(super) fn finish(&mut self) {
        self.machine.finish();
    }

    /// Whether the answers were right. A goal that was not met is no failure of the run.
    ///
    /// # Errors
    /// When more than one in a hundred answers of a row were wrong, or none was right.
    pub fn verdict(&self) -> Result<(), BenchError> {
        let wrong = self.calls.iter().find(|row| row.error_share > ERROR_SHARE_MAX || row.n == 0);
        wrong.map_or(Ok(()), |row| {
            Err(BenchError::Wrong {
                scenario: format!("{}, {}", row.scenario, row.what),
                n_errors: row.n_errors,
                n_all: row.n + row.n_errors,
                first: row.first_error.clone().unwrap_or_else(|| "no answer at all".into()),
            })
        })
    }

    /// Draws the rows' curves to an SVG file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn plot(&self, path: &Path) -> Result<(), BenchError> {
        let curves: Vec<_> =
            self.calls.iter().map(|row| (format!("{}: {}", row.scenario, row.what), &row.sample)).collect();
        plot::write(path, &curves)
    }

    /// The tables.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut text = self.heading();
        if !self.calls.is_empty() {
            text += &draw(style, &COLUMNS, 2..11, self.calls.iter().map(Row::cells));
        }
        if !self.quantities.is_empty() {
            text += "\n";
            text += &draw(style, &QUANTITY_COLUMNS, 2..3, self.quantities.iter().map(Quantity::cells));
        }
        for row in self.calls.iter().filter(|row| row.n_errors > 0) {
            let first = row.first_error.as_deref().unwrap_or("");
            text +=
                &format!("\n{}, {}: {} errors; the first: {first}\n", row.scenario, row.what, row.n_errors);
        }
        text
    }

    fn heading(&self) -> String {
        let (machine, settings) = (&self.machine, &self.settings);
        let percent =
            |share: Option<f64>| share.map_or_else(|| "?".into(), |share| format!("{:.0} %", share * 100.0));
        let debug = if settings.debug_build { "; A DEBUG BUILD: these numbers mean nothing" } else { "" };
        format!(
            "{} x {}, {} MiB, Linux {}; idle before the run {}, load {:.2} before and {:.2} after, stolen {}\n\
             ol {}, {} HTTP threads; {} s each, of which the load generator is one thread of {} connections at most{debug}\n\n",
            machine.n_cpus,
            machine.cpu,
            machine.memory_mb,
            machine.kernel,
            percent(machine.idle_before),
            machine.load_at_begin,
            machine.load_at_end,
            percent(machine.stolen),
            settings.version,
            settings.http_threads,
            settings.seconds,
            settings.connections,
        )
    }
}

fn draw<const N: usize>(
    style: Style,
    columns: &[&str; N],
    numbers: std::ops::Range<usize>,
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(match style {
        Style::Lines => presets::UTF8_FULL_CONDENSED,
        Style::Markdown => presets::ASCII_MARKDOWN,
    });
    table.set_header(*columns);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(numbers.start).take(numbers.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(row: Row) -> Report {
        let plan = Plan {
            target: crate::bench::Target {
                host: "localhost".into(),
                port: 1,
                pid: 1,
                cgroup_root: "x".into(),
                n_http_threads: 2,
                packages_dir: "packages".into(),
                python: "python3".into(),
            },
            scenarios: vec![],
            length: Duration::from_secs(1),
            warmup: Duration::ZERO,
            n_connections: 32,
            n_cold: 1,
            n_live: 10,
            n_dense: 10,
        };
        let mut report = Report::new(crate::bench::machine::describe(), &plan);
        report.add(row);
        report
    }

    fn sample(n_right: u64, n_wrong: u64) -> Sample {
        let mut sample = Sample::new();
        (0..n_right).for_each(|_| sample.add(Duration::from_micros(71)));
        (0..n_wrong).for_each(|i| sample.add_error(format!("error {i}")));
        sample.elapsed = Duration::from_secs(1);
        sample
    }

    #[test]
    fn a_goal_says_whether_it_was_met() {
        assert_eq!(
            Goal::at_least("calls/s of floor", 0.6, 0.61).text(),
            "calls/s of floor ≥ 0.6: met (0.61)"
        );
        assert_eq!(Goal::at_most("p50 ms", 5.0, 5.1).text(), "p50 ms ≤ 5: NOT MET (5.10)");
    }

    #[test]
    fn times_keep_three_digits() {
        let texts = [71.2, 5310.0, 12_345.0, 123_456.0].map(milliseconds);
        assert_eq!(texts, ["0.071", "5.31", "12.3", "123"]);
    }

    #[test]
    fn one_wrong_answer_in_a_hundred_is_told_and_more_are_a_failure() {
        let fine = report(Row::of("warm", "hello", &sample(99, 1)));
        assert!(fine.verdict().is_ok());
        assert!(fine.render(Style::Lines).contains("1 errors; the first: error 0"));
        let error = report(Row::of("warm", "hello", &sample(98, 2))).verdict().unwrap_err();
        assert_eq!(error.to_string(), "warm, hello: 2 of 100 answers were wrong; the first: error 0");
        assert!(report(Row::of("warm", "hello", &sample(0, 0))).verdict().is_err());
    }

    #[test]
    fn tables_and_json_hold_the_numbers() {
        let mut row = Row::of("warm", "hello", &sample(10, 0));
        row.goals.push(Goal::at_least("calls/s of floor", 0.6, 0.7));
        let mut report = report(row);
        report.add_quantity(Quantity::new("memory", "worker", 12.345, "MB").at_most(30.0));
        let text = report.render(Style::Markdown);
        assert!(
            text.contains(" 0.071 |") && text.contains("12.35 MB") && text.contains("MB ≤ 30: met"),
            "{text}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["calls"][0]["n"], 10);
        assert_eq!(json["calls"][0]["goals"][0]["met"], true);
        assert_eq!(json["quantities"][0]["value"], 12.345);
    }
}
