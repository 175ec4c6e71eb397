//! The policy of admissions that a caller waits for: a limited number of tries.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Admission, LostAnswer, Tries, TryPolicy, Written};
use crate::store::{BatchSource, Error as StoreError};

/// How often an admission whose answer was lost is repeated.
const TRIES: u32 = 10;
/// The wait before that, doubling.
const WAIT: Duration = Duration::from_millis(50);

/// A caller waits for the answer: the tries are limited in number.
pub(super) struct BoundedTries {
    source: BatchSource,
    /// Tries of the same caller before.
    made: u32,
    /// Why there is no answer yet.
    last: String,
    /// Whether a try had no answer, here or before.
    pub(super) unanswered: bool,
}

/// Why there is no decision.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The database refuses the row for its content.
    Refused(String),
    /// There was no answer in all tries.
    Unavailable(String),
}

impl End {
    pub(super) fn no_answer() -> Self {
        Self::Unavailable("no answer".into())
    }
}

impl BoundedTries {
    /// `unanswered`: an earlier try of the same calls had no answer.
    pub(super) fn call(unanswered: bool) -> Self {
        let last = "no instance holds the shards".into();
        Self { source: BatchSource::Call { again: unanswered }, made: 0, last, unanswered }
    }

    /// What is replayed, after so many tries before.
    pub(super) fn replay(source: BatchSource, made: u32) -> Self {
        Self { source, made, last: "others change it all the time".into(), unanswered: false }
    }

    /// Waits before the next try, the first one aside; false if there is none.
    pub(super) async fn wait(admission: &Admission, made: u32) -> bool {
        if (1..TRIES).contains(&made) {
            let wait = WAIT * (1 << made.min(5));
            admission.database.recovery().wait_no_longer(wait).await;
        }
        made < TRIES
    }
}

impl TryPolicy for BoundedTries {
    type End = End;

    fn source(&self, tries: &Tries) -> BatchSource {
        match &self.source {
            BatchSource::Call { again } => BatchSource::Call { again: *again || tries.unanswered },
            source @ (BatchSource::Records(_)
            | BatchSource::Parked { .. }
            | BatchSource::Replay { .. }) => source.clone(),
        }
    }

    fn reads_first(&self, tries: &Tries) -> bool {
        tries.unanswered
            || matches!(self.source, BatchSource::Replay { .. } | BatchSource::Call { again: true })
    }

    async fn before_try(&mut self, admission: &Admission, tries: &Tries) -> ControlFlow<End> {
        match Self::wait(admission, self.made + tries.made).await {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(End::Unavailable(std::mem::take(&mut self.last))),
        }
    }

    /// The next try meets the names or the row of this one, and waits for its transaction.
    async fn after_error(
        &mut self,
        _: &Admission,
        error: StoreError,
        _: &Tries,
    ) -> LostAnswer<End> {
        match error {
            StoreError::Refused(why) => LostAnswer {
                written: Written::Nothing,
                next: ControlFlow::Break(End::Refused(why)),
            },
            error => {
                self.last = error.to_string();
                self.unanswered = true;
                LostAnswer { written: Written::Unknown, next: ControlFlow::Continue(()) }
            }
        }
    }
}
