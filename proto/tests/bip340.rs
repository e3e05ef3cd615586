//! The verifier against the test vectors of BIP-340.
#![allow(clippy::unwrap_used)]

use proto::verify::{Secp256k1Verifier, Verifier, VerifyItem};
use proto::{EventId, PublicKey, Secret, SeededState, Signature};

fn vectors() -> Vec<(VerifyItem, bool)> {
    let rows = include_str!("vectors/bip340.csv").lines().filter(|row| !row.starts_with('#'));
    rows.map(|row| {
        let cells: Vec<String> = row.split(',').map(str::to_ascii_lowercase).collect();
        let item = VerifyItem {
            pubkey: PublicKey::from_hex(cells[0].as_bytes()).unwrap(),
            id: EventId::from_hex(cells[1].as_bytes()).unwrap(),
            sig: Signature::from_hex(cells[2].as_bytes()).unwrap(),
        };
        (item, cells[3].parse().unwrap())
    })
    .collect()
}

#[test]
fn every_vector_is_judged_as_the_bip_says_with_a_cold_a_warm_and_a_full_cache() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 15);
    assert_eq!(vectors.iter().filter(|(_, valid)| *valid).count(), 5);
    for keys_max in [0, 1, 3, 1000] {
        let mut verifier = Secp256k1Verifier::new(SeededState::new(Secret([3; 16])), keys_max);
        for _ in 0..2 {
            for (index, (item, valid)) in vectors.iter().enumerate() {
                assert_eq!(verifier.verify(item), *valid, "vector {index}, {keys_max} keys");
            }
        }
    }
}

#[test]
fn a_batch_gives_one_verdict_per_item_in_order() {
    let (items, expected): (Vec<_>, Vec<_>) = vectors().into_iter().unzip();
    for keys_max in [0, 1, 8, 1000] {
        let mut verifier = Secp256k1Verifier::new(SeededState::new(Secret([3; 16])), keys_max);
        for _ in 0..2 {
            let mut verdicts = vec![true];
            verifier.verify_batch(&items, &mut verdicts);
            assert_eq!(verdicts[1..], expected, "{keys_max} keys");
        }
    }
}
