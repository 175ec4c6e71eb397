//! What a request to a target has, and what its answers mean.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::context::tests::context;
use super::*;

fn dispatch(url: &str) -> HttpDispatch {
    HttpDispatch::open(HttpTarget::at(url), &AppConfig::new("sms")).unwrap()
}

/// What becomes of a job whose target gives this answer.
async fn after(answer: &'static str) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 4096];
        let _heard = stream.read(&mut heard).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let (ctx, url) = (context("{}"), format!("http://127.0.0.1:{port}/x?hush"));
    let result = dispatch(&url).execute(&ctx).await;
    server.await.unwrap();
    result
}

#[tokio::test]
async fn the_status_decides() {
    for success in ["200 OK", "202 Accepted", "204 No Content"] {
        let answer = format!("HTTP/1.1 {success}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(after(answer.leak()).await, Ok(()), "{success}");
    }
    for again in [408, 409, 421, 425, 500, 503, 599] {
        let answer = format!("HTTP/1.1 {again} X\r\nContent-Length: 4\r\n\r\nwhy\n");
        let result = after(answer.leak()).await;
        let kept = |why: &str| why.contains(&again.to_string()) && why.ends_with(": why");
        let about = if again == 503 { About::BusyTarget } else { About::Job };
        assert!(
            matches!(&result, Err(Failure::Again { why, about: it, .. }) if kept(why) && *it == about),
            "{result:?}"
        );
    }
    for never in [300, 304, 307, 400, 401, 404, 410, 422] {
        let answer = format!("HTTP/1.1 {never} X\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n");
        let result = after(answer.leak()).await;
        let hushed = |why: &str| !why.contains("hush");
        let about = if [401, 404].contains(&never) { About::Target } else { About::Job };
        assert!(
            matches!(&result, Err(Failure::Refused { why, about: it }) if hushed(why) && *it == about),
            "{result:?}"
        );
    }
    let wanted = Some(Duration::from_secs(7));
    for (status, is_attempt) in [(429, false), (503, true)] {
        let answer = format!("HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
        let failure = after(answer.leak()).await.unwrap_err();
        assert_eq!((failure.hold(), failure.is_attempt()), (wanted, is_attempt));
    }
}

#[tokio::test]
async fn nothing_sent_is_no_attempt_and_something_sent_is_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for (url, says) in [
        (format!("http://127.0.0.1:{port}/hush"), "connecting to 127.0.0.1:"),
        ("http://hush.invalid:81/".to_owned(), "resolving hush.invalid:81 failed: "),
    ] {
        let dispatch = dispatch(&url);
        let session = dispatch.session().await;
        let result = dispatch.send(&context("{}"), &session).await;
        assert!(
            matches!(&result, Err(NoAnswer::NotSent(why)) if why.starts_with(says)),
            "{result:?}"
        );
        let result = dispatch.execute(&context("{}")).await;
        assert!(matches!(result, Err(Failure::NotSent(_))), "{result:?}");
    }
    let result = after("").await;
    let says = "waiting for the head of the answer of 127.0.0.1:";
    assert!(matches!(&result, Err(Failure::NoAnswer(why)) if why.starts_with(says)), "{result:?}");
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_was_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let dispatch = dispatch(&format!("https://127.0.0.1:{port}/"));
    let session = dispatch.session().await;
    let result = dispatch.send(&context("{}"), &session).await;
    let says = "TLS with 127.0.0.1:";
    assert!(matches!(&result, Err(NoAnswer::NotSent(why)) if why.starts_with(says)), "{result:?}");
    server.await.unwrap();
}
