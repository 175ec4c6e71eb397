//! What every session of ours is set to, on each server, and why a promise depends on it.
//!
//! One table per kind of server. `session` sets what a new session has otherwise and reads it
//! back. Left to the server's administrator: whether it writes at all (`read_only`,
//! `default_transaction_read_only`), which is an outage while it lasts, and what is written to
//! a binary log (`sql_log_bin`).

use std::collections::HashMap;
use std::time::Duration;

/// What a server shows of its settings, by their names.
pub(super) type Shown = HashMap<String, String>;

/// A setting that a session of ours must have.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// What is right, in the form in which the server shows it. The first is what we set.
    right: Vec<String>,
    /// Completes "it must be so, since ..".
    pub(super) why: &'static str,
    need: Need,
}

/// When a setting must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Always,
    /// Where the server has it: some versions do not.
    IfKnown,
    /// It helps; some connections cannot have it.
    Wish,
}

impl Setting {
    fn new(
        name: &'static str,
        right: impl IntoIterator<Item = impl Into<String>>,
        why: &'static str,
    ) -> Self {
        let right = right.into_iter().map(Into::into).collect();
        Self { name, right, why, need: Need::Always }
    }

    fn if_known(self) -> Self {
        Self { need: Need::IfKnown, ..self }
    }

    fn wish(self) -> Self {
        Self { need: Need::Wish, ..self }
    }

    /// What we set.
    pub(super) fn value(&self) -> &str {
        self.right.first().map_or("", String::as_str)
    }

    /// What is right, for people.
    pub(super) fn wanted(&self) -> String {
        self.right.join(" or ")
    }

    /// What is right, each in quotes for SQL.
    pub(super) fn right(&self) -> impl Iterator<Item = &str> {
        self.right.iter().map(String::as_str)
    }

    /// Whether a session that shows this is as it must be.
    pub(super) fn holds(&self, shown: &Shown) -> bool {
        match shown.get(self.name) {
            Some(value) => self.right.iter().any(|right| is_same(right, value)),
            None => self.need != Need::Always,
        }
    }

    /// Whether a session that shows this must not be used.
    pub(super) fn is_broken(&self, shown: &Shown) -> bool {
        self.need != Need::Wish && !self.holds(shown)
    }

    /// Whether it has to be set, and can be.
    pub(super) fn is_to_set(&self, shown: &Shown) -> bool {
        shown.contains_key(self.name) && !self.holds(shown)
    }
}

/// Lists, such as `sql_mode`, are shown in an order of the server's own.
fn is_same(right: &str, shown: &str) -> bool {
    let parts = |list: &str| {
        let mut parts: Vec<String> =
            list.split(',').map(|part| part.trim().to_lowercase()).collect();
        parts.sort_unstable();
        parts
    };
    parts(right) == parts(shown)
}

/// PostgreSQL. `search_path` is as the URL gives it, if it does.
pub(super) fn of_postgres(lease: Duration, search_path: Option<&str>) -> Vec<Setting> {
    let (lease_ms, half_ms) = (lease.as_millis().to_string(), (lease.as_millis() / 2).to_string());
    let mut settings = vec![
        Setting::new(
            "default_transaction_isolation",
            ["read committed"],
            "a statement has to see what was committed before it began",
        ),
        // A process that is frozen in mid-transaction must not hold its locks for hours, and
        // nobody waits for a lock longer than a lease.
        Setting::new(
            "idle_in_transaction_session_timeout",
            [&half_ms],
            "an instance that is frozen in a transaction would keep its locks",
        ),
        Setting::new("lock_timeout", [&lease_ms], "nobody may wait for a lock longer than a lease"),
        Setting::new("statement_timeout", ["0"], "the server would cancel statements of ours"),
        Setting::new("transaction_timeout", ["0"], "the server would end transactions of ours")
            .if_known(),
        Setting::new("idle_session_timeout", ["0"], "the server would end sessions of ours")
            .if_known(),
        Setting::new("exit_on_error", ["off"], "a duplicate would end its session").if_known(),
        // What is acknowledged is durable. Weaker forms than `on` that still wait for the
        // server's own disk are the administrator's choice.
        Setting::new(
            "synchronous_commit",
            ["on", "local", "remote_write", "remote_apply"],
            "a crash of the server would lose jobs that were accepted",
        ),
        Setting::new(
            "session_replication_role",
            ["origin"],
            "triggers and rules of the tables would not run",
        )
        .if_known(),
        Setting::new("TimeZone", ["UTC", "Etc/UTC"], "times are compared in UTC"),
        Setting::new("DateStyle", ["ISO, MDY"], "times are read in one form"),
        Setting::new("client_encoding", ["UTF8", "UNICODE"], "texts are sent in UTF-8"),
        Setting::new("standard_conforming_strings", ["on"], "texts are written in standard SQL"),
        Setting::new("bytea_output", ["hex"], "bytes are read in one form").if_known(),
        // None over a Unix socket.
        Setting::new("tcp_user_timeout", [&lease_ms], "a dead connection would keep its locks")
            .wish(),
    ];
    if let Some(path) = search_path {
        let why = "the URL says so, and other tables would be used";
        settings.push(Setting::new("search_path", [path], why));
    }
    settings
}

