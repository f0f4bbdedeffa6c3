//! What was measured: times of calls, counted errors, and what several slices say together.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Shortest and longest time that is told apart, in nanoseconds; what is longer counts as this.
const NS_MIN: u64 = 100;
const NS_MAX: u64 = 120_000_000_000;
/// Three digits: a value is at most 0.1 % off.
const DIGITS: u8 = 3;

/// Calls of one kind in one stretch of time, or in several merged.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Nanoseconds from the request's first byte to the answer's last.
    times: Histogram<u64>,
    pub(super) n_errors: u64,
    /// What the first error said.
    pub(super) first_error: Option<String>,
    /// Measured time, in which the calls ended.
    pub(super) elapsed: Duration,
}

impl Sample {
    pub(super) fn new() -> Self {
        let times =
            Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS).expect("the bounds are constants that fit");
        Self { times, n_errors: 0, first_error: None, elapsed: Duration::ZERO }
    }

    pub(super) fn add(&mut self, took: Duration) {
        self.times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn add_error(&mut self, error: String) {
        self.n_errors += 1;
        self.first_error.get_or_insert(error);
    }

    /// Calls that were answered rightly.
    pub(super) fn n(&self) -> u64 {
        self.times.len()
    }

    /// The time that `percent` of the calls did not exceed, in microseconds; 0 without calls.
    pub(super) fn percentile_us(&self, percent: f64) -> f64 {
        if self.times.is_empty() { 0.0 } else { self.times.value_at_percentile(percent) as f64 / 1e3 }
    }

    /// The longest time, in microseconds.
    pub(super) fn max_us(&self) -> f64 {
        if self.times.is_empty() { 0.0 } else { self.times.max() as f64 / 1e3 }
    }

    /// Right answers per second of measured time.
    pub(super) fn per_s(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.n() as f64 / self.elapsed.as_secs_f64() }
    }

    /// Errors per call, 0 to 1.
    pub(super) fn error_share(&self) -> f64 {
        let n_all = self.n() + self.n_errors;
        if n_all == 0 { 0.0 } else { self.n_errors as f64 / n_all as f64 }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.times += &other.times;
        self.n_errors += other.n_errors;
        self.elapsed += other.elapsed;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }
}

/// All slices in one.
pub(super) fn merged(slices: &[Sample]) -> Sample {
    let mut all = Sample::new();
    for slice in slices {
        all.merge(slice);
    }
    all
}

/// The value in the middle, the mean of the two when there are two; `None` without values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The median of the ratios, slice by slice: what drifts during a run hits both sides of a ratio.
pub(super) fn ratio(ours: &[Sample], floor: &[Sample], value: impl Fn(&Sample) -> f64) -> Option<f64> {
    median(ours.iter().zip(floor).map(|(ours, floor)| value(ours) / value(floor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(times_us: impl IntoIterator<Item = u64>, elapsed_ms: u64) -> Sample {
        let mut sample = Sample::new();
        times_us.into_iter().for_each(|us| sample.add(Duration::from_micros(us)));
        sample.elapsed = Duration::from_millis(elapsed_ms);
        sample
    }

    fn is_near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() <= wanted * 0.002
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let sample = slice(1..=1000, 500);
        assert!(is_near(sample.percentile_us(50.0), 500.0) && is_near(sample.percentile_us(99.0), 990.0));
        assert!(is_near(sample.max_us(), 1000.0));
        assert!(is_near(sample.per_s(), 2000.0));
    }

    #[test]
    fn nothing_measured_is_zero_and_no_panic() {
        let sample = Sample::new();
        assert_eq!(
            (sample.percentile_us(50.0), sample.max_us(), sample.per_s(), sample.error_share()),
            (0.0, 0.0, 0.0, 0.0)
        );
        assert_eq!(median([]), None);
        assert_eq!(ratio(&[Sample::new()], &[Sample::new()], Sample::per_s), None);
    }

    #[test]
    fn times_out_of_bounds_are_kept_at_the_bound() {
        let mut sample = Sample::new();
        sample.add(Duration::ZERO);
        sample.add(Duration::from_secs(1000));
        assert_eq!(sample.n(), 2);
        assert!(is_near(sample.max_us(), 120e6), "{}", sample.max_us());
    }

    #[test]
    fn merging_adds_everything_and_keeps_the_first_error() {
        let mut one = slice([10; 99], 1000);
        let mut two = slice([20; 99], 1000);
        two.add_error("second".into());
        one.merge(&two);
        one.merge(&{
            let mut three = Sample::new();
            three.add_error("third".into());
            three
        });
        assert_eq!((one.n(), one.n_errors, one.first_error.as_deref()), (198, 2, Some("second")));
        assert!(is_near(one.per_s(), 99.0) && is_near(one.error_share(), 0.01));
    }

    #[test]
    fn the_ratio_is_taken_per_slice_so_that_drift_cancels() {
        // The machine gets four times slower on the way; the ratio stays.
        let ours = [slice([1; 60], 1000), slice([1; 30], 1000), slice([1; 15], 1000)];
        let floor = [slice([1; 100], 1000), slice([1; 50], 1000), slice([1; 25], 1000)];
        assert!(is_near(ratio(&ours, &floor, Sample::per_s).unwrap(), 0.6));
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
