//! Finds what no name, address or URL should contain: control characters, and white space around
//! it.
//!
//! Values from files and secrets often end with a line feed, and a consumer group with a line
//! feed is another group.

use std::fmt;

/// The first illegal character of a value, described without showing the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    character: char,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Middle,
    End,
}

/// The flaw of a name, an address or a URL, if it has one.
pub(crate) fn of_name(text: &str) -> Option<Flaw> {
    let first = text.chars().next().filter(|c| is_blank(*c));
    let last = text.chars().next_back().filter(|c| is_blank(*c));
    let flaw = |place| move |character| Flaw { character, place };
    last.map(flaw(Place::End)).or(first.map(flaw(Place::Start))).or_else(|| of_secret(text))
}

/// The flaw of a password or token, which may begin and end with spaces.
pub(crate) fn of_secret(text: &str) -> Option<Flaw> {
    let (at, character) = text.char_indices().find(|(_, c)| c.is_control())?;
    let place = match at {
        0 => Place::Start,
        at if at + character.len_utf8() == text.len() => Place::End,
        _ => Place::Middle,
    };
    Some(Flaw { character, place })
}

/// White space of all kinds, control characters, and the byte-order mark at the start of some
/// files.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control() || c == '\u{feff}'
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Start => "begins with",
            Place::Middle => "contains",
            Place::End => "ends with",
        };
        let name = match self.character {
            ' ' => "a space",
            '\t' => "a tab",
            '\n' => "a line feed",
            '\r' => "a carriage return",
            '\0' => "a NUL",
            '\u{feff}' => "a byte-order mark",
            c if c.is_control() => "a control character",
            _ => "white space",
        };
        let code = u32::from(self.character);
        write!(f, "{place} {name} (U+{code:04X}), which is never meant there: remove it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, of_name: Option<&str>, of_secret: Option<&str>) {
        let said = |flaw: Option<Flaw>| flaw.map(|flaw| flaw.to_string());
        let meant = |said: Option<&str>| {
            said.map(|said| format!("{said}, which is never meant there: remove it"))
        };
        assert_eq!(said(super::of_name(text)), meant(of_name), "{text:?}");
        assert_eq!(said(super::of_secret(text)), meant(of_secret), "{text:?}");
    }

    #[test]
    fn the_character_is_told_and_where_it_is() {
        let line_feed = Some("ends with a line feed (U+000A)");
        check("", None, None);
        check("a group, of 2-3", None, None);
        check("é\u{200b}", None, None);
        check("group\n", line_feed, line_feed);
        check("group\r\n", line_feed, Some("contains a carriage return (U+000D)"));
        check("\n", line_feed, Some("begins with a line feed (U+000A)"));
        check(" group", Some("begins with a space (U+0020)"), None);
        check("group ", Some("ends with a space (U+0020)"), None);
        check("group\u{a0}", Some("ends with white space (U+00A0)"), None);
        check("\u{feff}group", Some("begins with a byte-order mark (U+FEFF)"), None);
        check("a\tb", Some("contains a tab (U+0009)"), Some("contains a tab (U+0009)"));
        check("a\0", Some("ends with a NUL (U+0000)"), Some("ends with a NUL (U+0000)"));
        let c1 = Some("contains a control character (U+0085)");
        check("a\u{85}b", c1, c1);
        let escape = Some("contains a control character (U+001B)");
        check("a\u{1b}[0mb", escape, escape);
    }
}
