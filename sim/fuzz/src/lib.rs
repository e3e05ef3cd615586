//! What the fuzz targets share: the oracle of the parser's property tests. The targets themselves
//! only say which bytes go into which check.

#[path = "../../../proto/tests/oracle/mod.rs"]
pub mod oracle;
