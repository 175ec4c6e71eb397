//! What a server answers that has no scheduler yet.

use actix_web::http::{Method, StatusCode, header};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use serde_json::{Value, json};

use super::*;
use crate::config::Role;

async fn answer(method: Method, path: &str) -> (StatusCode, String, Value) {
    let shared = web::Data::new(Arc::new(Shared::default()));
    let app = App::new().wrap(from_fn(middleware::around)).app_data(shared);
    let app = init_service(app.configure(router::configure)).await;
    let request = TestRequest::default().method(method).uri(path);
    let response =
        call_service(&app, request.insert_header(("Host", "localhost")).to_request()).await;
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let status = response.status();
    let body = read_body(response).await;
    (status, kind, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[actix_web::test]
async fn it_is_alive_but_not_ready_before_the_scheduler_has_started() {
    let (status, _, body) = answer(Method::GET, "/health/live").await;
    assert_eq!((status, body), (StatusCode::OK, json!({"alive": true})));
    let (status, _, body) = answer(Method::GET, "/health/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, json!({"ready": false, "reasons": ["starting"], "degraded": []}));
}

#[actix_web::test]
async fn errors_are_problem_documents() {
    for (method, path, status) in [
        (Method::GET, "/api/metrics", StatusCode::SERVICE_UNAVAILABLE),
        (Method::GET, "/api/apps", StatusCode::SERVICE_UNAVAILABLE),
        (Method::GET, "/nowhere", StatusCode::NOT_FOUND),
        (Method::POST, "/api/metrics", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/health/live", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/dead-letters/not-a-uuid", StatusCode::BAD_REQUEST),
    ] {
        let (answered, kind, body) = answer(method, path).await;
        assert_eq!((answered, &*kind), (status, "application/problem+json"), "{path}: {body}");
        assert_eq!(body["status"], status.as_u16(), "{path}");
        assert_eq!(body["title"], status.canonical_reason().unwrap(), "{path}");
        assert!(body["detail"].is_string(), "{path}");
    }
}

#[test]
fn it_listens_on_a_real_port_and_stops() {
    let local = || ServerOptions::new(([127, 0, 0, 1], 0));
    let server = Server::start(local()).unwrap();
    let address = server.address();
    assert_ne!(address.port(), 0);
    assert!(std::net::TcpStream::connect(address).is_ok());
    let taken = Server::start(ServerOptions::new(address));
    assert!(matches!(taken, Err(ServerError::Listen { .. })), "{taken:?}");
    rt::System::new().block_on(server.stop());
    assert!(std::net::TcpStream::connect(address).is_err());

    let everywhere = ServerOptions::new(([0, 0, 0, 0], 0));
    assert!(matches!(Server::start(everywhere), Err(ServerError::NoToken(_))));
    let token = TokenConfig::of_file("ops", Role::Read, "/no/such/file");
    let refused = Server::start(local().token(token)).unwrap_err().to_string();
    assert!(refused.starts_with("token ops: its file /no/such/file cannot be read"), "{refused}");
}
