//! A picture of how long calls took: one curve for each row, over the percentiles.

use std::path::Path;

use plotters::prelude::*;

use super::BenchError;
use super::sample::Sample;

/// Pixels.
const SIZE: (u32, u32) = (1000, 640);
/// The longest part of calls that is told apart, as nines: 99.999 %.
const NINES_MAX: f64 = 5.0;
/// Points of a curve: more than a screen has across.
const N_POINTS: usize = 500;

/// Writes the picture as SVG. Rows in which nothing was measured are left out.
pub(super) fn write(path: &Path, curves: &[(String, &Sample)]) -> Result<(), BenchError> {
    draw(path, curves).map_err(|error| BenchError::File {
        what: "draw the plot",
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })
}

fn draw(path: &Path, curves: &[(String, &Sample)]) -> Result<(), Box<dyn std::error::Error>> {
    let curves: Vec<_> = curves.iter().filter(|(_, sample)| sample.n() > 0).collect();
    let longest_ms = curves.iter().map(|(_, sample)| sample.max_us() / 1e3).fold(1.0, f64::max);
    let shortest_ms =
        curves.iter().map(|(_, sample)| sample.percentile_us(0.0) / 1e3).fold(longest_ms, f64::min);
    let most = curves.iter().map(|(_, sample)| nines_of(sample)).fold(1.0, f64::max).ceil();
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(20)
        .caption("How long calls took", ("sans-serif", 22))
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..most, (shortest_ms.max(1e-3) * 0.8..longest_ms * 1.25).log_scale())?;
    chart
        .configure_mesh()
        .x_labels(most as usize + 1)
        .max_light_lines(1)
        .x_desc("so many percent of the calls took no longer")
        .y_desc("milliseconds")
        .x_label_formatter(&|nines| label(*nines))
        .y_label_formatter(&|ms| format!("{ms}"))
        .draw()?;
    for (at, (name, sample)) in curves.into_iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        let nines_max = nines_of(sample);
        let points = (0..=N_POINTS).map(|i| {
            let nines = nines_max * i as f64 / N_POINTS as f64;
            (nines, (sample.percentile_us(percent(nines)) / 1e3).max(1e-3))
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// How far a curve goes: a percentile that fewer than one call lies above says nothing.
fn nines_of(sample: &Sample) -> f64 {
    (sample.n() as f64).log10().clamp(0.1, NINES_MAX)
}

/// 0 is 0 %, 1 is 90 %, 2 is 99 %.
fn percent(nines: f64) -> f64 {
    100.0 * (1.0 - 10f64.powf(-nines))
}

fn label(nines: f64) -> String {
    let text = format!("{:.4}", percent(nines));
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn percentiles_are_labelled_as_people_know_them() {
        let labels: Vec<_> = (0..=4).map(|nines| label(nines.into())).collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn the_picture_names_each_row_that_has_calls() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        let mut sample = Sample::new();
        (1..=1000).for_each(|us| sample.add(Duration::from_micros(us)));
        let nothing = Sample::new();
        write(&path, &[("warm: hello".into(), &sample), ("cold: nobody".into(), &nothing)]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("warm: hello") && !svg.contains("nobody") && svg.contains("polyline"), "{svg}");
        assert!(write(Path::new("/nowhere/plot.svg"), &[]).is_err());
    }
}
