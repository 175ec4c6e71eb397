//! The operations that are called, with their input.

use serde_json::Value;

/// A question; letters are named by the word that their record begins with.
#[derive(Debug)]
pub(super) enum Ask {
    List(Filter),
    Show(&'static str),
    Edit(Edit),
    Replay {
        letters: &'static [&'static str],
        dry_run: bool,
    },
    Discard {
        letters: &'static [&'static str],
        dry_run: bool,
    },
    DiscardAll {
        kind: &'static str,
        dry_run: bool,
    },
    /// Requests as JSON, one after the other.
    Submit(&'static [&'static str]),
    /// What became of a request of the app `sms`.
    Status(&'static str),
    /// The jobs that a filter of these names and values selects.
    Jobs(&'static [(&'static str, &'static str)]),
    Apps,
    /// A bulk action, waited for until it has ended; the names are those of the command's options.
    Bulk {
        action: &'static str,
        with: Option<(&'static str, &'static str)>,
        filter: &'static [(&'static str, &'static str)],
        dry_run: bool,
    },
    /// A job of the app `sms`, by its request.
    ShowJob(&'static str),
    CancelJob(&'static str),
    RunJob(&'static str),
    Reschedule {
        job: &'static str,
        to: &'static str,
    },
    EditJob {
        job: &'static str,
        priority: &'static str,
        max_attempts: &'static str,
    },
    Operation(i64),
    Pause {
        app: &'static str,
        refuse: bool,
    },
    Resume(&'static str),
    /// Other limits of an app, as JSON and as options of the command line.
    SetLimits {
        app: &'static str,
        json: &'static str,
        options: &'static [&'static str],
    },
    ResetLimits(&'static str),
    DeleteApp(&'static str),
    Drain(&'static str),
    PauseIngest,
    ResumeIngest,
    /// What `anna` did, in this way or any.
    Audit,
    Positions,
    Seek(Seek),
    SeekForeignTopic,
}

/// Who makes the changes that the audit is asked about, and why.
pub(super) const WHO: &str = "anna";
pub(super) const REASON: &str = "a test";

/// Entries of the audit without what differs from one way to the next.
pub(super) fn comparable_audit(mut items: Value) -> Value {
    for item in items.as_array_mut().into_iter().flatten() {
        for part in ["id", "time", "source", "details"] {
            item.as_object_mut().expect("an entry").remove(part);
        }
    }
    items
}

/// What is the same of a bulk action in every way.
pub(super) fn comparable_bulk(item: &Value) -> Value {
    let names = ["action", "args", "filter", "state", "matched", "done", "failed", "skipped"];
    names.into_iter().map(|name| (name.to_owned(), item[name].clone())).collect()
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) app: Option<&'static str>,
    pub(super) kind: Option<&'static str>,
    pub(super) contains: Option<&'static str>,
    /// From and to, epoch milliseconds.
    pub(super) times: Option<(i64, i64)>,
}

impl Filter {
    pub(super) const ALL: Self = Self { app: None, kind: None, contains: None, times: None };
}

#[derive(Debug)]
pub(super) struct Edit {
    pub(super) letter: &'static str,
    pub(super) correction: Option<&'static str>,
    pub(super) replace: bool,
    pub(super) dry_run: bool,
}

#[derive(Debug)]
pub(super) struct Seek {
    /// An offset, or `end`.
    pub(super) to: &'static str,
    pub(super) partitions: &'static [i32],
    pub(super) dry_run: bool,
}

impl Ask {
    pub(super) const fn edit(letter: &'static str, correction: Option<&'static str>) -> Self {
        Self::Edit(Edit { letter, correction, replace: false, dry_run: false })
    }

    pub(super) const fn replace(letter: &'static str, correction: Option<&'static str>) -> Self {
        Self::Edit(Edit { letter, correction, replace: true, dry_run: false })
    }

    pub(super) const fn try_edit(letter: &'static str, correction: Option<&'static str>) -> Self {
        Self::Edit(Edit { letter, correction, replace: false, dry_run: true })
    }

    pub(super) const fn seek(to: &'static str, partitions: &'static [i32], dry_run: bool) -> Self {
        Self::Seek(Seek { to, partitions, dry_run })
    }
}
