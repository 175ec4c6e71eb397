//! Tables of text that fit the terminal: columns that have no room are left out, and ids are never
//! cut, so that they can be copied.

use std::env;
use std::io;

use comfy_table::{ContentArrangement, Table, presets};

use super::{report, say};

/// Characters that a table shows of a text.
const SHOWN_CHARS: usize = 200;

/// Rows of text under the names of their columns, the most important ones first.
#[derive(Debug)]
pub(in crate::cli) struct TextTable {
    names: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these columns. The first one is always shown.
    pub(in crate::cli) fn new(names: &[&'static str]) -> Self {
        Self { names: names.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. The texts may be a producer's: what could control the terminal is escaped.
    pub(in crate::cli) fn row<const WIDTH: usize>(&mut self, cells: [String; WIDTH]) {
        self.rows.push(cells.iter().map(|cell| escaped(cell)).collect());
    }

    /// Prints it, if it has rows.
    pub(in crate::cli) fn print(self) {
        if self.rows.is_empty() {
            return;
        }
        let (table, left_out) = self.fitted(terminal_width());
        say(table);
        if !left_out.is_empty() {
            report(format_args!(
                "columns left out for lack of room: {}; --json has everything",
                left_out.join(", ")
            ));
        }
    }

    /// The table in at most `width` columns of a terminal, and the names of the columns that were
    /// left out.
    fn fitted(&self, width: Option<usize>) -> (String, Vec<&'static str>) {
        let mut all = Table::new();
        all.set_header(&self.names).add_rows(&self.rows);
        let widths = all.column_max_content_widths();
        let mut used = 0;
        let (mut shown, mut left_out) = (Vec::new(), Vec::new());
        for (column, name) in self.names.iter().enumerate() {
            let needed = used + widths.get(column).map_or(0, |width| usize::from(*width));
            if column == 0 || width.is_none_or(|width| needed <= width) {
                shown.push(column);
                used = needed + GAP;
            } else {
                left_out.push(*name);
            }
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(shown.iter().map(|column| self.names[*column]));
        for row in &self.rows {
            table.add_row(shown.iter().filter_map(|column| row.get(*column)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP as u16));
        }
        (table.trim_fmt(), left_out)
    }
}

/// Blanks between columns.
const GAP: usize = 2;

/// The first 200 characters of a text.
pub(in crate::cli) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text on one line, in which characters that control the terminal or the direction of text are
/// escapes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let has_effect = c.is_control()
            || matches!(
                c,
                '\u{61c}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{feff}'
            );
        if has_effect {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// The columns of the terminal, or as many as `COLUMNS` says; none if the output is no terminal.
fn terminal_width() -> Option<usize> {
    let said = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let size = || rustix::termios::tcgetwinsize(io::stdout()).ok();
    said.or_else(|| size().map(|size| size.ws_col.into())).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TextTable {
        let mut table = TextTable::new(&["id", "due", "request", "app"]);
        table.row(["0123456789".into(), "soon".into(), "名前名前".into(), "sms".into()]);
        table.row(["0123456780".into(), "later".into(), "r\u{202e}\n".into(), "sms".into()]);
        table
    }

    #[test]
    fn without_a_width_everything_is_shown_and_nothing_controls_the_terminal() {
        let (text, left_out) = table().fitted(None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "id          due    request      app",
                "0123456789  soon   名前名前     sms",
                "0123456780  later  r\\u{202e}\\n  sms",
            ]
        );
        assert!(left_out.is_empty());
    }

    #[test]
    fn columns_without_room_are_left_out_and_the_first_one_never() {
        for (width, shown, left_out) in [
            (35, "id          due    request      app", &[][..]),
            (34, "id          due    request", &["app"]),
            (22, "id          due    app", &["request"]),
            (17, "id          due", &["request", "app"]),
            (5, "id", &["due", "request", "app"]),
        ] {
            let (text, out) = table().fitted(Some(width));
            assert_eq!((text.lines().next(), &out[..]), (Some(shown), left_out), "{width}");
            assert!(text.contains("0123456789"), "{width}: {text}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shortened(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(shortened(&"é".repeat(201)), format!("{}…", "é".repeat(200)));
    }
}
