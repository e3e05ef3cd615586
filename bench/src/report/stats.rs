//! Means with 95 % confidence intervals of a few repeated runs, and ratios of pairs of them.

/// Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// A mean and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Ends of the 95 % interval; `None` of a single run.
    pub interval: Option<(f64, f64)>,
    /// Runs.
    pub runs: usize,
}

impl Estimate {
    /// The mean of `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let runs = values.len();
        if runs == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / runs as f64;
        let interval = (runs > 1).then(|| {
            let degrees = runs - 1;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let error = (squares / degrees as f64).sqrt() / (runs as f64).sqrt();
            let t = T_95.get(degrees - 1).copied().unwrap_or(1.96);
            (mean - t * error, mean + t * error)
        });
        Some(Self { mean, interval, runs })
    }

    /// The ratio of pairs: geometric, so that a relay and its rival can change places.
    pub fn of_ratios(pairs: &[(f64, f64)]) -> Option<Self> {
        let logs: Vec<f64> = pairs
            .iter()
            .filter(|(one, other)| *one > 0.0 && *other > 0.0)
            .map(|(one, other)| (one / other).ln())
            .collect();
        let estimate = Self::of(&logs)?;
        Some(Self {
            mean: estimate.mean.exp(),
            interval: estimate.interval.map(|(low, high)| (low.exp(), high.exp())),
            runs: estimate.runs,
        })
    }

    /// Whether the interval excludes `value`: the difference is more than noise.
    pub fn excludes(&self, value: f64) -> bool {
        self.interval.is_some_and(|(low, high)| value < low || value > high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_follow_student() {
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[3.0]).unwrap().interval, None);
        // Mean 2, deviation 1, three runs: 2 ± 4.303 / sqrt(3).
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]).unwrap();
        let (low, high) = estimate.interval.unwrap();
        assert!(
            (low - (2.0 - 4.303 / 3_f64.sqrt())).abs() < 1e-9 && (high + low - 4.0).abs() < 1e-9
        );
        assert!(estimate.excludes(10.0) && !estimate.excludes(2.5));
    }

    #[test]
    fn ratios_are_the_same_from_both_sides() {
        let pairs = [(2.0, 1.0), (4.0, 2.0), (9.0, 5.0)];
        let swapped = pairs.map(|(one, other)| (other, one));
        let (one, other) =
            (Estimate::of_ratios(&pairs).unwrap(), Estimate::of_ratios(&swapped).unwrap());
        assert!((one.mean * other.mean - 1.0).abs() < 1e-9);
        assert_eq!(Estimate::of_ratios(&[(0.0, 1.0)]), None);
    }
}
