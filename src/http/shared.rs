//! What all requests share: the scheduler once it has started, tokens, masks and limits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::{HttpRequest, web};

use super::problem::Problem;
use super::tokens::{Caller, Tokens};
use crate::config::JsonPointer;
use crate::health::HealthReport;
use crate::operations::Operations;
use crate::service::{Scheduler, StartProgress};

/// The maximum number of requests that are answered at the same time; further ones get 503.
const IN_FLIGHT: usize = 1024;
/// The maximum number of bodies above 1 MiB that are in memory at the same time.
const LARGE_BODIES: usize = 4;

/// What all requests share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    scheduler: OnceLock<Scheduler>,
    progress: OnceLock<StartProgress>,
    pub(super) tokens: Tokens,
    /// The parts of an app's `jobData` that are hidden from the role `read`.
    pub(super) masks: BTreeMap<String, Vec<JsonPointer>>,
    in_flight: Arc<AtomicUsize>,
    large_bodies: Arc<AtomicUsize>,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct InFlight {
    _place: Place,
}

/// The right to have a large body in memory.
#[derive(Debug)]
pub(super) struct LargeBody {
    _place: Place,
}

/// One of a limited number of places, free again when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Shared {
    pub(super) fn new(tokens: Tokens, masks: BTreeMap<String, Vec<JsonPointer>>) -> Self {
        Self { tokens, masks, ..Self::default() }
    }

    /// The shared state of the server that received `request`.
    pub(super) fn of(request: &HttpRequest) -> Result<&Arc<Self>, Problem> {
        let shared = request.app_data::<web::Data<Arc<Self>>>().map(web::Data::get_ref);
        shared.ok_or_else(|| Problem::internal("the server has no shared state"))
    }

    /// Answers for this scheduler from now on; the first one counts.
    pub(super) fn set_scheduler(&self, scheduler: Scheduler) {
        // A second call is a harmless mistake of the caller and is ignored.
        self.scheduler.set(scheduler).ok();
    }

    pub(super) fn set_progress(&self, progress: StartProgress) {
        self.progress.set(progress).ok();
    }

    /// The scheduler, once it has started.
    pub(super) fn scheduler(&self) -> Option<&Scheduler> {
        self.scheduler.get()
    }

    /// The scheduler, if operations can be executed.
    ///
    /// # Errors
    /// 503 before the start has succeeded, after the shutdown began, and while the database does
    /// not answer: then an operation would wait and fail.
    pub(super) fn running(&self) -> Result<&Scheduler, Problem> {
        let Some(scheduler) = self.scheduler() else {
            let detail = "the scheduler is still starting: /health/ready says when it has";
            return Err(Problem::unavailable("starting", detail));
        };
        if !scheduler.is_running() {
            return Err(Problem::unavailable("shut-down", "the scheduler is shutting down"));
        }
        match scheduler.database_problem() {
            Some(why) => Err(Problem::unavailable("unavailable", why)),
            None => Ok(scheduler),
        }
    }

    /// The operations on behalf of `caller`; the audit records its name and `reason`.
    ///
    /// # Errors
    /// As [`running`](Self::running).
    pub(super) fn by(&self, caller: &Caller, reason: Option<&str>) -> Result<Operations, Problem> {
        Ok(self.running()?.by(caller.by(reason)))
    }

    /// Whether calls are accepted and jobs fired, why not, and what else is wrong.
    pub(super) fn health(&self) -> HealthReport {
        let mut report = match self.scheduler() {
            Some(scheduler) if scheduler.is_running() => scheduler.health(),
            Some(_) => HealthReport::not_ready("shutting down"),
            None => {
                HealthReport::not_ready(match self.progress.get().and_then(|it| it.waits_for()) {
                    Some(why) => format!("starting: {why}"),
                    None => "starting".to_owned(),
                })
            }
        };
        report.degraded.extend(self.tokens.problems());
        report
    }

    /// A place among the requests that are answered.
    ///
    /// # Errors
    /// 503 if there is none.
    pub(super) fn in_flight(&self) -> Result<InFlight, Problem> {
        let place = Place::take(&self.in_flight, IN_FLIGHT).ok_or_else(|| {
            let detail = format!("{IN_FLIGHT} requests are being answered: come again");
            Problem::unavailable("busy", detail)
        })?;
        Ok(InFlight { _place: place })
    }

    /// A place among the large bodies.
    ///
    /// # Errors
    /// 503 if there is none.
    pub(super) fn large_body(&self) -> Result<LargeBody, Problem> {
        let place = Place::take(&self.large_bodies, LARGE_BODIES).ok_or_else(|| {
            let detail = format!(
                "{LARGE_BODIES} bodies of more than 1 MiB are being read: come again, or send less \
                 at once"
            );
            Problem::unavailable("busy", detail)
        })?;
        Ok(LargeBody { _place: place })
    }
}

impl Place {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(taken.clone());
        // If there is none, dropping it takes the count back.
        (taken.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let shared = Shared::default();
        let mut places: Vec<_> = (0..LARGE_BODIES).map(|_| shared.large_body().unwrap()).collect();
        assert!(shared.large_body().is_err() && shared.large_body().is_err());
        places.pop();
        assert!(shared.large_body().is_ok());
    }
}
