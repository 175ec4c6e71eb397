//! Printing. A closed pipe (`| head`) is no failure of ours; a full disk is.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::sync::OnceLock;

/// Why something that was printed could not be written.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// A line on standard output.
pub(super) fn say(line: impl Display) {
    let mut output = io::stdout();
    note(writeln!(output, "{line}").and_then(|()| output.flush()));
}

fn note(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| error.to_string());
    }
}

/// Why not all was written, if so: a program that reads it must not take it for all.
pub(super) fn unwritten() -> Option<&'static str> {
    UNWRITTEN.get().map(String::as_str)
}

/// A text that may be a producer's, on one line: nothing in it steers the terminal.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A line on standard error.
pub(super) fn report(line: impl Display) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Columns under their names, as wide as they need; the first to the left, figures to the right.
pub(super) fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    aligned(names, rows, false)
}

/// Columns of text under their names, all to the left.
pub(super) fn lined_up(names: &[&str], rows: &[Vec<String>]) -> String {
    aligned(names, rows, true)
}

fn aligned(names: &[&str], rows: &[Vec<String>], all_left: bool) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let width_of = |column: usize| {
        let cells = rows.iter().chain([&names]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width_of).collect();
    let mut text = String::new();
    for row in [&names].into_iter().chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let written = match column {
                0 => write!(line, "{cell:<width$}"),
                _ if all_left => write!(line, "  {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A whole number with a space between thousands.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, meant) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1 000"),
            (1234567.0, "1 234 567"),
            (-1e3, "-1 000"),
        ] {
            assert_eq!(grouped(number), meant);
        }
    }

    #[test]
    fn text_is_to_the_left_and_no_line_ends_in_blanks() {
        let rows = [vec!["1".into(), "sms".into()], vec!["2".into(), "payment".into()]];
        let text = lined_up(&["id", "app"], &rows);
        assert_eq!(text, "id  app\n1   sms\n2   payment\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [vec!["PostgreSQL".into(), "1".into()], vec!["x".into(), "1 000".into()]];
        let text = table(&["database", "jobs/s"], &rows);
        assert_eq!(text, "database    jobs/s\nPostgreSQL       1\nx            1 000\n");
    }
}
