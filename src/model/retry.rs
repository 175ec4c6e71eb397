//! The wait before the next attempt, and the time when it ends.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::time::EPOCH_MS;

/// The waits between attempts of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Backoff {
    /// Each wait is `factor` times the one before, up to `max`.
    Exponential {
        /// The first wait.
        initial: Duration,
        /// What each next wait is multiplied by; at least 1.
        factor: f64,
        /// No wait is longer.
        max: Duration,
    },
    /// These waits, and up to a tenth more; the last one is repeated.
    Delays(Vec<Duration>),
}

impl Default for Backoff {
    fn default() -> Self {
        Self::Exponential {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(60),
        }
    }
}

/// The wait of a snooze until a time that is past.
const SNOOZE_INTO_PAST: Duration = Duration::from_secs(1);
/// The largest fraction of a wait that jitter adds.
const ADDED: f64 = 0.1;

impl Backoff {
    /// The largest fraction of an exponential wait that jitter subtracts.
    const JITTER: f64 = 0.25;

    /// # Errors
    /// What is wrong with it, continuing a sentence after its name.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Delays(delays) if delays.is_empty() => {
                Err("has an empty delays_ms: name at least one delay".into())
            }
            Self::Delays(_) => Ok(()),
            Self::Exponential { initial, .. } if initial.is_zero() => {
                Err("has initial_ms = 0, but must begin with at least 1".into())
            }
            Self::Exponential { initial, max, .. } if initial > max => {
                let (initial, max) = (initial.as_millis(), max.as_millis());
                Err(format!(
                    "has initial_ms ({initial}) above max_ms ({max}): lower the one or raise the \
                     other"
                ))
            }
            Self::Exponential { factor, .. } if !(factor.is_finite() && *factor >= 1.0) => {
                Err(format!(
                    "has factor = {factor}, but must be a number of at least 1, or waits get shorter"
                ))
            }
            Self::Exponential { .. } => Ok(()),
        }
    }

    /// The wait after `failed` attempts (1 for the first), with a random number `random` in
    /// `0.0..1.0`. Jitter shortens an exponential wait, so that `max` holds, and adds to a listed
    /// one, which is what a receiver was promised; no wait stays none.
    pub fn delay(&self, failed: u32, random: f64) -> Duration {
        match self {
            Self::Exponential { initial, factor, max } => {
                let growth = factor.max(1.0).powf(f64::from(failed.saturating_sub(1)));
                // Zero times infinity would not be a number.
                let growth = growth.min(f64::MAX);
                let capped = (initial.as_secs_f64() * growth).min(max.as_secs_f64());
                let wait_s = capped * (1.0 - Self::JITTER * random.clamp(0.0, 1.0));
                // What exceeds a `Duration` exceeds `max` as well.
                Duration::try_from_secs_f64(wait_s).map_or(*max, |wait| wait.min(*max))
            }
            Self::Delays(delays) => {
                let index = failed.saturating_sub(1) as usize;
                let listed = delays.get(index).or(delays.last()).copied().unwrap_or_default();
                with_jitter(listed, random)
            }
        }
    }
}

/// The larger of the wait that a target asks for and the app's own. Jitter, of a random number in
/// `0.0..1.0`, only adds to what it asks for, so that not all of its jobs return together.
pub fn longer(wanted: Option<Duration>, backoff: Duration, random: f64) -> Duration {
    with_jitter(wanted.unwrap_or_default(), random).max(backoff)
}

fn with_jitter(wait: Duration, random: f64) -> Duration {
    wait.saturating_add(wait.mul_f64(ADDED * random.clamp(0.0, 1.0)))
}

/// The epoch millisecond `wait` after `now_ms`, rounded up so that nothing is early. A wait
/// beyond the year 9999 ends with it, so that the time can be written as text.
pub fn due_after(now_ms: i64, wait: Duration) -> i64 {
    let wait_ms = i64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
    now_ms.saturating_add(wait_ms).min(*EPOCH_MS.end())
}

