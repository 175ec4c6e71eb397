//! Health, for whoever restarts the process (`live`) and whoever sends it work (`ready`).

use actix_web::{HttpResponse, Responder, web};
use serde::Serialize;
use serde_json::json;

use super::Started;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    complaints: Vec<String>,
}

/// The process answers, which is all that it says: a restart mends no outage elsewhere.
pub(super) async fn live() -> impl Responder {
    web::Json(json!({ "alive": true }))
}

/// Whether jobs are taken and fired, and if not, why not.
pub(super) async fn ready(scheduler: web::Data<Started>) -> HttpResponse {
    let complaints = match scheduler.get() {
        Some(scheduler) if scheduler.is_running() => scheduler.complaints(),
        Some(_) => vec!["shutting down".to_owned()],
        None => vec![match scheduler.waits_for() {
            Some(why) => format!("starting: {why}"),
            None => "starting".to_owned(),
        }],
    };
    let readiness = Readiness { ready: complaints.is_empty(), complaints };
    match readiness.ready {
        true => HttpResponse::Ok().json(readiness),
        false => HttpResponse::ServiceUnavailable().json(readiness),
    }
}
