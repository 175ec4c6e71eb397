//! The descriptions of the API for programs: the OpenAPI document, generated from the handlers, and
//! the JSON Schema of a request.

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder, Paths};

use super::access::Reader;
use super::endpoint::Endpoint;
use super::problem::{Document, Fault, MEDIA_TYPE, Problem};
use super::query::Query;
use crate::model::request::SCHEMA;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(__path_openapi, openapi), Endpoint::new(__path_schema, schema)]
}

/// The OpenAPI document as text.
#[derive(Debug)]
pub(super) struct OpenApi(Bytes);

impl OpenApi {
    /// The document of these endpoints.
    pub(super) fn of(endpoints: Vec<Endpoint>) -> Self {
        Self(document(endpoints).to_string().into())
    }
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "documents", operation_id = "showOpenApi",
    responses((status = 200, body = Object)))]
async fn openapi(
    _: Reader,
    request: HttpRequest,
    document: web::Data<OpenApi>,
) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    Ok(HttpResponse::Ok().content_type("application/json").body(document.0.clone()))
}

/// The JSON Schema of a request, 2020-12.
#[utoipa::path(get, path = "/api/schema", tag = "documents", operation_id = "showSchema",
    responses((status = 200, body = Object, content_type = "application/schema+json")))]
async fn schema(_: Reader, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Query::read(&request, &[])?;
    Ok(HttpResponse::Ok().content_type("application/schema+json").body(SCHEMA))
}

/// The OpenAPI 3.1 document of these endpoints.
fn document(endpoints: Vec<Endpoint>) -> Value {
    let info = InfoBuilder::new()
        .title("infinite-scheduler")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Jobs that fire once, at their moment, and never early. Integers of 64 bits (version, \
             offsets) stay numbers: JavaScript loses digits above 2^53.",
        ))
        .build();
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new();
    for endpoint in endpoints {
        for (path, item) in endpoint.description.paths {
            match paths.paths.get_mut(&path) {
                Some(known) => known.merge_operations(item),
                None => _ = paths.paths.insert(path, item),
            }
        }
        components = components.schemas_from_iter(endpoint.schemas);
    }
    components = components
        .schema(Document::name(), <Document as utoipa::PartialSchema>::schema())
        .schema(Fault::name(), <Fault as utoipa::PartialSchema>::schema());
    let document =
        OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build()));
    let mut document = serde_json::to_value(document.build()).unwrap_or_default();
    add_request(&mut document);
    document["components"]["securitySchemes"] =
        json!({ "token": { "type": "http", "scheme": "bearer" } });
    document["security"] = json!([{ "token": [] }, {}]);
    let operations = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        add_errors(operation);
    }
    document
}

/// The request, whose schema is a file. Its references to parts of itself are to its place in this
/// document here.
fn add_request(document: &mut Value) {
    let here = "\"#/components/schemas/ScheduleJobRequest/$defs/";
    let schema = SCHEMA.replace("\"#/$defs/", here);
    let schema: Value = serde_json::from_str(&schema).unwrap_or_default();
    document["components"]["schemas"]["ScheduleJobRequest"] = schema;
    let request = json!({ "$ref": "#/components/schemas/ScheduleJobRequest" });
    let several = json!({ "type": "array", "items": request, "maxItems": 100_000 });
    document["paths"]["/api/jobs"]["post"]["requestBody"] = json!({
        "required": true,
        "content": { "application/json": { "schema": { "oneOf": [request, several] } } },
    });
}

/// Every error that an operation may have, as a problem.
fn add_errors(operation: &mut Value) {
    if operation["tags"] == json!(["health"]) {
        return;
    }
    let has_body = operation.get("requestBody").is_some();
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    let always = [
        ("400", "Something in the request cannot be parsed"),
        ("401", "No known token"),
        ("403", "The token's role does not allow it, or the page is of another site"),
        ("500", "A fault of the scheduler's own"),
        ("503", "Not now: starting, busy, or the database does not answer"),
    ];
    let with_body = [
        ("408", "The body did not arrive in time"),
        ("413", "The body is too large"),
        ("415", "Another type or encoding than JSON in UTF-8"),
    ];
    let refused = [("422", "What is asked is understood and refused")];
    let all = always.into_iter().chain(refused);
    for (status, description) in all.chain(with_body.into_iter().filter(|_| has_body)) {
        responses.entry(status).or_insert_with(|| json!({ "description": description }));
    }
    let problem = json!({ MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } });
    for (status, response) in responses {
        if status.as_str() >= "400" {
            response["content"] = problem.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::router;
    use super::*;

    /// Every `$ref` of a value.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_its_errors() {
        let document = document(router::endpoints());
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
        let mut found = Vec::new();
        references(&document["paths"], &mut found);
        references(&document["components"], &mut found);
        assert!(!found.is_empty());
        for reference in found.iter().filter_map(|reference| reference.strip_prefix("#/components"))
        {
            let target = document["components"].pointer(reference);
            assert!(target.is_some_and(Value::is_object), "{reference}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let is_health = path.starts_with("/health");
                let has = |status: &str| operation["responses"].get(status).is_some();
                assert!(is_health || has("401") && has("503"), "{method} {path}");
                assert!(operation["operationId"].is_string(), "{method} {path}");
            }
        }
        for (path, method) in [
            ("/api/jobs", "post"),
            ("/api/dead-letters/{id}", "get"),
            ("/api/dead-letters/{id}", "patch"),
            ("/api/dead-letters/{id}", "delete"),
            ("/api/ingest/seek", "post"),
            ("/api/jobs", "get"),
            ("/api/jobs/{id}", "get"),
            ("/api/jobs/{id}", "patch"),
            ("/api/jobs/{id}", "delete"),
            ("/api/jobs/{id}/run", "post"),
            ("/api/operations/{id}", "get"),
            ("/api/apps/{app}/pause", "post"),
            ("/api/instances/{id}/drain", "post"),
            ("/api/audit", "get"),
        ] {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
    }
}
