//! What tests of several rules share.

pub(super) mod arbitrary;
pub(crate) mod zones;
