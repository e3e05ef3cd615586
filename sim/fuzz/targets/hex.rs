//! Hex as identifiers have it and as messages of NIP-77 have it, against the standard library.

use proto::id::{read_hex, read_hex_any_case, write_hex};

fn naive(text: &[u8], is_upper_allowed: bool) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let is_digit = |digit: u8| {
        digit.is_ascii_hexdigit() && (is_upper_allowed || !digit.is_ascii_uppercase())
    };
    if text.len() % 2 != 0 || !text.bytes().all(is_digit) {
        return None;
    }
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
}

fn check<const N: usize>(text: &[u8]) {
    let text = &text[..text.len().min(2 * N)];
    let expected = naive(text, false).filter(|bytes| bytes.len() == N);
    assert_eq!(read_hex::<N>(text).map(|bytes| bytes.to_vec()), expected);
}

pub fn run(data: &[u8]) {
    check::<1>(data);
    check::<3>(data);
    check::<4>(data);
    check::<9>(data);
    check::<32>(data);
    check::<64>(data);
    assert_eq!(read_hex_any_case(data), naive(data, true));
    let mut written = b"before".to_vec();
    write_hex(data, &mut written);
    let expected: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written.strip_prefix(b"before"), Some(expected.as_bytes()));
    assert_eq!(read_hex_any_case(expected.as_bytes()).as_deref(), Some(data));
}
