//! Medians, quartiles, and ratios within the same round.

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl Quartiles {
    /// Returns the quartiles, linear between neighbours, as spreadsheets and NumPy do by default. `None` if there are
    /// no values or one is NaN.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quarter: f64| {
            let place = quarter * (sorted.len() - 1) as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (sorted[above] - sorted[below]) * part
        };
        Some(Self { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }

    /// Returns the quartiles of `ours / theirs`, round by round: a change of the machine in a round affects both. A
    /// round in which one is missing is left out.
    pub(crate) fn of_ratios(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<Self> {
        let ratio = |(ours, theirs): (&Option<f64>, &Option<f64>)| {
            let (ours, theirs) = ((*ours)?, (*theirs)?);
            (theirs > 0.0).then_some(ours / theirs)
        };
        let ratios: Vec<f64> = ours.iter().zip(theirs).filter_map(ratio).collect();
        Self::of(&ratios)
    }
}

/// Returns a percentile by nearest rank; 0 if there are no values.
pub(crate) fn percentile(sorted: &[u32], percent: f64) -> u32 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_neighbours() {
        let of = |values: &[f64]| Quartiles::of(values).unwrap();
        assert_eq!(of(&[7.0]), Quartiles { lower: 7.0, median: 7.0, upper: 7.0 });
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), Quartiles { lower: 1.75, median: 2.5, upper: 3.25 });
        let eleven: Vec<f64> = (0..11).rev().map(f64::from).collect();
        assert_eq!(of(&eleven), Quartiles { lower: 2.5, median: 5.0, upper: 7.5 });
        assert_eq!(Quartiles::of(&[]), None);
        assert_eq!(Quartiles::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is half as fast in each round, which does not change the ratio.
        let ours = [Some(1.0), Some(2.0), Some(4.0), None, Some(9.0)];
        let theirs = [Some(2.0), Some(4.0), Some(8.0), Some(1.0), Some(0.0)];
        let ratios = Quartiles::of_ratios(&ours, &theirs).unwrap();
        assert_eq!(ratios, Quartiles { lower: 0.5, median: 0.5, upper: 0.5 });
        assert_eq!(Quartiles::of_ratios(&[None], &[Some(1.0)]), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50.0), 50);
        assert_eq!(percentile(&hundred, 99.0), 99);
        assert_eq!(percentile(&[5], 99.0), 5);
        assert_eq!(percentile(&[], 50.0), 0);
    }
}
