//! Line charts as inline SVG.

use std::fmt::Write;

use super::page::escape;

/// Size of a chart's coordinate system, px at full size.
const SIZE: (f64, f64) = (380.0, 212.0);
/// Left, top, right and bottom edge of the plot.
const PLOT: [f64; 4] = [52.0, 8.0, 372.0, 184.0];
/// Points of a line: the steps are put into so many bins.
const BINS: usize = 200;

/// Values of one run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Which of the page's colours.
    pub(super) colour: usize,
    /// Run.
    pub(super) name: String,
    /// Step and value, by rising steps.
    pub(super) points: Vec<(f64, f64)>,
}

/// One chart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart {
    /// Heading.
    pub(super) title: &'static str,
    /// What it means and what to look for.
    pub(super) note: String,
    /// One line a run.
    pub(super) series: Vec<Series>,
    /// A value to compare with, and its name.
    pub(super) reference: Option<(f64, String)>,
    /// Powers of ten on the vertical axis.
    pub(super) logarithmic: bool,
    /// First and last step of the horizontal axis, the same in all charts of a page.
    pub(super) steps: (f64, f64),
}

/// Mean, least and greatest value of a bin, at the mean step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bin {
    x: f64,
    mean: f64,
    low: f64,
    high: f64,
}

impl Chart {
    /// A figure with heading, legend and plot; nothing if no run has a value.
    pub(super) fn html(&self) -> String {
        let lines: Vec<(&Series, Vec<Bin>)> =
            self.series.iter().map(|series| (series, self.bins(&series.points))).filter(|(_, bins)| !bins.is_empty()).collect();
        if lines.is_empty() {
            return String::new();
        }
        let all = || lines.iter().flat_map(|(_, bins)| bins);
        let (left, right) = self.steps;
        let (mut low, mut high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), bin| (low.min(bin.mean), high.max(bin.mean)));
        let reference = self.reference.as_ref().map(|(value, name)| (self.transform(*value), name));
        // A reference far off would flatten the lines.
        let reference = reference.filter(|(value, _)| *value > low - 2.0 * (high - low).max(1e-9) && *value < high + 2.0 * (high - low).max(1e-9));
        if let Some((value, _)) = reference {
            (low, high) = (low.min(value), high.max(value));
        }
        let margin = if high > low { 0.05 * (high - low) } else { low.abs().max(1e-6) * 0.1 };
        let least = low;
        (low, high) = (low - margin, high + margin);
        // Nothing that is drawn here can be negative.
        if !self.logarithmic && least >= 0.0 {
            low = low.max(0.0);
        }

        let [plot_left, plot_top, plot_right, plot_bottom] = PLOT;
        let across = |x: f64| if right > left { plot_left + (x - left) / (right - left) * (plot_right - plot_left) } else { (plot_left + plot_right) / 2.0 };
        let up = |y: f64| plot_bottom - (y.clamp(low, high) - low) / (high - low) * (plot_bottom - plot_top);
        let mut svg = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", SIZE.0, SIZE.1, escape(self.title));
        for tick in if self.logarithmic { logarithmic_ticks(low, high) } else { ticks(low, high, 4) } {
            let y = up(tick);
            let value = if self.logarithmic { 10f64.powf(tick) } else { tick };
            let _ = write!(svg, "<path class=\"grid\" d=\"M{plot_left} {y:.1}H{plot_right}\"/>");
            let _ = write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", plot_left - 6.0, y + 4.0, number(value));
        }
        for tick in ticks(left, right, 4).into_iter().filter(|tick| tick.fract() == 0.0) {
            let x = across(tick).clamp(plot_left + 8.0, plot_right - 12.0);
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", plot_bottom + 18.0, number(tick));
        }
        if let Some((value, name)) = reference {
            let y = up(value);
            let beside = if y < plot_top + 16.0 { y + 14.0 } else { y - 5.0 };
            let _ = write!(svg, "<path class=\"reference\" d=\"M{plot_left} {y:.1}H{plot_right}\"/>");
            let _ = write!(svg, "<text x=\"{}\" y=\"{beside:.1}\" >{}</text>", plot_left + 4.0, escape(name));
        }
        for (series, bins) in &lines {
            let colour = series.colour;
            if bins.iter().any(|bin| bin.high > bin.low) {
                let there = bins.iter().map(|bin| format!("{:.1} {:.1}", across(bin.x), up(bin.high)));
                let back = bins.iter().rev().map(|bin| format!("{:.1} {:.1}", across(bin.x), up(bin.low)));
                let outline: Vec<String> = there.chain(back).collect();
                let _ = write!(svg, "<path class=\"band c{colour}\" d=\"M{}Z\"/>", outline.join("L"));
            }
            let line: Vec<String> = bins.iter().map(|bin| format!("{:.1} {:.1}", across(bin.x), up(bin.mean))).collect();
            let _ = write!(svg, "<path class=\"line c{colour}\" d=\"M{}\"/>", line.join("L"));
            if bins.len() <= 40 {
                for bin in bins {
                    let value = if self.logarithmic { 10f64.powf(bin.mean) } else { bin.mean };
                    let (x, y) = (across(bin.x), up(bin.mean));
                    let _ = write!(
                        svg,
                        "<circle class=\"c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>step {:.0}: {}</title></circle>",
                        bin.x,
                        number(value)
                    );
                }
            }
        }
        svg += "</svg>";
        let legend: String = lines
            .iter()
            .map(|(series, bins)| {
                let last = bins.last().map_or(0.0, |bin| if self.logarithmic { 10f64.powf(bin.mean) } else { bin.mean });
                format!("<li class=\"c{}\">{} <b>{}</b></li>", series.colour, escape(&series.name), number(last))
            })
            .collect();
        format!("<figure><h3>{}</h3><ul class=\"legend\">{legend}</ul>{svg}<figcaption>{}</figcaption></figure>", escape(self.title), escape(&self.note))
    }

    fn transform(&self, value: f64) -> f64 {
        if self.logarithmic { value.log10() } else { value }
    }

    fn bins(&self, points: &[(f64, f64)]) -> Vec<Bin> {
        let points: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x, self.transform(y))).filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let size = points.len().div_ceil(BINS).max(1);
        let bin = |points: &[(f64, f64)]| {
            let count = points.len() as f64;
            let (low, high) = points.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &(_, y)| (low.min(y), high.max(y)));
            Bin { x: points.iter().map(|point| point.0).sum::<f64>() / count, mean: points.iter().map(|point| point.1).sum::<f64>() / count, low, high }
        };
        points.chunks(size).map(bin).collect()
    }
}

