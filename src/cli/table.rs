//! The table of lambdas: what `GET /lambdas` says, one line per actor.

use std::io::IsTerminal;

use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use super::triggers::{Cron, Kafka};

/// One lambda as the worker describes it. A field that a worker does not know is shown as nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lambda {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) generation: u64,
    busy: u64,
    warm: u64,
    frozen: u64,
    starting: u64,
    queue: u64,
    pub(super) invocations: u64,
    pub(super) errors: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    memory_bytes: u64,
    pub(super) message: Option<String>,
    pub(super) cron: Vec<Cron>,
    pub(super) kafka: Vec<Kafka>,
}

/// The answer to `GET /lambdas`, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Lambdas {
    pub(super) lambdas: Vec<Lambda>,
    #[serde(default)]
    pub(super) worker: Worker,
}

/// What is said of the worker as a whole, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Worker {
    packages: Installs,
    counters: Counters,
    health: Health,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Health {
    registry_trouble: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Installs {
    running: u64,
    waiting: u64,
    bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counters {
    packages_installed: u64,
    package_hits: u64,
    package_failures: u64,
    packages_evicted: u64,
}

impl Worker {
    /// A line about the registry, if there is trouble with it.
    pub(super) fn registry(&self) -> String {
        match &self.health.registry_trouble {
            Some(reason) => format!("\nregistry: {reason}; what is known is served on\n"),
            None => String::new(),
        }
    }

    /// A line about packages; nothing, where there are none.
    pub(super) fn packages(&self) -> String {
        let Installs { running, waiting, bytes } = self.packages;
        let Counters { packages_installed, package_hits, package_failures, packages_evicted } = self.counters;
        if bytes + running + waiting + package_failures == 0 {
            return String::new();
        }
        let now = if running > 0 {
            format!("; {running} being installed, {waiting} waiting")
        } else {
            String::new()
        };
        format!(
            "\npackages: {:.1} MB; {packages_installed} installed, {package_hits} found there, {package_failures} times not to be had, {packages_evicted} removed{now}\n",
            bytes as f64 / f64::from(1 << 20)
        )
    }
}

/// How the triggers of these lambdas fare; nothing, where there are none.
pub(super) fn triggers(lambdas: &[Lambda]) -> String {
    let lines = lambdas.iter().flat_map(|lambda| {
        let cron = lambda.cron.iter().map(|cron| format!("{}: by the clock {}\n", lambda.name, cron.line()));
        cron.chain(lambda.kafka.iter().map(|kafka| format!("{}: from Kafka {}\n", lambda.name, kafka.line())))
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

/// What the table is drawn with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
    /// Lines around the cells, for eyes.
    Lines,
    /// Columns of plain ASCII, for other programs.
    Plain,
}

const COLUMNS: [&str; 13] = [
    "name",
    "state",
    "generation",
    "busy",
    "warm",
    "frozen",
    "starting",
    "queue",
    "invocations",
    "errors",
    "p50 ms",
    "p99 ms",
    "memory MB",
];
/// The columns that hold words; all others hold numbers.
const N_WORDS: usize = 2;

impl Style {
    pub(super) fn of_stdout() -> Self {
        if std::io::stdout().is_terminal() { Self::Lines } else { Self::Plain }
    }
}

/// The lambdas of several workers, each with its worker's name. Nothing at all when there are none,
/// and no column of workers when there is one.
pub(super) fn render(workers: &[(String, Vec<Lambda>)], style: Style) -> String {
    if workers.iter().all(|(_, lambdas)| lambdas.is_empty()) {
        return String::new();
    }
    let with_worker = workers.len() > 1;
    let mut table = Table::new();
    table.load_style(match style {
        Style::Lines => presets::UTF8_FULL_CONDENSED,
        Style::Plain => presets::NOTHING,
    });
    table.set_header(with_worker.then_some("worker").into_iter().chain(COLUMNS));
    for (worker, lambdas) in workers {
        for lambda in lambdas {
            table.add_row(with_worker.then(|| worker.clone()).into_iter().chain(lambda.cells()));
        }
    }
    let n_words = N_WORDS + usize::from(with_worker);
    for column in table.column_iter_mut().skip(n_words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    for lambda in workers.iter().flat_map(|(_, lambdas)| lambdas) {
        if let Some(message) = lambda.message.as_deref().filter(|message| !message.trim().is_empty()) {
            text += &format!("\n{}: {}\n", lambda.name, message.trim());
        }
    }
    text
}

impl Lambda {
    fn cells(&self) -> [String; COLUMNS.len()] {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
        [
            self.name.clone(),
            self.state.clone(),
            self.generation.to_string(),
            self.busy.to_string(),
            self.warm.to_string(),
            self.frozen.to_string(),
            self.starting.to_string(),
            self.queue.to_string(),
            self.invocations.to_string(),
            self.errors.to_string(),
            ms(self.p50_ms),
            ms(self.p99_ms),
            megabytes(self.memory_bytes),
        ]
    }
}

/// Tenths of a million bytes, without a float in between.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(message: &str) -> Lambda {
        serde_json::from_value(serde_json::json!({
            "name": "hello", "state": "ready", "generation": 3, "version": "ab12", "busy": 1, "warm": 2, "frozen": 0,
            "starting": 0, "queue": 0, "invocations": 1234, "errors": 5, "refused": 0, "p50_ms": 0.614, "p99_ms": null,
            "memory_bytes": 9_540_000, "message": message,
        }))
        .unwrap()
    }

    #[test]
    fn no_lambda_is_no_table() {
        assert_eq!(render(&[("a".into(), vec![])], Style::Plain), "");
    }

    #[test]
    fn a_line_per_lambda_in_plain_columns() {
        let text = render(&[("a".into(), vec![hello(""), Lambda::default()])], Style::Plain);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(text.is_ascii() && !text.contains('\x1b'));
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["hello", "ready", "3", "1", "2", "0", "0", "0", "1234", "5", "0.61", "-", "9.5"]);
        assert!(lines[0].trim_start().starts_with("name") && lines[0].ends_with("memory MB"), "{text}");
    }

    #[test]
    fn several_workers_are_told_apart() {
        let workers = [("worker-0".into(), vec![hello("")]), ("worker-1".into(), vec![])];
        let text = render(&workers, Style::Plain);
        assert!(text.trim_start().starts_with("worker") && text.contains("worker-0"), "{text}");
    }

    #[test]
    fn what_a_lambda_has_to_say_stands_below() {
        let text = render(&[("a".into(), vec![hello("no f.py\n")])], Style::Plain);
        assert!(text.ends_with("\n\nhello: no f.py\n"), "{text}");
    }

    #[test]
    fn an_answer_of_a_newer_worker_is_understood() {
        let answer: Lambdas =
            serde_json::from_str(r#"{"worker": {"pid": 1}, "lambdas": [{"name": "x", "colour": "blue"}]}"#)
                .unwrap();
        assert_eq!(answer.lambdas[0].name, "x");
    }
}