/// When a job is due that a handler snoozes until then: at most `longest` after `now_ms`, and after
/// a second if that is past, so that it does not start over and over.
pub fn snoozed_until(now_ms: i64, until: DateTime<Utc>, longest: Duration) -> i64 {
    let begun = !until.timestamp_subsec_nanos().is_multiple_of(1_000_000);
    let until_ms = until.timestamp_millis() + i64::from(begun);
    if until_ms <= now_ms {
        return due_after(now_ms, SNOOZE_INTO_PAST);
    }
    until_ms.min(due_after(now_ms, longest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const fn ns(ns: u64) -> Duration {
        Duration::from_nanos(ns)
    }

    #[test]
    fn exponential_waits_double_up_to_their_cap() {
        let backoff = Backoff::Exponential { initial: ms(200), factor: 2.0, max: ms(1500) };
        let waits: Vec<_> = (1..=5).map(|failed| backoff.delay(failed, 0.0)).collect();
        assert_eq!(waits, [ms(200), ms(400), ms(800), ms(1500), ms(1500)]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), ms(1500));
    }

    #[test]
    fn jitter_only_shortens_and_by_a_quarter_at_most() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 1.0), ms(750));
        assert!(backoff.delay(1, 0.5) < ms(1000));
    }

    #[test]
    fn a_list_of_waits_repeats_its_last() {
        let backoff = Backoff::Delays(vec![ms(1), ms(5)]);
        assert_eq!([1, 2, 9].map(|failed| backoff.delay(failed, 0.0)), [ms(1), ms(5), ms(5)]);
        assert_eq!(Backoff::Delays(vec![]).delay(1, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_target_gets_the_time_that_it_asks_for_and_a_little_more() {
        assert_eq!(longer(None, ms(7), 1.0), ms(7));
        assert_eq!(longer(Some(ms(3000)), ms(7), 0.0), ms(3000));
        assert_eq!(longer(Some(ms(3000)), ms(7), 1.0), ms(3300));
        assert_eq!(longer(Some(ms(3000)), ms(4000), 1.0), ms(4000));
        assert_eq!(longer(Some(Duration::MAX), ms(7), 1.0), Duration::MAX);
    }

    #[test]
    fn when_that_is_is_rounded_up_and_within_the_calendar() {
        let last = 253_402_300_799_999;
        assert_eq!(due_after(7, ms(3)), 10);
        assert_eq!(due_after(7, Duration::from_nanos(1)), 8);
        assert_eq!(due_after(7, Duration::MAX), last);
        assert_eq!(due_after(i64::MAX, ms(1)), last);
        let at = |ms, nanos| DateTime::from_timestamp_millis(ms).unwrap() + ns(nanos);
        let snoozed = |until| snoozed_until(6, until, ms(100));
        assert_eq!((snoozed(at(7, 0)), snoozed(at(7, 1))), (7, 8));
        assert_eq!((snoozed(at(6, 0)), snoozed(at(6, 1))), (1006, 7));
        assert_eq!(snoozed(at(5, 0)), 1006);
        assert_eq!(snoozed(DateTime::<Utc>::MIN_UTC), 1006);
        assert_eq!(snoozed(DateTime::<Utc>::MAX_UTC), 106);
        assert_eq!(snoozed_until(6, DateTime::<Utc>::MAX_UTC, Duration::MAX), last);
        assert!(DateTime::from_timestamp_millis(last).unwrap().to_rfc3339().starts_with("9999-"));
    }

    #[test]
    fn the_longest_wait_there_is_does_not_panic() {
        let backoff = Backoff::Exponential { initial: ms(1), factor: 2.0, max: Duration::MAX };
        assert_eq!(backoff.delay(200, 0.0), Duration::MAX);
    }

    #[test]
    fn no_wait_stays_none_however_often_it_is_doubled() {
        let backoff = Backoff::Exponential { initial: ms(0), factor: 2.0, max: ms(1500) };
        assert_eq!([1, 5000, u32::MAX].map(|failed| backoff.delay(failed, 0.0)), [ms(0); 3]);
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..100_000_u64).prop_map(Duration::from_millis),
            any::<Duration>(),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #[test]
        fn an_exponential_wait_is_within_its_bounds_and_never_shrinks(
            initial in durations(),
            factor in prop_oneof![1.0..10.0_f64, prop::num::f64::ANY],
            max in durations(),
            failed in prop_oneof![1..50_u32, any::<u32>()],
            random in 0.0..1.0_f64,
        ) {
            let backoff = Backoff::Exponential { initial, factor, max };
            let wait = backoff.delay(failed, random);
            prop_assert!(wait <= max, "{:?} after {}: {:?}", backoff, failed, wait);
            // A nanosecond in a thousand million is what an f64 may lose.
            let least = initial.min(max).mul_f64((1.0 - Backoff::JITTER) * (1.0 - 1e-9));
            let lost = Duration::from_nanos(1);
            prop_assert!(wait + lost >= least, "{:?} after {}: {:?}", backoff, failed, wait);
            prop_assert!(backoff.delay(failed.saturating_add(1), random) >= wait);
            prop_assert!(wait <= backoff.delay(failed, 0.0));
        }

        #[test]
        fn a_listed_wait_is_its_own_and_up_to_a_tenth_more(
            delays in prop::collection::vec(durations(), 1..5),
            failed: u32,
            random: f64,
        ) {
            let listed = delays[(failed.max(1) as usize - 1).min(delays.len() - 1)];
            let wait = Backoff::Delays(delays).delay(failed, random);
            let most = listed.saturating_add(listed.mul_f64(0.1));
            prop_assert!((listed..=most).contains(&wait), "{:?} {:?}", listed, wait);
        }
    }
}
