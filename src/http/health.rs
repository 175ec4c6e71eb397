//! Health, for what restarts the process (`live`) and for what sends it work (`ready`).

use actix_web::{HttpResponse, Responder, web};
use serde_json::json;

use super::Started;
use crate::health::HealthReport;

/// The process answers, which is all that it says: a restart mends no outage elsewhere.
pub(super) async fn live() -> impl Responder {
    web::Json(json!({ "alive": true }))
}

/// Whether calls are accepted and jobs fired, why not, and what else is wrong.
pub(super) async fn ready(scheduler: web::Data<Started>) -> HttpResponse {
    let report = match scheduler.get() {
        Some(scheduler) if scheduler.is_running() => scheduler.health(),
        Some(_) => HealthReport::not_ready("shutting down"),
        None => HealthReport::not_ready(match scheduler.waits_for() {
            Some(why) => format!("starting: {why}"),
            None => "starting".to_owned(),
        }),
    };
    match report.ready {
        true => HttpResponse::Ok().json(report),
        false => HttpResponse::ServiceUnavailable().json(report),
    }
}