/// The names that a table for MySQL or MariaDB may have, and what tells the two apart.
pub(super) fn names_of_mysql() -> Vec<&'static str> {
    let mut names = vec!["log_bin", IDLE_TRANSACTION];
    let known = [IDLE_TRANSACTION, "log_bin"].map(|name| (name.to_owned(), "ON".to_owned()));
    for shown in [Shown::new(), known.into()] {
        let settings = of_mysql(Duration::from_secs(1), &shown);
        names.extend(settings.iter().map(|setting| setting.name));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// MariaDB ends an idle transaction by itself; MySQL has only the idle session's limit.
const IDLE_TRANSACTION: &str = "idle_transaction_timeout";

/// Texts are not cut to fit and stay as they are, and statements are read as they are meant.
const SQL_MODE: &str =
    "PIPES_AS_CONCAT,STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION";

/// The limit of an idle session where it is not to be met, as servers have it by default.
const IDLE_SESSION_S: &str = "28800";

/// MariaDB and MySQL; which of them it is shows in what the session has.
pub(super) fn of_mysql(lease: Duration, shown: &Shown) -> Vec<Setting> {
    let lease_s = lease.as_secs().max(1).to_string();
    let half_s = idle_limit_of_mysql(lease).as_secs().to_string();
    let fences = "a statement has to see what was committed before it began";
    let no_limit = "the server would cancel statements of ours";
    let frozen = "an instance that is frozen in a transaction would keep its locks";
    let text = "texts are sent in UTF-8";
    let mut settings = vec![
        Setting::new("autocommit", ["ON"], "a statement by itself has to be committed by itself"),
        Setting::new("completion_type", ["NO_CHAIN"], "a commit has to end its transaction"),
        // The first is its name on MariaDB before 11.1.
        Setting::new("tx_isolation", ["READ-COMMITTED"], fences).if_known(),
        Setting::new("transaction_isolation", ["READ-COMMITTED"], fences).if_known(),
        Setting::new("sql_mode", [SQL_MODE], "texts and statements have to stay as they are meant"),
        Setting::new("sql_auto_is_null", ["OFF"], "it changes what a comparison with null means")
            .if_known(),
        Setting::new("sql_safe_updates", ["OFF"], "the server would refuse statements of ours"),
        Setting::new("sql_big_selects", ["ON"], "the server would refuse statements of ours")
            .if_known(),
        Setting::new("sql_select_limit", ["18446744073709551615"], "rows would be left out"),
        Setting::new("foreign_key_checks", ["ON"], "rows would not be checked"),
        Setting::new("unique_checks", ["ON"], "a duplicate might not be noticed"),
        Setting::new("default_storage_engine", ["InnoDB"], "tables have to know transactions"),
        Setting::new("time_zone", ["+00:00"], "times are compared in UTC"),
        Setting::new("character_set_client", ["utf8mb4"], text),
        Setting::new("character_set_results", ["utf8mb4"], text),
        Setting::new("character_set_connection", ["utf8mb4"], text),
        // The same on every server; which one hardly matters, since columns have their own.
        Setting::new("collation_connection", ["utf8mb4_general_ci"], "texts are compared alike"),
        Setting::new("max_statement_time", ["0.000000"], no_limit).if_known(),
        Setting::new("max_execution_time", ["0"], no_limit).if_known(),
        Setting::new(
            "innodb_lock_wait_timeout",
            [&lease_s],
            "nobody may wait for a lock longer than a lease",
        ),
        Setting::new(
            "lock_wait_timeout",
            [&lease_s],
            "nobody may wait for a lock longer than a lease",
        ),
    ];
    if shown.contains_key(IDLE_TRANSACTION) {
        settings.extend([
            Setting::new(IDLE_TRANSACTION, [&half_s], frozen),
            // These go before that where they are not zero.
            Setting::new("idle_write_transaction_timeout", [&half_s], frozen).if_known(),
            Setting::new("idle_readonly_transaction_timeout", [&half_s], frozen).if_known(),
            Setting::new("wait_timeout", [IDLE_SESSION_S], "the server would end sessions of ours"),
        ]);
    } else {
        settings.push(Setting::new("wait_timeout", [&half_s], frozen));
    }
    if shown.get("log_bin").is_some_and(|on| is_same("ON", on)) {
        let why = "a binary log of statements cannot be written at the isolation READ COMMITTED";
        settings.push(Setting::new("binlog_format", ["ROW", "MIXED"], why).if_known());
    }
    settings
}

/// How long a session of MySQL may be idle: half a lease, in or out of a transaction.
pub(super) fn idle_limit_of_mysql(lease: Duration) -> Duration {
    Duration::from_secs(lease.as_secs().div_ceil(2).max(1))
}

/// SQLite: pragmas that are set by `sqlite`, and what they must be then.
pub(super) const OF_SQLITE: &[(&str, &[&str], &str)] = &[
    (
        "journal_mode",
        &["wal"],
        "reading has to go on while something is written; the file may be on a file system that \
         is not local",
    ),
    ("synchronous", &["2", "3"], "a crash of the machine would lose jobs that were accepted"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn shown(values: &[(&str, &str)]) -> Shown {
        values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn find<'a>(settings: &'a [Setting], name: &str) -> &'a Setting {
        settings.iter().find(|setting| setting.name == name).unwrap()
    }

    #[test]
    fn a_setting_is_compared_as_servers_show_it() {
        let settings = of_mysql(LEASE, &Shown::new());
        let mode = find(&settings, "sql_mode");
        let turned = "NO_ENGINE_SUBSTITUTION,STRICT_ALL_TABLES,STRICT_TRANS_TABLES,PIPES_AS_CONCAT";
        assert!(mode.holds(&shown(&[("sql_mode", turned)])));
        for other in ["", "STRICT_TRANS_TABLES", &format!("{turned},EMPTY_STRING_IS_NULL")] {
            assert!(mode.is_to_set(&shown(&[("sql_mode", other)])), "{other}");
        }
        assert!(find(&settings, "autocommit").holds(&shown(&[("autocommit", "on")])));
    }

    #[test]
    fn only_what_a_server_has_is_set_and_only_what_every_server_has_is_missed() {
        let settings = of_postgres(LEASE, None);
        let none = Shown::new();
        assert!(find(&settings, "lock_timeout").is_broken(&none));
        assert!(!find(&settings, "idle_session_timeout").is_broken(&none));
        assert!(settings.iter().all(|setting| !setting.is_to_set(&none)));
        let socket = shown(&[("tcp_user_timeout", "0")]);
        let wish = find(&settings, "tcp_user_timeout");
        assert!(wish.is_to_set(&socket) && !wish.is_broken(&socket));
    }

    #[test]
    fn a_durable_commit_is_the_administrators_choice_and_one_that_is_not_is_nobodys() {
        let settings = of_postgres(LEASE, None);
        let commit = find(&settings, "synchronous_commit");
        for (value, right) in
            [("on", true), ("local", true), ("remote_apply", true), ("off", false)]
        {
            assert_eq!(commit.holds(&shown(&[("synchronous_commit", value)])), right, "{value}");
        }
        assert_eq!(commit.value(), "on");
    }

    #[test]
    fn what_ends_an_idle_transaction_depends_on_the_server() {
        let maria = of_mysql(LEASE, &shown(&[(IDLE_TRANSACTION, "0")]));
        assert_eq!(find(&maria, IDLE_TRANSACTION).value(), "5");
        assert_eq!(find(&maria, "wait_timeout").value(), IDLE_SESSION_S);
        let mysql = of_mysql(LEASE, &Shown::new());
        assert_eq!(find(&mysql, "wait_timeout").value(), "5");
        assert!(mysql.iter().all(|setting| setting.name != IDLE_TRANSACTION));
    }

    #[test]
    fn the_binary_logs_form_matters_only_where_there_is_one() {
        let format = |log: &str| {
            let settings = of_mysql(LEASE, &shown(&[("log_bin", log)]));
            settings.iter().any(|setting| setting.name == "binlog_format")
        };
        assert!(format("ON") && !format("OFF"));
        assert!(names_of_mysql().contains(&"binlog_format"));
    }
}
