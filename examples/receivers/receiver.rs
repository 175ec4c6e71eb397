//! Receives fired jobs: verifies the signature and the fence. See README.md.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TOLERANCE_S: u64 = 300;

/// The headers of a request, by lower-case name.
pub type Headers = HashMap<String, String>;

/// Verifies what comes in.
pub struct Verifier {
    key: Vec<u8>,
    /// The greatest fence of each job.
    fences: Mutex<HashMap<String, u64>>,
}

impl Verifier {
    /// A verifier with a secret of the form `whsec_` and base64.
    pub fn new(secret: &str) -> Option<Self> {
        let key = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
        Some(Self { key, fences: Mutex::default() })
    }

    /// The status that answers this request; 204 if its job is to be done.
    pub fn verify(&self, headers: &Headers, body: &[u8]) -> u16 {
        if self.is_signed(headers, body) != Some(true) {
            return 401;
        }
        match self.is_late(headers) {
            Some(false) => 204,
            _ => 412,
        }
    }

    fn is_signed(&self, headers: &Headers, body: &[u8]) -> Option<bool> {
        let timestamp = headers.get("webhook-timestamp")?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        if timestamp.parse::<u64>().ok()?.abs_diff(now_s) > TOLERANCE_S {
            return None;
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(format!("{}.{timestamp}.", headers.get("webhook-id")?).as_bytes());
        mac.update(body);
        // One of several, while a secret is replaced; compared in constant time.
        let mut signatures = headers.get("webhook-signature")?.split(' ');
        Some(signatures.any(|given| {
            let given = given.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
            given.is_some_and(|given| mac.clone().verify_slice(&given).is_ok())
        }))
    }

    fn is_late(&self, headers: &Headers) -> Option<bool> {
        let fence: u64 = headers.get("x-scheduler-fence")?.parse().ok()?;
        let mut fences = self.fences.lock().unwrap_or_else(PoisonError::into_inner);
        let greatest = fences.entry(headers.get("x-scheduler-job-id")?.clone()).or_default();
        let is_late = fence < *greatest;
        *greatest = fence.max(*greatest);
        Some(is_late)
    }
}

/// Answers requests, each on a connection of its own; calls `done` for each job.
pub fn serve(
    listener: &TcpListener,
    verifier: Verifier,
    done: impl Fn(&Headers) + Send + Sync + 'static,
) -> io::Result<()> {
    let (verifier, done) = (Arc::new(verifier), Arc::new(done));
    for stream in listener.incoming() {
        let (stream, verifier, done) = (stream?, verifier.clone(), done.clone());
        std::thread::spawn(move || answer(stream, &verifier, &*done));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, verifier: &Verifier, done: &dyn Fn(&Headers)) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut headers = Headers::new();
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        line.clear();
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let status = verifier.verify(&headers, &body);
    if status == 204 {
        done(&headers);
    }
    write!(stream, "HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}
