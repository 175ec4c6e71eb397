//! Health, for the supervisor that restarts the process (`live`) and the load balancer that sends
//! it work (`ready`).

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::endpoint::Endpoint;
use super::shared::Shared;
use crate::health::HealthReport;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_live, live), Endpoint::new(__path_ready, ready)]
}

/// That the process answers.
#[derive(Serialize, ToSchema)]
struct Alive {
    alive: bool,
}

/// The process answers, which is all that it says: a restart mends no outage elsewhere.
#[utoipa::path(get, path = "/health/live", tag = "health", security(()),
    responses((status = 200, body = Alive)))]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Alive { alive: true })
}

/// Whether calls are accepted and jobs fired, why not, and what else is wrong.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses((status = 200, body = HealthReport), (status = 503, body = HealthReport)))]
async fn ready(shared: web::Data<Arc<Shared>>) -> HttpResponse {
    let report = shared.health();
    match report.ready {
        true => HttpResponse::Ok().json(report),
        false => HttpResponse::ServiceUnavailable().json(report),
    }
}
