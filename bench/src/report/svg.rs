//! Line plots as inline SVG: no script, no network, colours from the page's variables so that light
//! and dark both work.

use super::text::number;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Axis {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Which of the page's colours, from 1.
    pub colour: usize,
    /// Whether it is dashed: a second quantile, a second relay.
    pub is_dashed: bool,
    /// Its points, ascending in x.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows, for readers of screens, too.
    pub title: String,
    /// Label of the x axis.
    pub x_label: String,
    /// Unit of the values.
    pub unit: String,
    /// Layout of the values.
    pub y_axis: Axis,
    /// Positions and labels along x; empty for round numbers.
    pub x_ticks: Vec<(f64, String)>,
    /// A stretch of x to be shaded: the measured level.
    pub band: Option<(f64, f64)>,
    /// The lines.
    pub series: Vec<Series>,
}

impl Plot {
    /// The plot as a `figure` element; empty if there is nothing to show.
    pub fn render(&self) -> String {
        let all = || self.series.iter().flat_map(|series| series.points.iter());
        if all().count() < 2 {
            return String::new();
        }
        let x_to = all().map(|point| point.0).fold(f64::MIN, f64::max).max(1e-9);
        let first = all().map(|point| point.0).fold(f64::MAX, f64::min);
        // What is plotted over time begins at the beginning, however late its first point.
        let x_from = if self.band.is_some() { 0.0 } else { first }.min(x_to - 1e-9);
        let (y_from, y_to) = self.y_range(all().map(|point| point.1));
        let x = |value: f64| LEFT + (value - x_from) / (x_to - x_from) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            let share = match self.y_axis {
                Axis::Linear => (value - y_from) / (y_to - y_from),
                Axis::Log => (value.max(y_from) / y_from).ln() / (y_to / y_from).ln(),
            };
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = String::new();
        let _ = write!(
            out,
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escape(&self.title),
            escape(&self.title)
        );
        if let Some((from, to)) = self.band {
            let (from, to) = (x(from.max(x_from)), x(to.min(x_to)));
            let _ = write!(
                out,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM
            );
        }
        for value in self.y_ticks(y_from, y_to) {
            let at = y(value);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                at + 4.0,
                short(value)
            );
        }
        for (value, label) in self.x_marks(x_from, x_to) {
            let at = x(value);
            let _ = write!(
                out,
                "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 4.0,
                HEIGHT - BOTTOM + 17.0,
                escape(&label)
            );
        }
        let _ = write!(
            out,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 5.0,
            escape(&self.x_label)
        );
        let _ = write!(
            out,
            "<text class=\"axis\" transform=\"rotate(-90 12 {0:.1})\" x=\"12\" y=\"{0:.1}\" \
             text-anchor=\"middle\">{1}</text>",
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(&self.unit)
        );
        for series in &self.series {
            self.line(&mut out, series, &x, &y);
        }
        out.push_str("</svg>");
        self.legend(&mut out);
        out.push_str("</figure>");
        out
    }

    fn line(
        &self,
        out: &mut String,
        series: &Series,
        x: &dyn Fn(f64) -> f64,
        y: &dyn Fn(f64) -> f64,
    ) {
        if series.points.is_empty() {
            return;
        }
        let dash = if series.is_dashed { " dash" } else { "" };
        let _ = write!(out, "<polyline class=\"line s{}{dash}\" points=\"", series.colour);
        for (at, value) in &series.points {
            let _ = write!(out, "{:.1},{:.1} ", x(*at), y(*value));
        }
        out.push_str("\"/>");
        // A look at the value without a script: the browser shows the title of what is pointed at.
        if series.points.len() <= 120 {
            for (at, value) in &series.points {
                let _ = write!(
                    out,
                    "<circle class=\"hit\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\"><title>{}: {} {}</title></circle>",
                    x(*at),
                    y(*value),
                    escape(&series.name),
                    number(*value),
                    escape(&self.unit)
                );
            }
        }
    }

    fn legend(&self, out: &mut String) {
        out.push_str("<div class=\"legend\">");
        for series in &self.series {
            let dash = if series.is_dashed { " dash" } else { "" };
            let _ = write!(
                out,
                "<span><i class=\"key k{}{dash}\"></i>{}</span>",
                series.colour,
                escape(&series.name)
            );
        }
        out.push_str("</div>");
    }

    fn y_range(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let positive = |value: f64| self.y_axis == Axis::Linear || value > 0.0;
        let (mut from, mut to) = (f64::MAX, f64::MIN);
        for value in values.filter(|value| positive(*value)) {
            (from, to) = (from.min(value), to.max(value));
        }
        if to < from {
            return (0.1, 1.0);
        }
        match self.y_axis {
            Axis::Linear => {
                let step = round_step(to.max(1e-9) / 4.0);
                (0.0, (to / step).ceil().max(1.0) * step)
            }
            Axis::Log => {
                let (low, high) = (log_floor(from), log_ceil(to));
                (low, if high > low { high } else { low * 10.0 })
            }
        }
    }

    fn y_ticks(&self, from: f64, to: f64) -> Vec<f64> {
        if self.y_axis == Axis::Linear {
            let step = round_step(to / 4.0);
            let count = (to / step).round() as u32;
            return (0..=count).map(|index| f64::from(index) * step).collect();
        }
        let mut ticks = Vec::new();
        let decades = (to / from).log10();
        let mut decade = 10_f64.powf(from.log10().floor());
        while decade <= to * 1.001 {
            let parts: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            ticks.extend(parts.iter().map(|part| part * decade));
            decade *= 10.0;
        }
        ticks.retain(|tick| *tick >= from * 0.999 && *tick <= to * 1.001);
        ticks
    }

    fn x_marks(&self, from: f64, to: f64) -> Vec<(f64, String)> {
        if !self.x_ticks.is_empty() {
            let within = |tick: &&(f64, String)| tick.0 >= from - 1e-9 && tick.0 <= to + 1e-9;
            return self.x_ticks.iter().filter(within).cloned().collect();
        }
        let step = round_step((to - from) / 6.0);
        let first = (from / step).ceil() as i64;
        let last = (to / step).floor() as i64;
        (first..=last).map(|index| (index as f64 * step, number(index as f64 * step))).collect()
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_step(rough: f64) -> f64 {
    let rough = rough.max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let part = [1.0, 2.0, 5.0].into_iter().find(|part| part * power >= rough * 0.999);
    part.unwrap_or(10.0) * power
}

fn log_floor(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0].into_iter().find(|part| part * power <= value * 1.001).unwrap_or(1.0) * power
}

