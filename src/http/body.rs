//! Reads the body of a request: JSON in UTF-8, plain or gzipped. The limits hold for the compressed
//! and for the decompressed body, and bound the memory that it takes.
//!
//! A gzipped body is decompressed twice: while it arrives, only to measure it, and then into memory
//! of that size. So one that decompresses to gigabytes is refused a few bytes beyond the limit.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{StatusCode, header::ACCEPT_ENCODING};
use actix_web::rt::time::timeout;
use actix_web::{HttpMessage, HttpRequest, web};
use flate2::write::MultiGzDecoder;
use futures::StreamExt;

use super::problem::Problem;
use super::shared::{LargeBody, Shared};

/// The largest body of one job, in bytes.
pub(super) const JOB_BYTES: usize = 1 << 20;
/// The largest body of several jobs.
const ARRAY_BYTES: usize = 64 << 20;
/// The largest body of a dead letter's value, which may be longer as JSON than it is.
pub(super) const VALUE_BYTES: usize = 4 << 20;
/// Larger bodies are decompressed and parsed on a thread for blocking work.
pub(super) const LARGE: usize = 1 << 20;

/// The longest time from the first byte of a request to the last.
pub(super) const COMPLETE_WITHIN: Duration = Duration::from_secs(30);

/// When a request's head had been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived(Instant);

impl Arrived {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }

    fn of(request: &HttpRequest) -> Instant {
        request.extensions().get::<Self>().map_or_else(Instant::now, |arrived| arrived.0)
    }
}

/// The bodies that an operation accepts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// One job, or an array of jobs.
    Jobs,
    /// An object of at most this many bytes.
    Object(usize),
}

/// The text of a body.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) text: String,
    /// The permit of a large body, released when dropped.
    _large: Option<LargeBody>,
}

/// Whether the request has a body.
pub(super) fn has_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(header::TRANSFER_ENCODING)
}

/// The body as text.
///
/// # Errors
/// 415 for another type or encoding, 413 beyond the limit, 408 if it does not arrive in time, 400
/// if it is cut off or not UTF-8, 503 while too many large ones are being read.
pub(super) async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    expected: Expected,
) -> Result<Body, Problem> {
    check_type(request)?;
    let gzip = is_gzip(request)?;
    let mut buffer = Buffer { kept: Vec::new(), meter: Meter::new(expected), gzip: None };
    if gzip {
        buffer.gzip = Some(MultiGzDecoder::new(Meter::new(expected)));
    } else if let Some(length) = content_length(request) {
        buffer.expect(length)?;
    }
    let large = receive(request, payload, &mut buffer).await?;
    let bytes = buffer.open().await?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Body { text, _large: large }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let detail = format!("the body is not UTF-8 at byte {at}: send JSON in UTF-8");
            Err(Problem::bad("invalid-encoding", detail))
        }
    }
}

async fn receive(
    request: &HttpRequest,
    mut payload: web::Payload,
    buffer: &mut Buffer,
) -> Result<Option<LargeBody>, Problem> {
    let shared = Shared::of(request)?;
    let deadline = Arrived::of(request) + COMPLETE_WITHIN;
    let mut large = None;
    loop {
        let chunk = timeout(deadline.saturating_duration_since(Instant::now()), payload.next())
            .await
            .map_err(|_| late())?;
        let Some(chunk) = chunk else { return Ok(large) };
        let chunk = chunk.map_err(|error| {
            let detail = format!("the body did not arrive whole: {error}");
            Problem::bad("invalid-body", detail)
        })?;
        if large.is_none() && buffer.size() + chunk.len() > LARGE {
            large = Some(shared.large_body()?);
        }
        buffer.add(&chunk)?;
    }
}

/// What has arrived of a body.
struct Buffer {
    /// As it was sent.
    kept: Vec<u8>,
    /// Measures it as it was sent.
    meter: Meter,
    /// Decompresses the body, if it is gzipped, and measures the result.
    gzip: Option<MultiGzDecoder<Meter>>,
}

impl Buffer {
    /// The length that the client announced.
    fn expect(&mut self, length: usize) -> Result<(), Problem> {
        let most = self.meter.expected.most();
        if length > most {
            return Err(too_large(most));
        }
        // Memory for the rest is reserved only when it arrives, since a client may announce any
        // length.
        self.kept.reserve_exact(length.min(LARGE));
        Ok(())
    }

    /// Bytes in memory, now and after decompression.
    fn size(&self) -> usize {
        self.kept.len() + self.gzip.as_ref().map_or(0, |gzip| gzip.get_ref().bytes)
    }

