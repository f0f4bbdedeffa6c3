//! Traces: which function is called when.
//!
//! ```text
//! at_ms,function,body          CSV with this head (RFC 4180); a line that begins with # is a comment
//! 0,hello,"{""name"": ""Ada""}"
//! 12.5,echo,                   without a body: {}
//! ```

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp, Zipf};
use serde::{Deserialize, Serialize};

use super::BenchError;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Since the begin of the trace.
    pub at: Duration,
    /// Whom.
    pub function: String,
    /// With what; JSON, if the function wants JSON.
    pub body: String,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at_ms: f64,
    function: String,
    #[serde(default)]
    body: Option<String>,
}

/// The longest trace: a day.
const LENGTH_MAX: Duration = Duration::from_secs(24 * 3600);
/// Calls of one trace at most: what fits into memory with room to spare.
const EVENTS_MAX: usize = 10_000_000;

/// What a made trace is to be like.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// How many functions; `trace-0` is called most.
    pub n_functions: usize,
    /// How long.
    pub length: Duration,
    /// Calls per second, on average; they come independently of each other.
    pub per_s: f64,
    /// How unequal the functions are: the n-th is called as often as n to the power of minus this. 0: all alike.
    pub zipf: f64,
    /// The same number gives the same trace.
    pub seed: u64,
}

/// Reads a trace; its calls in the order of time.
///
/// # Errors
/// [`BenchError::Trace`] names the line.
pub fn read(path: &Path) -> Result<Vec<Event>, BenchError> {
    let file = File::open(path).map_err(|source| BenchError::File {
        what: "read the trace",
        path: path.to_owned(),
        source,
    })?;
    parse(file)
}

fn parse(input: impl io::Read) -> Result<Vec<Event>, BenchError> {
    let mut reader =
        csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).flexible(true).from_reader(input);
    let mut events = Vec::new();
    for (at, line) in reader.deserialize::<Line>().enumerate() {
        // The head is line 1; comments are not counted, so the number is where to begin looking.
        let wrong = |said: String| BenchError::Trace { line: at + 2, said };
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let at = Some(line.at_ms)
            .filter(|ms| ms.is_finite() && *ms >= 0.0 && *ms <= LENGTH_MAX.as_millis() as f64);
        let Some(at_ms) = at else {
            return Err(wrong(format!(
                "at_ms is {}, and must be from 0 to {}",
                line.at_ms,
                LENGTH_MAX.as_millis()
            )));
        };
        if line.function.parse::<actors::name::FunctionName>().is_err() {
            return Err(wrong(format!("'{}' is no name of a function", line.function)));
        }
        if events.len() == EVENTS_MAX {
            return Err(wrong(format!("there are more than {EVENTS_MAX} calls")));
        }
        let body = line.body.filter(|body| !body.is_empty()).unwrap_or_else(|| "{}".to_owned());
        events.push(Event { at: Duration::from_secs_f64(at_ms / 1e3), function: line.function, body });
    }
    events.sort_by_key(|event| event.at);
    Ok(events)
}

/// Makes a trace.
///
/// # Errors
/// When the recipe cannot be followed, or the file not be written.
pub fn write(path: &Path, recipe: &Recipe) -> Result<usize, BenchError> {
    let failed =
        |source: io::Error| BenchError::File { what: "write the trace", path: path.to_owned(), source };
    let events = make(recipe)?;
    let mut writer = csv::Writer::from_path(path).map_err(|error| failed(error.into()))?;
    for event in &events {
        // Microseconds are enough, and all that people want to read.
        let at_ms = (event.at.as_secs_f64() * 1e6).round() / 1e3;
        let line = Line { at_ms, function: event.function.clone(), body: Some(event.body.clone()) };
        writer.serialize(line).map_err(|error| failed(error.into()))?;
    }
    writer.flush().map_err(failed)?;
    Ok(events.len())
}

fn make(recipe: &Recipe) -> Result<Vec<Event>, BenchError> {
    let wrong = |what: &str| BenchError::Refused(format!("a trace cannot be made: {what}"));
    let too_few = || wrong("there must be more than 0 calls per second");
    let per_s = Some(recipe.per_s).filter(|per_s| per_s.is_finite() && *per_s > 0.0).ok_or_else(too_few)?;
    let pauses = Exp::new(per_s).map_err(|_| too_few())?;
    let n = recipe.n_functions as f64;
    let ranks = Zipf::new(n, recipe.zipf)
        .map_err(|_| wrong("there must be functions, and the exponent not be negative"))?;
    let mut random = StdRng::seed_from_u64(recipe.seed);
    let mut events = Vec::new();
    let mut at = 0.0;
    loop {
        at += pauses.sample(&mut random);
        if at >= recipe.length.as_secs_f64() {
            return Ok(events);
        }
        if events.len() == EVENTS_MAX {
            return Err(wrong(&format!("it would have more than {EVENTS_MAX} calls")));
        }
        // Ranks are from 1.
        let rank = ranks.sample(&mut random) as usize - 1;
        let body = super::workload::body().to_owned();
        events.push(Event { at: Duration::from_secs_f64(at), function: format!("trace-{rank}"), body });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_in_the_order_of_time() {
        let text = "at_ms,function,body\n# by hand\n20.5,b,\n0,a,\"{\"\"x\"\": 1}\"\n3,c\n";
        let events = parse(text.as_bytes()).unwrap();
        let seen: Vec<_> =
            events.iter().map(|event| (event.at.as_micros(), &*event.function, &*event.body)).collect();
        assert_eq!(seen, [(0, "a", "{\"x\": 1}"), (3000, "c", "{}"), (20500, "b", "{}")]);
    }

    #[test]
    fn what_is_wrong_with_a_trace_is_told_with_the_line() {
        for (text, line, words) in [
            ("at_ms,function\n-1,a\n", 2, "at_ms is -1"),
            ("at_ms,function\n1,a\n2,../x\n", 3, "'../x' is no name"),
            ("at_ms,function\n1,a\nsoon,b\n", 3, "invalid float"),
            ("when,function\n1,a\n", 2, "unknown field"),
        ] {
            match parse(text.as_bytes()) {
                Err(BenchError::Trace { line: at, said }) => {
                    assert_eq!(at, line, "{text:?}");
                    assert!(said.contains(words), "{said}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_made_trace_is_what_was_asked_for_and_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.csv");
        let recipe =
            Recipe { n_functions: 20, length: Duration::from_secs(100), per_s: 50.0, zipf: 1.2, seed: 7 };
        let n = write(&path, &recipe).unwrap();
        // 5,000 are expected, with a standard deviation of 71.
        assert!((4600..5400).contains(&n), "{n}");
        let events = read(&path).unwrap();
        assert_eq!(events.len(), n);
        assert!(events.iter().all(|event| event.at < recipe.length));
        let count = |name: &str| events.iter().filter(|event| event.function == name).count();
        assert!(count("trace-0") > 2 * count("trace-3"), "some are called more than others");
        assert_eq!(make(&recipe).unwrap(), make(&recipe).unwrap());
        assert!(make(&Recipe { per_s: 0.0, ..recipe.clone() }).is_err());
        assert!(make(&Recipe { n_functions: 0, ..recipe }).is_err());
    }
}
