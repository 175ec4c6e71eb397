//! The steps around every request: it takes one of the limited places, its caller is authenticated,
//! and the rest of a body that its handler did not read is discarded.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::rt::time::timeout;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, ResponseError};
use futures::{Stream, StreamExt};

use super::access;
use super::body::{self, Arrived};
use super::problem::{self, Problem};
use super::shared::Shared;

/// How many bytes of an unread body are read and discarded, so that its sender reads the answer and
/// the connection stays usable.
const DRAINED: usize = 64 << 10;
/// How long the rest of such a body is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// The middleware.
pub(super) async fn around(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    request.extensions_mut().insert(Arrived::now());
    let body = body::has_body(request.request()).then(|| SharedPayload::take(&mut request));
    let answered = match admit(&request) {
        Ok(_in_flight) => next.call(request).await?.map_into_boxed_body(),
        Err(problem) => {
            let response = problem.error_response();
            request.into_response(response)
        }
    };
    let mut answered = as_problem(answered);
    if let Some(payload) = body
        && answered.status().as_u16() >= 400
        && !payload.drain().await
    {
        answered.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        answered = answered.map_body(|_, body| BoxBody::new(Unread { body, _payload: payload }));
    }
    let headers = answered.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(answered)
}

/// The request's place among the limited number that are answered at a time. Health needs none.
fn admit(request: &ServiceRequest) -> Result<Option<super::shared::InFlight>, Problem> {
    if access::is_open(request.path()) {
        return Ok(None);
    }
    let shared = Shared::of(request.request())?;
    let in_flight = shared.in_flight()?;
    access::admit(request, &shared.tokens)?;
    Ok(Some(in_flight))
}

/// Converts an error of actix-web itself to a problem document.
fn as_problem(answered: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = answered.status();
    let kind = answered.headers().get(header::CONTENT_TYPE);
    let is_problem = kind.is_some_and(|kind| kind.as_bytes() == problem::MEDIA_TYPE.as_bytes());
    // Health has a document of its own, also when the instance is not ready.
    let is_health = access::is_open(answered.request().path());
    if status.as_u16() < 400
        || is_problem
        || (is_health && status == StatusCode::SERVICE_UNAVAILABLE)
    {
        return answered;
    }
    let detail = answered.response().error().map(ToString::to_string).unwrap_or_default();
    let problem = match status.is_server_error() {
        true => Problem::internal(detail),
        false => Problem::new(status, "invalid-request", detail),
    };
    let headers: Vec<(HeaderName, HeaderValue)> = answered
        .headers()
        .iter()
        .filter(|(name, _)| ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let (request, _) = answered.into_parts();
    let mut response = problem.error_response();
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    ServiceResponse::new(request, response)
}

/// The body of a request. The handler may read it in part; the rest is read and discarded here.
#[derive(Clone)]
struct SharedPayload(Rc<RefCell<State>>);

struct State {
    payload: Payload,
    has_ended: bool,
}

impl SharedPayload {
    fn take(request: &mut ServiceRequest) -> Self {
        let state = State { payload: request.take_payload(), has_ended: false };
        let shared = Self(Rc::new(RefCell::new(state)));
        let stream: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> =
            Box::pin(shared.clone());
        request.set_payload(Payload::from(stream));
        shared
    }

    /// Reads the rest, if it is small. Returns whether the body has ended.
    async fn drain(&self) -> bool {
        let read = async {
            let mut drained = 0;
            let mut payload = self.clone();
            while let Some(Ok(chunk)) = payload.next().await {
                drained += chunk.len();
                if drained > DRAINED {
                    return;
                }
            }
        };
        // A client that sends nothing more is disconnected.
        let ended = timeout(DRAIN_PATIENCE, read).await;
        ended.is_ok() && self.0.borrow().has_ended
    }
}

/// An answer that is sent while the request's body is still held.
///
/// actix-web waits without limit for the end of a chunked body that was dropped, and closes the
/// connection only over one that was not.
struct Unread {
    body: BoxBody,
    _payload: SharedPayload,
}

impl MessageBody for Unread {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

impl Stream for SharedPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.borrow_mut();
        if state.has_ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut state.payload).poll_next(context);
        if let Poll::Ready(None) = polled {
            state.has_ended = true;
        }
        polled
    }
}
