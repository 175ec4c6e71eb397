//! Access control: by token if tokens are configured, else for every client on this machine, except
//! web pages of other origins.
//!
//! A handler says by its first argument which role it needs: [`Reader`], [`Operator`] or
//! [`Admin`].

use std::future::{Ready, ready};
use std::net::IpAddr;

use actix_web::dev::{Payload, ServiceRequest};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::problem::Problem;
use super::tokens::{Caller, Tokens};
use crate::config::Role;
use crate::operations::{AuditSource, By};

/// The caller's name where no tokens are configured.
const ANONYMOUS: &str = "anonymous";

/// Paths that need no token and are never refused, because health probes have no token.
pub(super) fn is_open(path: &str) -> bool {
    matches!(path, "/health/live" | "/health/ready")
}

/// Finds out who sent `request`, for the extractors below.
///
/// # Errors
/// 401 without a known token, if there are tokens; without any, 403 for a foreign `Host` or
/// `Origin`: a page from elsewhere, in a browser on this machine, is not its user.
pub(super) fn admit(request: &ServiceRequest, tokens: &Tokens) -> Result<(), Problem> {
    let caller = match tokens.is_empty() {
        true => {
            check_host(request.headers())?;
            Caller { name: None, role: Role::Admin }
        }
        false => bearer(request.headers())
            .and_then(|token| tokens.find(token))
            .ok_or_else(unauthorized)?,
    };
    request.extensions_mut().insert(caller);
    Ok(())
}

fn unauthorized() -> Problem {
    let detail = "a known token is needed: send Authorization: Bearer TOKEN";
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// The token of `Authorization: Bearer TOKEN`, whose scheme may be in any letter case.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(header::AUTHORIZATION);
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("bearer".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.starts_with(b" ");
    is_bearer.then(|| token.trim_ascii())
}

fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local(host) {
        let detail = format!(
            "Host {host:?} is not this machine: without http.tokens only localhost, 127.0.0.1 and \
             [::1] are answered"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-host", detail));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if origin.split_once("://").is_some_and(|(_, place)| place.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let detail =
        format!("Origin {origin:?} is another site: pages from elsewhere are not answered");
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign-origin", detail))
}

/// Whether it is a loopback address or its name, with any port.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn caller(request: &HttpRequest, needed: Role) -> Result<Caller, Problem> {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Err(unauthorized());
    };
    if caller.role >= needed {
        return Ok(caller);
    }
    let name = caller.name.as_deref().unwrap_or_default();
    let detail = format!(
        "token {name} has role {}, and this needs role {needed}: use another token",
        caller.role
    );
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

/// A caller that may read.
#[derive(Debug)]
pub(super) struct Reader(pub(super) Caller);

/// A caller that may submit jobs and operate on them.
#[derive(Debug)]
pub(super) struct Operator(pub(super) Caller);

/// A caller that may do everything.
#[derive(Debug)]
pub(super) struct Admin(pub(super) Caller);

impl FromRequest for Reader {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request, Role::Read).map(Self))
    }
}

impl FromRequest for Operator {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request, Role::Operate).map(Self))
    }
}

impl FromRequest for Admin {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request, Role::Admin).map(Self))
    }
}

impl Caller {
    /// The caller that requests a change, and its reason, for the audit.
    pub(super) fn by(&self, reason: Option<&str>) -> By {
        let by = By::new(self.name.as_deref().unwrap_or(ANONYMOUS)).through(AuditSource::Http);
        match reason {
            Some(reason) => by.because(reason),
            None => by,
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_bearer_token_is_read_however_it_is_written() {
        for (value, token) in [
            (&b"Bearer abc"[..], Some(&b"abc"[..])),
            (b"bearer abc", Some(b"abc")),
            (b"Bearer  abc", Some(b"abc")),
            (b"BEARER \xc3\xa9", Some("é".as_bytes())),
            (b"Bearerabc", None),
            (b"Basic abc", None),
            (b"Bear", None),
            (b"", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            assert_eq!(bearer(&headers), token, "{}", String::from_utf8_lossy(value));
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            assert_eq!(bearer(&headers), None, "two of them");
        }
    }

    #[test]
    fn only_this_machine_and_its_own_pages_need_no_token() {
        for (host, origin, fine) in [
            ("localhost:7070", None, true),
            ("LOCALHOST", None, true),
            ("127.0.0.1:7070", None, true),
            ("127.8.0.1", None, true),
            ("[::1]:7070", None, true),
            ("localhost:7070", Some("http://localhost:7070"), true),
            ("localhost:7070", Some("http://localhost:8080"), false),
            ("localhost:7070", Some("http://evil.example"), false),
            ("localhost:7070", Some("null"), false),
            ("evil.example:7070", None, false),
            ("localhost.evil.example", None, false),
            ("127.0.0.1:7070@evil.example", None, false),
            ("192.168.0.1", None, false),
            ("", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(check_host(&headers).is_ok(), fine, "{host} {origin:?}");
        }
    }
}
