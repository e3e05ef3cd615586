//! Distributions as `.hgrm`, the text that HdrHistogram's plotters read.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// Lines per halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// The distribution in milliseconds.
pub fn write_hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let ms = |nanoseconds: f64| nanoseconds / 1e6;
    let mut counted = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        counted += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        let _ = write!(out, "{value:12.6} {quantile:2.12} {counted:10}");
        let _ = match quantile < 1.0 {
            true => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(out),
        };
    }
    let _ = write!(
        out,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]\n\
         #[Max     = {:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        ms(histogram.mean()),
        ms(histogram.stdev()),
        ms(histogram.max() as f64),
        histogram.len(),
        histogram.buckets(),
        histogram.distinct_values(),
    );
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_ends_at_the_maximum_and_counts_everything() {
        let mut histogram = crate::load::histogram();
        (1..=1_000).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
        let text = super::write_hgrm(&histogram);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2]), (1.0, 1_000.0));
        assert!((last[0] - 1_000.0).abs() < 1.0);
        let half = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((half[0] - 500.0).abs() < 60.0, "{half:?}");
        assert!(text.contains("Total count    =         1000]"));
    }
}
