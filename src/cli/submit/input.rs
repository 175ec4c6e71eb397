//! The lines of the input, in groups that may be sent concurrently.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use serde::de::IgnoredAny;

use crate::model::letter::Refusal;
use crate::model::request::ScheduleJobRequest;

/// Some editors write it at the start of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The maximum length of a request that extends over several lines.
const LONGEST_OBJECT: u64 = 16 << 20;

type Source = BufReader<Box<dyn Read>>;

/// Requests, one per line; or one request over several lines.
pub(super) struct Input {
    source: Source,
    /// The number of the next line, from 1.
    number: usize,
    /// Whether all lines so far were empty.
    at_start: bool,
    /// A line that was read, and belongs to the next group.
    waiting: Option<Line>,
}

/// One request as it was written, and as it was understood.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) value: Vec<u8>,
    pub(super) request: Result<ScheduleJobRequest, Refusal>,
}

impl Input {
    pub(super) fn new(source: Source) -> Self {
        Self { source, number: 1, at_start: true, waiting: None }
    }

    pub(super) fn of_one(request: ScheduleJobRequest) -> Self {
        Self::new(BufReader::new(Box::new(Cursor::new(request.to_json()))))
    }

    /// The next lines, at most `most`; none at the end of the input.
    ///
    /// No two of them have the same requestId or key, so that the earlier of two requests wins. A
    /// group does not wait for lines that are not available yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the input is in UTF-16; the text says how to convert it.
    pub(super) fn next_wave(&mut self, most: usize) -> io::Result<Vec<Line>> {
        let mut wave = Vec::new();
        let mut names = HashSet::new();
        while wave.len() < most {
            let line = match self.waiting.take() {
                Some(line) => line,
                None if !wave.is_empty() && !self.source.buffer().contains(&b'\n') => break,
                None => match self.next_line()? {
                    Some(line) => line,
                    None => break,
                },
            };
            let mut own = names_of(&line);
            if own.any(|name| !names.insert(name)) {
                drop(own);
                self.waiting = Some(line);
                break;
            }
            drop(own);
            wave.push(line);
        }
        Ok(wave)
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let number = self.number;
            let mut text = Vec::new();
            if self.source.read_until(b'\n', &mut text)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if number == 1 && is_utf16(&text) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, UTF16));
            }
            // Concatenated files have one each.
            if text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            if std::mem::take(&mut self.at_start) && is_cut_off(&text) {
                text = self.read_on(text)?;
            }
            let value = text.trim_ascii().to_vec();
            let request = ScheduleJobRequest::from_json(&value);
            return Ok(Some(Line { number, value, request }));
        }
    }

    /// The whole input, if it is one JSON value; else its first line, and the rest remains to be read.
    fn read_on(&mut self, first: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        (&mut self.source).take(LONGEST_OBJECT).read_to_end(&mut rest)?;
        let whole = [&first[..], &rest].concat();
        if serde_json::from_slice::<IgnoredAny>(&whole).is_ok() {
            return Ok(whole);
        }
        let empty: Box<dyn Read> = Box::new(io::empty());
        let later = std::mem::replace(&mut self.source, BufReader::new(empty));
        self.source = BufReader::new(Box::new(Cursor::new(rest).chain(later)));
        Ok(first)
    }
}

const UTF16: &str = "it is in UTF-16: convert it to UTF-8 first, as by `iconv -f UTF-16 -t UTF-8`";

/// Whether a text begins as UTF-16: with a byte order mark, or with a brace of two bytes.
fn is_utf16(text: &[u8]) -> bool {
    matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..])
}

fn is_cut_off(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

/// The requestId and the idempotency key of a request, by which another one may be the same.
fn names_of(line: &Line) -> impl Iterator<Item = (bool, String)> {
    let request = line.request.as_ref().ok();
    let id = request.and_then(|request| request.request_id.clone()).map(|id| (true, id));
    let key = request.and_then(|request| request.idempotency_key.clone()).map(|key| (false, key));
    id.into_iter().chain(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(text: &str, most: usize) -> Vec<Vec<(usize, bool)>> {
        let mut input = Input::new(BufReader::new(Box::new(Cursor::new(text.to_owned()))));
        let mut waves = Vec::new();
        loop {
            let wave = input.next_wave(most).unwrap();
            if wave.is_empty() {
                return waves;
            }
            waves.push(wave.iter().map(|line| (line.number, line.request.is_ok())).collect());
        }
    }

    const A: &str = r#"{"appName":"a","scheduledTime":1,"requestId":"r1"}"#;
    const B: &str = r#"{"appName":"a","scheduledTime":1,"idempotencyKey":"k"}"#;

    #[test]
    fn lines_keep_their_numbers_and_bad_ones_keep_no_other_back() {
        let text = format!("{A}\n\n  \nnot json\r\n{B}");
        // The last line ends without a newline, so it comes alone.
        assert_eq!(waves(&text, 9), [vec![(1, true), (4, false)], vec![(5, true)]]);
    }

    #[test]
    fn the_same_name_is_for_the_next_wave() {
        let text = format!("{A}\n{B}\n{B}\n{A}\n");
        assert_eq!(waves(&text, 9), [vec![(1, true), (2, true)], vec![(3, true), (4, true)]]);
        assert_eq!(waves(&text, 1).len(), 4);
    }

    #[test]
    fn one_request_may_be_spread_over_lines() {
        let text = "{\n  \"appName\": \"a\",\n  \"scheduledTime\": 1\n}\n";
        assert_eq!(waves(text, 9), [vec![(1, true)]]);
    }

    #[test]
    fn a_byte_order_mark_or_empty_lines_before_a_request_over_several_lines_change_nothing() {
        let request = "{\n  \"appName\": \"a\",\n  \"scheduledTime\": 1\n}\n";
        for (before, number) in [("\u{feff}", 1), ("\n \r\n", 3), ("\u{feff}\n", 2)] {
            assert_eq!(
                waves(&format!("{before}{request}"), 9),
                [vec![(number, true)]],
                "{before:?}"
            );
        }
        let text = format!("\u{feff}{A}\n\u{feff}{B}\n\u{feff}\n");
        assert_eq!(waves(&text, 9), [vec![(1, true), (2, true)]]);
    }

    #[test]
    fn what_is_sent_begins_with_the_request_itself() {
        let mut input = Input::new(BufReader::new(Box::new(Cursor::new(format!("\u{feff}{A}")))));
        assert_eq!(input.next_wave(1).unwrap()[0].value, A.as_bytes());
    }

    #[test]
    fn utf_16_is_refused_with_the_way_out() {
        let units: Vec<u16> = A.encode_utf16().collect();
        let le: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let be: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for text in [[&[0xff, 0xfe], &le[..]].concat(), [&[0xfe, 0xff], &be[..]].concat(), le, be] {
            let mut input = Input::new(BufReader::new(Box::new(Cursor::new(text))));
            let error = input.next_wave(9).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("iconv -f UTF-16 -t UTF-8"), "{error}");
        }
    }

    #[test]
    fn a_first_line_that_is_cut_off_hides_no_other() {
        let text = format!("{{\"appName\":\n{A}\n{B}\n");
        // What was read ahead is read anew.
        assert_eq!(waves(&text, 9), [vec![(1, false)], vec![(2, true), (3, true)]]);
    }
}
