//! A scrub of a damaged log beside its index: it ends, it says nothing about a whole one, and damage
//! to bytes that count is found.

use crate::bytes::Bytes;
use crate::image::{Image, image_config};
use crate::store_world::{SECRET, World};
use store::mem::{MemIndex, MemSegments};
use store::scrub::{Finding, Scrub};

/// Steps after which a scrub of so small a log has long been over.
const STEPS_MAX: usize = 10_000;

fn scrub(index: &MemIndex, disk: &MemSegments, step_bytes: u64) -> Option<Vec<Finding>> {
    let config = image_config();
    let mut findings = Vec::new();
    let mut scrub = Scrub::begin(config.shard, SECRET, config.seed, index, disk).ok()?;
    for _ in 0..STEPS_MAX {
        if scrub.step(index, disk, step_bytes, None, &mut findings).ok()?.is_over {
            return Some(findings);
        }
    }
    panic!("the scrub does not end");
}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let flags = bytes.byte();
    let step_bytes = 1 + u64::from(bytes.byte()) * 16;
    let mut image = Image::base().clone();
    let index = MemIndex::new(SECRET);
    World::open(image_config(), index.clone(), image.disk()).close();
    let is_damaged = image.damage(&mut bytes);
    let is_repaired = flags & 1 == 1;
    if is_repaired {
        image.repair();
    }
    let findings = scrub(&index, &image.disk(), step_bytes);
    // What cannot be looked at is refused, which finds the damage, too.
    let Some(findings) = findings else {
        assert!(is_damaged || is_repaired, "a whole log cannot be scrubbed");
        return;
    };
    for finding in &findings {
        assert!(!finding.to_string().is_empty());
    }
    // The event ids of the image are the test's own now and then.
    let is_id = |finding: &Finding| matches!(finding, Finding::WrongId { .. });
    if !is_repaired && image.lacks_bytes_of(Image::base()) {
        assert!(!findings.iter().all(is_id), "damage is not found");
    }
    if !is_damaged {
        assert!(findings.iter().all(is_id), "a whole log has {findings:?}");
    }
}
