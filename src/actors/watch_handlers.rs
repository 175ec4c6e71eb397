//! Watches over handlers that block their threads: an attempt ends at its time limit although its
//! task cannot, and an app whose handlers all hang is reported.

use std::collections::HashMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::attempt::time_out;
use super::instance::Instance;
use crate::health::ProblemKind;
use crate::model::ids::AppId;

/// How often it looks.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// A handler whose thread is free ends its own attempt by then.
const MARGIN: Duration = Duration::from_millis(50);

/// Watches until the scheduler is dropped.
pub(crate) async fn watch_handlers(instance: Weak<Instance>) {
    while let Some(instance) = instance.upgrade() {
        check(&instance);
        drop(instance);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

fn check(instance: &Instance) {
    let now = Instant::now();
    let mut without_thread: HashMap<AppId, usize> = HashMap::new();
    for attempt in instance.in_flight.late(now, MARGIN) {
        match attempt.progress.has_begun() {
            true => time_out(instance, &attempt, attempt.time_limit(&attempt.app.limits())),
            // Its handler was not called.
            false => *without_thread.entry(attempt.app.id).or_default() += 1,
        }
    }
    for (id, app) in instance.apps.iter().filter(|(_, app)| !app.gate.has_target()) {
        let subject = format!("handlers of {}", app.name);
        let most = app.limits().max_in_flight.get() as usize;
        let hang = usize::try_from(app.figures.hanging.load(Ordering::Acquire));
        let hang = hang.unwrap_or(usize::MAX);
        let wait = without_thread.get(id).copied().unwrap_or(0);
        let is_stopped = hang >= most || (hang > 0 && wait >= most);
        if is_stopped && !app.hang_reported.swap(true, Ordering::AcqRel) {
            let waiting = match wait {
                0 => String::new(),
                wait => format!(", {wait} others wait for a thread"),
            };
            let why = format!(
                "{hang} still run although the time of their attempts is over{waiting}: no job \
                 starts until some of them end; let handlers look at cancelled(), and block no \
                 thread"
            );
            instance.health.report(&subject, ProblemKind::HandlersHang, why);
        }
        if !is_stopped && app.hang_reported.swap(false, Ordering::AcqRel) {
            instance.health.clear(&subject);
        }
    }
}
