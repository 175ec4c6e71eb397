//! Prints to standard output and standard error, for people and for programs.
//!
//! Answers go to standard output, everything else to standard error. A closed pipe (`| head`) is
//! not a failure of the command; a full disk is. `list` has the forms for programs.

mod fitted;
mod list;

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::sync::OnceLock;

pub(super) use self::fitted::{TextTable, shortened};
pub(super) use self::list::{DocumentOption, ListOptions, ListPrinter};

/// The first error in writing to standard output.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Prints a line on standard output.
pub(super) fn say(line: impl Display) {
    let mut output = io::stdout();
    note(writeln!(output, "{line}").and_then(|()| output.flush()));
}

/// Prints one thing as a JSON document.
///
/// # Errors
/// If it cannot be represented as JSON.
pub(super) fn document(answer: &impl serde::Serialize) -> serde_json::Result<()> {
    say(serde_json::to_string_pretty(answer)?);
    Ok(())
}

/// Notes whether something was written to standard output.
pub(super) fn note(written: io::Result<()>) {
    if let Err(error) = written {
        FAILURE.get_or_init(|| error);
    }
}

/// Whether the reader of standard output has closed it: nothing more needs to be printed.
pub(super) fn is_closed() -> bool {
    FAILURE.get().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Why not everything was written, unless the reader has closed the pipe. A program that reads an
/// incomplete answer must learn of it.
pub(super) fn unwritten() -> Option<&'static io::Error> {
    FAILURE.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// A text on one line. It may be a producer's, so control characters are replaced: they could
/// control the terminal.
pub(super) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints a line on standard error.
pub(super) fn report(line: impl Display) {
    writeln!(io::stderr(), "{line}").ok();
}

/// A table of numbers: the first column is aligned to the left, all others to the right.
pub(super) fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    aligned(names, rows, false)
}

/// A table of texts, aligned to the left.
pub(super) fn text_table(names: &[&str], rows: &[Vec<String>]) -> String {
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
        let text = text_table(&["id", "app"], &rows);
        assert_eq!(text, "id  app\n1   sms\n2   payment\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [vec!["PostgreSQL".into(), "1".into()], vec!["x".into(), "1 000".into()]];
        let text = table(&["database", "jobs/s"], &rows);
        assert_eq!(text, "database    jobs/s\nPostgreSQL       1\nx            1 000\n");
    }
}
