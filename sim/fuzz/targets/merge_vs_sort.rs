//! Pages of several shards merged, against sorting all rows.

pub fn run(data: &[u8]) {
    shards::fuzzing::merge_vs_sort(data);
}