    fn add(&mut self, chunk: &[u8]) -> Result<(), Problem> {
        match &mut self.gzip {
            Some(gzip) => {
                let opened = gzip.write_all(chunk);
                opened.map_err(|error| unopened(&error, gzip.get_ref()))?;
                let most = gzip.get_ref().expected.most();
                if self.kept.len() + chunk.len() > most {
                    return Err(too_large(most));
                }
            }
            None => self.meter.measure(chunk).map_err(|_| too_large(self.meter.limit()))?,
        }
        self.kept.extend_from_slice(chunk);
        Ok(())
    }

    async fn open(self) -> Result<Vec<u8>, Problem> {
        let Some(mut gzip) = self.gzip else { return Ok(self.kept) };
        gzip.try_finish().map_err(|error| unopened(&error, gzip.get_ref()))?;
        let measured = gzip.get_ref().bytes;
        let kept = self.kept;
        let open = move || -> io::Result<Vec<u8>> {
            let mut gzip = MultiGzDecoder::new(Vec::with_capacity(measured));
            gzip.write_all(&kept)?;
            gzip.finish()
        };
        let opened = match measured > LARGE {
            true => web::block(open).await.map_err(Problem::internal)?,
            false => open(),
        };
        opened.map_err(|error| not_gzip(&error))
    }
}

/// Counts the bytes that are written to it, and fails beyond the limit.
struct Meter {
    expected: Expected,
    bytes: usize,
    /// Recognized by the first character that is not white space.
    is_array: bool,
    begun: bool,
}

impl Meter {
    fn new(expected: Expected) -> Self {
        Self { expected, bytes: 0, is_array: false, begun: false }
    }

    fn limit(&self) -> usize {
        match self.expected {
            Expected::Object(limit) => limit,
            Expected::Jobs if self.is_array => ARRAY_BYTES,
            Expected::Jobs => JOB_BYTES,
        }
    }

    fn measure(&mut self, bytes: &[u8]) -> io::Result<()> {
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if let Some(first) = first.filter(|_| !self.begun) {
            self.begun = true;
            self.is_array = *first == b'[';
        }
        self.bytes += bytes.len();
        match self.bytes <= self.limit() {
            true => Ok(()),
            false => Err(io::Error::other("too large")),
        }
    }
}

impl Write for Meter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.measure(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Expected {
    fn most(self) -> usize {
        match self {
            Self::Jobs => ARRAY_BYTES,
            Self::Object(limit) => limit,
        }
    }
}

fn check_type(request: &HttpRequest) -> Result<(), Problem> {
    let unsupported = |found: String| {
        let detail = format!("{found}: send Content-Type: application/json, in UTF-8");
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail))
    };
    let mut types = request.headers().get_all(header::CONTENT_TYPE);
    match (types.next(), types.next()) {
        (None, _) => return unsupported("the request has no Content-Type".into()),
        (Some(_), Some(_)) => return unsupported("the request has two of Content-Type".into()),
        (Some(_), None) => {}
    }
    let Ok(Some(found)) = request.mime_type() else {
        return unsupported("the Content-Type cannot be read".into());
    };
    let is_utf8 = found.get_param("charset").is_none_or(|charset| charset == "utf-8");
    if found.essence_str() != "application/json" || !is_utf8 {
        return unsupported(format!("the body is announced as {found}"));
    }
    Ok(())
}

fn is_gzip(request: &HttpRequest) -> Result<bool, Problem> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let named: Vec<String> = encodings
        .flat_map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_lowercase()
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty() && name != "identity")
        .collect();
    match &named[..] {
        [] => Ok(false),
        [gzip] if gzip == "gzip" || gzip == "x-gzip" => Ok(true),
        _ => {
            let found = named.join(", ");
            let detail = format!("Content-Encoding {found:?} is not read: send gzip, or none");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let problem = Problem::new(status, "unsupported-encoding", detail);
            Err(problem.with_header(ACCEPT_ENCODING, HeaderValue::from_static("gzip")))
        }
    }
}

fn content_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    let mib = limit >> 20;
    let more = match limit {
        JOB_BYTES => "; an array of jobs may have 64 MiB",
        _ => "",
    };
    let detail = format!("the body is larger than the limit of {mib} MiB{more}: send less at once");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail).with("limitBytes", limit)
}

fn late() -> Problem {
    let seconds = COMPLETE_WITHIN.as_secs();
    let detail = format!("the request was not complete within {seconds} s: send it again, quicker");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
}

fn unopened(error: &io::Error, meter: &Meter) -> Problem {
    match meter.bytes > meter.limit() {
        true => too_large(meter.limit()),
        false => not_gzip(error),
    }
}

fn not_gzip(error: &io::Error) -> Problem {
    let detail = format!("the body is announced as gzip and cannot be opened: {error}");
    Problem::bad("invalid-body", detail)
}
