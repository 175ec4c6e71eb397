//! The counters as one flat JSON object, under the names that logs have, too.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::{Map, Value};

use super::Started;
use super::problem::problem;

/// Every counter; those of an app or a partition are named like `apps.sms.fired` and
/// `consumerLag.topic/3`.
pub(super) async fn metrics(scheduler: web::Data<Started>) -> HttpResponse {
    let Some(scheduler) = scheduler.get() else {
        let detail = "the scheduler is still starting: /health/ready says when it has";
        return problem(StatusCode::SERVICE_UNAVAILABLE, detail);
    };
    match serde_json::to_value(scheduler.ingest_metrics()) {
        Ok(counters) => HttpResponse::Ok().json(flat(counters)),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
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