fn log_ceil(value: f64) -> f64 {
    round_step(value)
}

/// A tick's label.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", number(value / 1e6)),
        1e4.. => format!("{} k", number(value / 1e3)),
        _ => number(value),
    }
}

/// Text as it may stand in HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(y_axis: Axis, points: Vec<(f64, f64)>) -> Plot {
        Plot {
            title: "a <plot>".into(),
            x_label: "s".into(),
            unit: "ms".into(),
            y_axis,
            x_ticks: Vec::new(),
            band: Some((1.0, 2.0)),
            series: vec![Series { name: "one".into(), colour: 1, is_dashed: false, points }],
        }
    }

    #[test]
    fn every_point_lies_within_the_frame() {
        for axis in [Axis::Linear, Axis::Log] {
            let points = vec![(0.0, 0.0), (1.0, 0.013), (2.0, 7.0), (3.0, 91_234.0)];
            let svg = plot(axis, points).render();
            assert!(svg.contains("a &lt;plot&gt;") && !svg.contains("NaN") && !svg.contains("inf"));
            let line = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            for pair in line.split_whitespace() {
                let (x, y) = pair.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT - 0.1..=WIDTH - RIGHT + 0.1).contains(&x), "{pair}");
                assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{pair}");
            }
        }
        assert!(plot(Axis::Log, vec![(0.0, 1.0)]).render().is_empty());
        assert!(!plot(Axis::Log, vec![(0.0, 1.0), (1.0, 1.0)]).render().contains("NaN"));
    }

    #[test]
    fn steps_are_round() {
        for (rough, step) in [(0.7, 1.0), (1.3, 2.0), (2.0, 2.0), (33.0, 50.0), (60.0, 100.0)] {
            assert!((round_step(rough) / step - 1.0).abs() < 1e-9, "{rough}");
        }
        assert_eq!((log_floor(0.3), log_ceil(7.0)), (0.2, 10.0));
    }
}