/// About `count` round numbers between `low` and `high`.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = high - low;
    if span.is_nan() || span <= 0.0 {
        return vec![low];
    }
    let rough = span / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|tick| tick as f64 * step).collect()
}

/// Logarithms of round numbers between `low` and `high`, which are logarithms.
fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.floor() as i32..=high.ceil() as i32;
    let factors: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = powers.flat_map(|power| factors.iter().map(move |factor| f64::from(power) + factor.log10()));
    let ticks: Vec<f64> = all.filter(|tick| (low..=high).contains(tick)).collect();
    let step = ticks.len().div_ceil(6).max(1);
    ticks.into_iter().step_by(step).collect()
}

/// A number of about three digits, for people.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match magnitude {
        0.0 => "0".into(),
        1e6.. => format!("{}M", trimmed(format!("{:.2}", value / 1e6))),
        1e4.. => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        100.0.. => format!("{value:.0}"),
        10.0.. => trimmed(format!("{value:.1}")),
        1.0.. => trimmed(format!("{value:.2}")),
        0.01.. => trimmed(format!("{value:.3}")),
        0.0001.. => trimmed(format!("{value:.5}")),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let series = vec![Series { colour: 0, name: "a <run>".into(), points }];
        Chart { title: "Loss", note: String::new(), series, reference: Some((2.0, "ln K".into())), logarithmic: false, steps: (1.0, 10_000.0) }
    }

    #[test]
    fn many_steps_become_few_points_with_their_range() {
        let chart = chart((0..10_000).map(|step| (f64::from(step), f64::from(step % 2))).collect());
        let bins = chart.bins(&chart.series[0].points);
        assert!(bins.len() <= BINS && bins.iter().all(|bin| (bin.mean, bin.low, bin.high) == (0.5, 0.0, 1.0)));
        let html = chart.html();
        assert!(html.len() < 20_000 && html.contains("a &lt;run&gt;") && html.contains("class=\"band c0\""), "{}", html.len());
    }

    #[test]
    fn values_that_are_no_numbers_and_single_points_do_no_harm() {
        for points in [vec![(1.0, 3.0)], vec![(1.0, f64::NAN), (2.0, 1.0)], vec![(1.0, 0.0), (2.0, 0.0)]] {
            let html = chart(points).html();
            assert!(html.contains("<svg") && !html.contains("NaN") && !html.contains("inf"), "{html}");
        }
        assert_eq!(chart(vec![(1.0, f64::NAN)]).html(), "");
        let logarithmic = Chart { logarithmic: true, ..chart(vec![(1.0, 0.0), (2.0, 100.0)]) };
        assert!(!logarithmic.html().contains("inf"));
    }

    #[test]
    fn ticks_and_numbers_are_round() {
        assert_eq!(ticks(0.0, 10.0, 4), [0.0, 5.0, 10.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
        assert_eq!(logarithmic_ticks(-0.1, 1.1), [0.0, 2f64.log10(), 5f64.log10(), 1.0]);
        assert_eq!(logarithmic_ticks(-3.5, 2.0), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]);
        for (value, text) in [(0.0, "0"), (1234567.0, "1.23M"), (56_000.0, "56k"), (431.4, "431"), (2.5, "2.5"), (0.0626, "0.063"), (3e-5, "3.0e-5")] {
            assert_eq!(number(value), text);
        }
    }
}
