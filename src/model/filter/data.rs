//! A condition on `jobData`: what is at a JSON pointer equals a value, compared as JSON.

use std::fmt;

use super::InvalidFilter;
use crate::model::fingerprint::Fingerprint;
use crate::model::json::Node;

/// What is at `pointer` in the job's data equals a value: the order of keys, white space and forms
/// of numbers do not count.
#[derive(Clone)]
pub struct DataCondition {
    pointer: String,
    tokens: Vec<String>,
    equals: Fingerprint,
    /// The value as it was given, which another process reads again.
    written: String,
}

impl DataCondition {
    /// What is at `pointer`, a JSON pointer of RFC 6901, equals `equals`, a JSON value. The empty
    /// pointer is the data as a whole.
    ///
    /// # Errors
    /// [`InvalidFilter`] if one of them is not of its form.
    pub fn new(pointer: &str, equals: &str) -> Result<Self, InvalidFilter> {
        Self::read(pointer, equals).map_err(|problem| InvalidFilter::new("data", problem))
    }

    pub(super) fn read(pointer: &str, equals: &str) -> Result<Self, String> {
        let tokens = tokens(pointer)?;
        let equals_json = equals.to_owned();
        let equals = Fingerprint::of_json(equals).map_err(|error| {
            format!("has a value for {pointer:?} that is not JSON ({error}): a text needs quotes")
        })?;
        Ok(Self { pointer: pointer.to_owned(), tokens, equals, written: equals_json })
    }

    /// The pointer as it was given.
    pub(crate) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The names of the pointer, from the outermost.
    pub(crate) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Whether it holds for `data`, a JSON text.
    pub(super) fn holds(&self, data: &str) -> bool {
        let found = Node::read(data).ok().and_then(|node| node.at(&self.tokens));
        found.is_some_and(|node| Fingerprint::of_node(node) == self.equals)
    }

    /// The value is written as it was given, so that a number keeps every digit.
    pub(super) fn to_json(&self) -> String {
        let pointer = serde_json::Value::from(self.pointer.as_str());
        format!(r#"{{"pointer":{pointer},"equals":{}}}"#, self.written)
    }

    pub(super) fn canonical(&self) -> String {
        format!("{}={:?}", self.pointer, self.equals)
    }
}

impl PartialEq for DataCondition {
    fn eq(&self, other: &Self) -> bool {
        (&self.pointer, &self.equals) == (&other.pointer, &other.equals)
    }
}

impl Eq for DataCondition {}

impl fmt::Debug for DataCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

fn tokens(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(format!("has the pointer {pointer:?}, which must begin with a slash, as /a/b"));
    };
    rest.split('/').map(|token| unescaped(token).ok_or_else(|| escape_rule(pointer))).collect()
}

fn unescaped(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        text.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        text.push_str(&part[1..]);
    }
    Some(text)
}

fn escape_rule(pointer: &str) -> String {
    format!("has the pointer {pointer:?}: write ~ as ~0 and / in a name as ~1")
}
