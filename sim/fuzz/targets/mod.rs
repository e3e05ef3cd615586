//! Every target: a file here with a `run` that takes the input and panics when a promise is broken,
//! its name below, and a folder of seeds in `corpus/`.

macro_rules! targets {
    ($($name:ident)*) => {
        $(mod $name;)*

        /// Every target by its name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets! {
    corrupt_image_open
    event_parse
    event_roundtrip
    filter_match_vs_naive
    filter_parse
    hex
    http_request
    inflate_limited
    json_lexer
    key_order
    kv_ops_vs_btreemap
    merge_vs_sort
    message_parse
    negentropy_ends
    negentropy_message
    nip11_write
    outbox_ops
    plan_scan_vs_naive
    record_decode
    replace_rules_any_order
    rewrite_decode
    scrub
    shard_ops_failing_persistence
    subindex_vs_linear
    token_bucket
    utf8
    ws_conn
    ws_conn_two_ends
    ws_frames
}
