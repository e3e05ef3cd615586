//! Shares and sizes of public-relay traffic, as integer tables: what is drawn from them is the
//! same on every machine, which no `ln` or `exp` of a C library promises.

use crate::rng::Rng;

/// Submissions out of 1,000 that are ephemeral.
const EPHEMERAL_PER_MILLE: u64 = 50;

/// Kinds of stored events and their shares out of 10,000.
const STORED_KINDS: [(u16, u16); 25] = [
    (1, 3900),
    (7, 1890),
    (4, 560),
    (0, 470),
    (3, 450),
    (6, 440),
    (5, 310),
    (9735, 280),
    (1000, 260),
    (1059, 220),
    (9041, 210),
    (10002, 190),
    (42, 150),
    (1111, 100),
    (30078, 80),
    (5300, 70),
    (31234, 70),
    (6300, 60),
    (30023, 60),
    (30000, 60),
    (321, 50),
    (10050, 40),
    (1010, 30),
    (30818, 30),
    (1984, 20),
];

const _: () = {
    let (mut sum, mut index) = (0, 0);
    while index < STORED_KINDS.len() {
        sum += STORED_KINDS[index].1;
        index += 1;
    }
    assert!(sum == 10_000);
};

/// Ephemeral kinds, equally likely: custom, remote signing, wallet requests and answers.
const EPHEMERAL_KINDS: [u16; 4] = [20_001, 24_133, 23_194, 23_195];

/// Draws a kind.
pub(super) fn kind(rng: &mut Rng) -> u16 {
    if rng.chance(EPHEMERAL_PER_MILLE, 1_000) {
        return *rng.pick(&EPHEMERAL_KINDS);
    }
    let mut drawn = rng.below(10_000) as u16;
    for (kind, share) in STORED_KINDS {
        if drawn < share {
            return kind;
        }
        drawn -= share;
    }
    STORED_KINDS[0].0
}

/// How many of 1,000 events of `kind` come from a key that never writes again. Together with 10.6
/// events per key this makes three keys in four one-shot keys: mostly bare follow lists, bare
/// profiles and gift wraps.
pub(super) fn one_shot_per_mille(kind: u16) -> u16 {
    match kind {
        1059 => 1_000,
        3 => 610,
        0 => 460,
        1 => 9,
        _ => 0,
    }
}

/// A value by its quantile: linear between the points, which are (of 1,000, value).
fn quantile(rng: &mut Rng, points: &[(u32, u32)]) -> usize {
    // Drawn finer than the table, so that the last steps of the tail are not one lump.
    let at = rng.below(1_000_000);
    for pair in points.windows(2) {
        let (low, high) = (u64::from(pair[0].0) * 1_000, u64::from(pair[1].0) * 1_000);
        if at < high {
            let (from, to) = (u64::from(pair[0].1), u64::from(pair[1].1));
            return (from + (to - from) * (at - low) / (high - low)) as usize;
        }
    }
    points.last().map_or(0, |point| point.1 as usize)
}

/// Bytes of prose: log-normal with a median of 210 and a sigma of 1.3.
pub(super) fn prose_bytes(rng: &mut Rng) -> usize {
    const POINTS: [(u32, u32); 13] = [
        (0, 1),
        (10, 10),
        (50, 25),
        (100, 40),
        (250, 87),
        (500, 210),
        (750, 505),
        (900, 1_110),
        (950, 1_780),
        (980, 3_030),
        (990, 4_300),
        (999, 11_700),
        (1_000, 60_000),
    ];
    quantile(rng, &POINTS)
}

/// People in a follow list: most lists are those of accounts that never came back.
pub(super) fn follows(rng: &mut Rng) -> usize {
    const POINTS: [(u32, u32); 7] =
        [(0, 1), (500, 6), (800, 40), (900, 110), (970, 330), (995, 1_000), (1_000, 3_000)];
    quantile(rng, &POINTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_met_and_bounds_kept() {
        let mut rng = Rng::new(5);
        let mut drawn: Vec<usize> = (0..20_000).map(|_| prose_bytes(&mut rng)).collect();
        drawn.sort_unstable();
        assert!((195..225).contains(&drawn[10_000]), "median {}", drawn[10_000]);
        assert!((3_700..4_900).contains(&drawn[19_800]), "p99 {}", drawn[19_800]);
        assert!(drawn[0] >= 1 && drawn[19_999] <= 60_000);
        assert!((0..20_000).map(|_| follows(&mut rng)).all(|count| (1..=3_000).contains(&count)));
    }
}
