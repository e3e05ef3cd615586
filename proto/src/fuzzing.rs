//! Doors for the fuzz targets into what the parser keeps to itself; the targets say what is promised.

use crate::Reason;
use crate::parse::lexer::{Lexer, Spelling};

/// Passes the one JSON value that `text`, which is UTF-8, consists of.
///
/// # Errors
/// The [`Reason`] for which it is refused.
pub fn skip_value(text: &[u8]) -> Result<(), Reason> {
    let mut lexer = Lexer::new(text);
    lexer.skip_value()?;
    lexer.end()
}

/// The one JSON string that `text`, which is UTF-8, consists of, and whether it is spelt as the
/// canonical form spells it.
///
/// # Errors
/// The [`Reason`] for which it is refused.
pub fn read_string(text: &[u8]) -> Result<(Vec<u8>, bool), Reason> {
    let mut lexer = Lexer::new(text);
    let string = lexer.string()?;
    lexer.end()?;
    Ok((string.decoded().into_owned(), string.spelling != Spelling::Foreign))
}

/// The integer that `text` begins with, as events and filters have it.
pub fn read_integer(text: &[u8]) -> Option<u64> {
    Lexer::new(text).integer()
}

/// The first byte at or after `from` that ends a plain run of a string.
pub fn find_special(text: &[u8], from: usize) -> Option<usize> {
    crate::scan::find_special(text, from)
}
