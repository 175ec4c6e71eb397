//! Ends every backoff when a service that was unavailable (the database, the broker) answers again,
//! so that work continues at once and not after the longest wait.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A wait ends after this time even if no recovery is reported.
const LONGEST: Duration = Duration::from_secs(30);
/// The wait after a first failure, and the maximum up to which it doubles.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), LONGEST);

/// The waits between retries of one operation: longer each time, and short again after a recovery.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    /// The number of recoveries when the operation last failed.
    recoveries: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RETRY.0, recoveries: 0 }
    }
}

impl Backoff {
    /// The operation succeeded: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.next = RETRY.0;
    }

    /// The operation failed: returns how long to wait. `recoveries` is the number of recoveries so
    /// far of the services that it needs. If one of them recovered since the last failure, the
    /// earlier failures do not count, and the wait is short again.
    pub(crate) fn failed(&mut self, recoveries: u64) -> Duration {
        if std::mem::replace(&mut self.recoveries, recoveries) != recoveries {
            self.reset();
        }
        let wait = self.next;
        self.next = (wait * 2).min(RETRY.1);
        wait.mul_f64(0.75 + fastrand::f64() / 4.0)
    }
}

/// Whether a service that this instance depends on answers, as the task that probes it reports.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// The service is known not to answer.
    unavailable: bool,
    /// How many times the service has answered after it was unavailable.
    recoveries: u64,
}

impl Recovery {
    /// Reports that the service does not answer.
    pub(crate) fn unavailable(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.unavailable, true));
    }

    /// Reports that the service answers.
    pub(crate) fn answers(&self) {
        self.state.send_if_modified(|state| {
            let recovers = std::mem::take(&mut state.unavailable);
            state.recoveries += u64::from(recovers);
            recovers
        });
    }

    /// Waits for `backoff`, or until the service answers again if that comes earlier. For a caller
    /// that has a time limit: it never waits longer than `backoff`.
    pub(crate) async fn wait_no_longer(&self, backoff: Duration) {
        let mut state = self.state.subscribe();
        let before = state.borrow().recoveries;
        let recovers = state.wait_for(|state| state.recoveries != before);
        tokio::time::timeout(backoff, recovers).await.ok();
    }

    /// How many times the service has answered after it was unavailable.
    pub(crate) fn recoveries(&self) -> u64 {
        self.state.borrow().recoveries
    }

    fn is_unavailable(&self) -> bool {
        self.state.borrow().unavailable
    }

    /// Waits for `backoff`, or until the service answers again if that comes earlier. While it is
    /// known not to answer, a retry would fail: the wait is then extended, up to a maximum.
    pub(crate) async fn wait(&self, backoff: Duration) {
        wait(&[self], backoff).await;
    }
}

/// As [`Recovery::wait`], for an operation that needs several services: the recovery of any of them
/// ends the wait.
pub(crate) async fn wait(of: &[&Recovery], backoff: Duration) {
    wait_at_most(of, backoff, LONGEST).await;
}

async fn wait_at_most(of: &[&Recovery], backoff: Duration, longest: Duration) {
    let began = Instant::now();
    let mut states: Vec<_> = of.iter().map(|recovery| recovery.state.subscribe()).collect();
    let any = states.iter_mut().map(|state| {
        let before = state.borrow().recoveries;
        // It cannot fail: the sender is borrowed here, and so still exists.
        Box::pin(async move { state.wait_for(|state| state.recoveries != before).await.is_ok() })
    });
    let mut recovered = futures::future::select_all(any);
    if timeout_at(began + backoff, &mut recovered).await.is_err()
        && of.iter().any(|recovery| recovery.is_unavailable())
    {
        timeout_at(began + longest.max(backoff), recovered).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    /// How long a wait takes.
    async fn waits(of: &[&Recovery], backoff: Duration, longest: Duration) -> Duration {
        let began = Instant::now();
        wait_at_most(of, backoff, longest).await;
        began.elapsed()
    }

    #[tokio::test]
    async fn a_backoff_ends_by_itself_where_nothing_is_known_to_be_unavailable() {
        let recovery = Recovery::default();
        let waited = waits(&[&recovery], SHORT, LONG).await;
        assert!((SHORT..LONG).contains(&waited), "{waited:?}");
        recovery.unavailable();
        recovery.answers();
        let waited = waits(&[&recovery], SHORT, LONG).await;
        assert!((SHORT..LONG).contains(&waited), "an earlier recovery ends nothing: {waited:?}");
    }

    #[tokio::test]
    async fn a_recovery_ends_a_longer_backoff_and_a_shorter_one_waits_for_it() {
        for backoff in [SHORT, LONG] {
            let (database, broker) = (Recovery::default(), Recovery::default());
            database.unavailable();
            let recovers = async {
                tokio::time::sleep(SHORT * 5).await;
                database.answers();
            };
            let of = [&broker, &database];
            let (waited, ()) = tokio::join!(waits(&of, backoff, LONG), recovers);
            assert!((SHORT * 5..LONG).contains(&waited), "{backoff:?}: {waited:?}");
        }
    }

    #[test]
    fn waits_grow_until_it_succeeds_or_recovers() {
        let mut backoff = Backoff::default();
        let about = |wait: Duration| wait.mul_f64(0.75)..=wait;
        for doublings in 0..4 {
            assert!(about(RETRY.0 * (1 << doublings)).contains(&backoff.failed(0)), "{doublings}");
        }
        assert!(about(RETRY.0).contains(&backoff.failed(1)), "it recovered while it was asked");
        assert!(about(RETRY.0 * 2).contains(&backoff.failed(1)));
        for _ in 0..20 {
            backoff.failed(1);
        }
        assert!(about(RETRY.1).contains(&backoff.failed(1)), "no longer than that");
        backoff.reset();
        assert!(about(RETRY.0).contains(&backoff.failed(1)));
    }

    #[tokio::test]
    async fn a_wait_has_an_end_whoever_was_to_report() {
        let recovery = Recovery::default();
        recovery.unavailable();
        let waited = waits(&[&recovery], SHORT, SHORT * 3).await;
        assert!((SHORT * 3..LONG).contains(&waited), "{waited:?}");
    }
}
