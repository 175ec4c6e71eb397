//! The counters as one flat JSON object, under the same names as in the log.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value};

use super::access::Reader;
use super::endpoint::Endpoint;
use super::problem::Problem;
use super::query::Query;
use super::shared::Shared;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_metrics, metrics)]
}

/// Every counter in one flat object.
///
/// Those of an app or a partition are named like `apps.sms.fired` and `consumerLag.topic/3`. Only
/// memory is read, so that they are there while the database is unavailable.
#[utoipa::path(get, path = "/api/metrics", tag = "metrics",
    responses((status = 200, body = Object)))]
async fn metrics(
    _: Reader,
    request: HttpRequest,
    shared: web::Data<Arc<Shared>>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    let Some(scheduler) = shared.scheduler() else {
        let detail = "the scheduler is still starting: /health/ready says when it has";
        return Err(Problem::unavailable("starting", detail));
    };
    let counters = serde_json::to_value(scheduler.ingest_metrics()).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().json(flat(counters)))
}

fn flat(counters: Value) -> Map<String, Value> {
    let mut all = Map::new();
    flatten("", counters, &mut all);
    all
}

fn flatten(name: &str, value: Value, all: &mut Map<String, Value>) {
    let Value::Object(parts) = value else {
        all.insert(name.to_owned(), value);
        return;
    };
    for (part, value) in parts {
        let dot = if name.is_empty() { "" } else { "." };
        flatten(&format!("{name}{dot}{part}"), value, all);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_of_a_part_carry_its_name() {
        let counters = json!({
            "messagesReceived": 3,
            "consumerLag": {"jobs.in/3": 7},
            "apps": {"sms": {"fired": 2, "dead": 0}, "call": {}},
        });
        let expected = json!({
            "messagesReceived": 3,
            "consumerLag.jobs.in/3": 7,
            "apps.sms.fired": 2,
            "apps.sms.dead": 0,
        });
        assert_eq!(Value::Object(flat(counters)), expected);
    }
}
