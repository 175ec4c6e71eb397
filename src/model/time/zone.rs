//! Converts a local date-time to the one instant that it means by a zone's rules.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// The instant at which clocks in `zone` show `local`: the earlier of two, and where it is
/// skipped the first instant after the gap. `None` beyond either calendar.
pub(super) fn instant_of(local: NaiveDateTime, zone: &TimeZone) -> Option<DateTime<Utc>> {
    match zone.to_ambiguous_timestamp(whole_seconds(local)?).offset() {
        AmbiguousOffset::Unambiguous { offset } => at_offset(local, offset),
        // A clock that is set back was further ahead before, so it showed the time earlier.
        AmbiguousOffset::Fold { before, .. } => at_offset(local, before),
        AmbiguousOffset::Gap { after, .. } => end_of_gap(local, after, zone),
    }
}

/// The first instant at which a clock in `zone`, having skipped `local`, shows a later time.
fn end_of_gap(local: NaiveDateTime, after: Offset, zone: &TimeZone) -> Option<DateTime<Utc>> {
    // With the later offset the time would have been shown before the transition.
    let before = Timestamp::from_second(at_offset(local, after)?.timestamp()).ok()?;
    let transition = zone.following(before).find(|transition| transition.offset() == after)?;
    DateTime::from_timestamp(transition.timestamp().as_second(), 0)
}

fn at_offset(local: NaiveDateTime, offset: Offset) -> Option<DateTime<Utc>> {
    let offset = FixedOffset::east_opt(offset.seconds())?;
    local.checked_sub_offset(offset).map(|utc| utc.and_utc())
}

/// `local` without its fraction. Clocks are set at whole seconds, so the fraction changes nothing.
fn whole_seconds(local: NaiveDateTime) -> Option<jiff::civil::DateTime> {
    use chrono::{Datelike, Timelike};
    let part = |part: u32| i8::try_from(part).ok();
    jiff::civil::DateTime::new(
        local.year().try_into().ok()?,
        part(local.month())?,
        part(local.day())?,
        part(local.hour())?,
        part(local.minute())?,
        part(local.second())?,
        0,
    )
    .ok()
}
