//! Pure rules of the NIPs, one file each. Nothing here knows a clock, a store or a connection.

pub mod nip01;
pub mod nip09;
pub mod nip13;
pub mod nip17;
pub mod nip40;
pub mod nip42;
pub mod nip45;
pub mod nip59;
pub mod nip62;
pub mod nip70;
pub mod nip77;
