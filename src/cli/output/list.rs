//! Output for programs: the options `--json` and `--jsonl`, and lists in these two forms.
//!
//! With `--json` a command prints one JSON document on standard output and nothing else. A list is
//! `{"items": [...], "next": ...}`, also when it is empty; `next` is the cursor of the next page,
//! or null. With `--jsonl` each item is a line, and the last line is `{"end":true}`. A document
//! without its end, or lines without that last one, are those of a command that failed.

use serde::Serialize;

use super::say;

/// The option of a command that shows one thing.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(in crate::cli) struct DocumentOption {
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// The options of a command that prints a list.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(in crate::cli) struct ListOptions {
    /// Print one JSON document: {"items": [...], "next": null or a cursor}
    #[arg(long, conflicts_with = "jsonl")]
    pub(in crate::cli) json: bool,
    /// Print a line of JSON for each item, then the line {"end":true}
    #[arg(long)]
    pub(in crate::cli) jsonl: bool,
}

impl ListOptions {
    /// The printer of the list for a program; `None` if it is printed for a person.
    pub(in crate::cli) fn printer(self) -> Option<ListPrinter> {
        (self.json || self.jsonl).then_some(ListPrinter { lines: self.jsonl, is_empty: true })
    }
}

/// Prints a list item by item, so that a long one is never in memory as a whole.
#[derive(Debug)]
pub(in crate::cli) struct ListPrinter {
    /// Whether each item is a line of its own.
    lines: bool,
    is_empty: bool,
}

/// A list has no further fields.
#[derive(Serialize)]
struct NoFields {}

/// The end of a list's document.
#[derive(Serialize)]
struct End<'a, T> {
    next: Option<&'a str>,
    #[serde(flatten)]
    fields: &'a T,
}

impl ListPrinter {
    /// Prints the next item.
    ///
    /// # Errors
    /// If the item cannot be represented as JSON.
    pub(in crate::cli) fn item(&mut self, item: &impl Serialize) -> serde_json::Result<()> {
        let item = serde_json::to_string(item)?;
        let before = match (self.lines, self.is_empty) {
            (true, _) => "",
            (false, true) => START,
            (false, false) => ",",
        };
        self.is_empty = false;
        say(format_args!("{before}{item}"));
        Ok(())
    }

    /// Prints all of a list that is short.
    ///
    /// # Errors
    /// As [`item`](Self::item).
    pub(in crate::cli) fn whole(mut self, items: &[impl Serialize]) -> serde_json::Result<()> {
        items.iter().try_for_each(|item| self.item(item))?;
        self.end(None)
    }

    /// Prints the end of the list; `next` is the cursor of the next page.
    ///
    /// # Errors
    /// As [`item`](Self::item).
    pub(in crate::cli) fn end(self, next: Option<&str>) -> serde_json::Result<()> {
        self.end_with(next, &NoFields {})
    }

    /// The same with further fields of the document. Lines have none.
    ///
    /// # Errors
    /// As [`item`](Self::item).
    pub(in crate::cli) fn end_with(
        self,
        next: Option<&str>,
        fields: &impl Serialize,
    ) -> serde_json::Result<()> {
        if self.lines {
            say(r#"{"end":true}"#);
            return Ok(());
        }
        let start = if self.is_empty { START } else { "" };
        let end = serde_json::to_string(&End { next, fields })?;
        say(format_args!("{start}],{}", end.trim_start_matches('{')));
        Ok(())
    }
}

/// The start of a list's document.
const START: &str = r#"{"items":["#;
