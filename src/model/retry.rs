//! How long to wait before the next attempt.

use std::time::Duration;

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
    /// These waits, the last one again and again.
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

impl Backoff {
    /// The share of an exponential wait that jitter may take away.
    const JITTER: f64 = 0.25;

    /// The wait after `failed` attempts (1 for the first), `dice` being a random number
    /// in `0.0..1.0`. Jitter only shortens, so that `max` holds; a list is taken as it is.
    pub fn delay(&self, failed: u32, dice: f64) -> Duration {
        match self {
            Self::Exponential { initial, factor, max } => {
                let exponent = failed.saturating_sub(1).min(1 << 16);
                let grown = initial.as_secs_f64() * factor.max(1.0).powf(f64::from(exponent));
                let capped = grown.min(max.as_secs_f64());
                Duration::from_secs_f64(capped * (1.0 - Self::JITTER * dice.clamp(0.0, 1.0)))
            }
            Self::Delays(delays) => {
                let index = failed.saturating_sub(1) as usize;
                delays.get(index).or(delays.last()).copied().unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
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
        assert_eq!([1, 2, 9].map(|failed| backoff.delay(failed, 0.7)), [ms(1), ms(5), ms(5)]);
        assert_eq!(Backoff::Delays(vec![]).delay(1, 0.0), Duration::ZERO);
    }
}
