//! What a record says before its request is decoded: its size and its trace context.

use crate::model::job::TraceContext;
use crate::model::letter::{ErrorKind, Refusal};

/// A longer trace header is ignored.
const LONGEST_TRACE: usize = 512;

/// The refusal of a value that has more than `most` bytes.
pub(super) fn too_large(value: &[u8], most: usize) -> Option<Refusal> {
    let size = value.len();
    (size > most).then(|| {
        let why = format!(
            "the record has {size} bytes, more than ingest.max_record_bytes ({most}): \
             send a reference instead of the data, or raise the limit"
        );
        Refusal::new(ErrorKind::RecordTooLarge, why)
    })
}

/// The trace context in the headers of a record.
pub(super) fn trace_in(headers: &[(String, Option<Vec<u8>>)]) -> Option<TraceContext> {
    let text = |name| {
        let (_, value) = headers.iter().find(|(key, _)| key == name)?;
        let value = std::str::from_utf8(value.as_deref()?).ok()?;
        let legal =
            value.len() <= LONGEST_TRACE && value.bytes().all(|b| (b' '..=b'~').contains(&b));
        legal.then(|| value.to_owned())
    };
    Some(TraceContext { parent: text("traceparent")?, state: text("tracestate") })
}
