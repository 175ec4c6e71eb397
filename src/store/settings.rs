//! The settings that every session must have on each server, and why a guarantee depends on them.
//!
//! There is one table for each kind of server. `session` changes those that differ in a new
//! session, and reads them back. Two things are left to the server's administrator: whether the
//! server is read-only (`read_only`, `default_transaction_read_only`), which is treated as an
//! outage, and what is written to a binary log (`sql_log_bin`).

use std::collections::HashMap;
use std::time::Duration;

/// The settings that a server shows, by name.
pub(super) type Shown = HashMap<String, String>;

/// A setting that every session must have.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// The allowed values, in the form in which the server shows them. The first is the one that is
    /// set.
    allowed: Vec<String>,
    /// The reason; it completes the sentence "it must be .., since ..".
    pub(super) why: &'static str,
    need: Need,
}

/// When a setting is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Always,
    /// If the server supports it; some versions do not.
    IfKnown,
    /// Never; it is set where possible.
    Preferred,
}

impl Setting {
    fn new(
        name: &'static str,
        allowed: impl IntoIterator<Item = impl Into<String>>,
        why: &'static str,
    ) -> Self {
        let allowed = allowed.into_iter().map(Into::into).collect();
        Self { name, allowed, why, need: Need::Always }
    }

    fn if_known(self) -> Self {
        Self { need: Need::IfKnown, ..self }
    }

    fn preferred(self) -> Self {
        Self { need: Need::Preferred, ..self }
    }

    /// The value that is set.
    pub(super) fn value(&self) -> &str {
        self.allowed.first().map_or("", String::as_str)
    }

    /// The allowed values, as a text for messages.
    pub(super) fn shown_allowed(&self) -> String {
        self.allowed.join(" or ")
    }

    /// The allowed values.
    pub(super) fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.iter().map(String::as_str)
    }

    /// Whether a session with these settings has an allowed value. A setting that the server does
    /// not have holds, unless it is always required.
    pub(super) fn holds(&self, shown: &Shown) -> bool {
        match shown.get(self.name) {
            Some(value) => self.allowed.iter().any(|allowed| is_same(allowed, value)),
            None => self.need != Need::Always,
        }
    }

    /// Whether a session with these settings must not be used.
    pub(super) fn is_violated(&self, shown: &Shown) -> bool {
        self.need != Need::Preferred && !self.holds(shown)
    }

    /// Whether the setting must be changed, and exists.
    pub(super) fn is_to_set(&self, shown: &Shown) -> bool {
        shown.contains_key(self.name) && !self.holds(shown)
    }
}

/// Compares lists such as `sql_mode` without regard to order, which each server chooses itself.
fn is_same(allowed: &str, shown: &str) -> bool {
    let parts = |list: &str| {
        let mut parts: Vec<String> =
            list.split(',').map(|part| part.trim().to_lowercase()).collect();
        parts.sort_unstable();
        parts
    };
    parts(allowed) == parts(shown)
}

/// The settings of PostgreSQL. `search_path` is the one of the URL, if it has one.
pub(super) fn of_postgres(lease: Duration, search_path: Option<&str>) -> Vec<Setting> {
    let (lease_ms, half_ms) = (lease.as_millis().to_string(), (lease.as_millis() / 2).to_string());
    let mut settings = vec![
        Setting::new(
            "default_transaction_isolation",
            ["read committed"],
            "a statement has to see what was committed before it began",
        ),
        // A process that freezes within a transaction must not hold its locks for hours, and no
        // statement waits for a lock longer than a lease.
        Setting::new(
            "idle_in_transaction_session_timeout",
            [&half_ms],
            "an instance that is frozen in a transaction would keep its locks",
        ),
        Setting::new(
            "lock_timeout",
            [&lease_ms],
            "no statement may wait for a lock longer than a lease",
        ),
        Setting::new("statement_timeout", ["0"], "the server would cancel statements of ours"),
        Setting::new("transaction_timeout", ["0"], "the server would end transactions of ours")
            .if_known(),
        Setting::new("idle_session_timeout", ["0"], "the server would end sessions of ours")
            .if_known(),
        Setting::new("exit_on_error", ["off"], "a duplicate would end its session").if_known(),
        // An acknowledged write is durable. The administrator may choose a weaker level than `on`
        // that still waits for the server's own disk.
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
        // A table that is used as a queue may be empty when it is analysed and full when it is
        // read. With such statistics the planner would scan the whole table, or sort rows that an
        // index has in order. Both are disabled; a statement without an index still scans. JIT
        // compilation is chosen by the same estimates, and takes longer than any statement here.
        Setting::new("enable_seqscan", ["off"], "tables would be read as a whole for each batch"),
        Setting::new("enable_bitmapscan", ["off"], "lists would be sorted again for each page"),
        Setting::new("jit", ["off"], "statements would be compiled for longer than they run")
            .if_known(),
        Setting::new("TimeZone", ["UTC", "Etc/UTC"], "times are compared in UTC"),
        Setting::new("DateStyle", ["ISO, MDY"], "times are read in one form"),
        Setting::new("client_encoding", ["UTF8", "UNICODE"], "texts are sent in UTF-8"),
        Setting::new("standard_conforming_strings", ["on"], "texts are written in standard SQL"),
        Setting::new("bytea_output", ["hex"], "bytes are read in one form").if_known(),
        // It does not exist for a Unix socket.
        Setting::new("tcp_user_timeout", [&lease_ms], "a dead connection would keep its locks")
            .preferred(),
    ];
    if let Some(path) = search_path {
        let why = "the URL says so, and other tables would be used";
        settings.push(Setting::new("search_path", [path], why));
    }
    settings
}

/// All settings that may be required on MySQL or MariaDB, and those that distinguish the two.
pub(super) fn names_of_mysql() -> Vec<&'static str> {
    let mut names = vec!["log_bin", IDLE_TRANSACTION];
    // Once without and once with what distinguishes the servers.
    let shown_by_mariadb =
        [IDLE_TRANSACTION, "log_bin"].map(|name| (name.to_owned(), "ON".to_owned()));
    for shown in [Shown::new(), shown_by_mariadb.into()] {
        let settings = of_mysql(Duration::from_secs(1), &shown);
        names.extend(settings.iter().map(|setting| setting.name));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Only MariaDB has a limit for an idle transaction; MySQL has one for an idle session.
const IDLE_TRANSACTION: &str = "idle_transaction_timeout";

/// Texts are stored unchanged and never truncated, and SQL is parsed in one way.
const SQL_MODE: &str =
    "PIPES_AS_CONCAT,STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION";

/// The servers' default limit of an idle session, where the limit does not matter.
const IDLE_SESSION_S: &str = "28800";

/// The settings of MariaDB or MySQL. The settings that the session has show which of them it is.
pub(super) fn of_mysql(lease: Duration, shown: &Shown) -> Vec<Setting> {
    let lease_s = lease.as_secs().max(1).to_string();
    let half_s = idle_limit_of_mysql(lease).as_secs().to_string();
    let isolation = "a statement has to see what was committed before it began";
    let no_limit = "the server would cancel statements of ours";
    let frozen = "an instance that is frozen in a transaction would keep its locks";
    let encoding = "texts are sent in UTF-8";
    let mut settings = vec![
        Setting::new("autocommit", ["ON"], "a statement by itself has to be committed by itself"),
        Setting::new("completion_type", ["NO_CHAIN"], "a commit has to end its transaction"),
        // `tx_isolation` is its name on MariaDB before 11.1.
        Setting::new("tx_isolation", ["READ-COMMITTED"], isolation).if_known(),
        Setting::new("transaction_isolation", ["READ-COMMITTED"], isolation).if_known(),
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
        Setting::new("character_set_client", ["utf8mb4"], encoding),
        Setting::new("character_set_results", ["utf8mb4"], encoding),
        Setting::new("character_set_connection", ["utf8mb4"], encoding),
        // Any collation would do, as columns have their own, but it must be the same everywhere.
        Setting::new("collation_connection", ["utf8mb4_general_ci"], "texts are compared alike"),
        Setting::new("max_statement_time", ["0.000000"], no_limit).if_known(),
        Setting::new("max_execution_time", ["0"], no_limit).if_known(),
        Setting::new(
            "innodb_lock_wait_timeout",
            [&lease_s],
            "no statement may wait for a lock longer than a lease",
        ),
        Setting::new(
            "lock_wait_timeout",
            [&lease_s],
            "no statement may wait for a lock longer than a lease",
        ),
    ];
    if shown.contains_key(IDLE_TRANSACTION) {
        settings.extend([
            Setting::new(IDLE_TRANSACTION, [&half_s], frozen),
            // These take precedence over it where they are not zero.
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

/// The limit of an idle session on MySQL, within a transaction or not: half a lease.
pub(super) fn idle_limit_of_mysql(lease: Duration) -> Duration {
    Duration::from_secs(lease.as_secs().div_ceil(2).max(1))
}

/// The pragmas that `sqlite` sets, each with its allowed values and the reason.
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
        let reordered =
            "NO_ENGINE_SUBSTITUTION,STRICT_ALL_TABLES,STRICT_TRANS_TABLES,PIPES_AS_CONCAT";
        assert!(mode.holds(&shown(&[("sql_mode", reordered)])));
        for other in ["", "STRICT_TRANS_TABLES", &format!("{reordered},EMPTY_STRING_IS_NULL")] {
            assert!(mode.is_to_set(&shown(&[("sql_mode", other)])), "{other}");
        }
        assert!(find(&settings, "autocommit").holds(&shown(&[("autocommit", "on")])));
    }

    #[test]
    fn a_setting_that_a_server_lacks_is_not_set_and_is_required_only_if_always_needed() {
        let settings = of_postgres(LEASE, None);
        let none = Shown::new();
        assert!(find(&settings, "lock_timeout").is_violated(&none));
        assert!(!find(&settings, "idle_session_timeout").is_violated(&none));
        assert!(settings.iter().all(|setting| !setting.is_to_set(&none)));
        let socket = shown(&[("tcp_user_timeout", "0")]);
        let wish = find(&settings, "tcp_user_timeout");
        assert!(wish.is_to_set(&socket) && !wish.is_violated(&socket));
    }

    #[test]
    fn any_durable_level_of_commit_is_allowed_and_no_other() {
        let settings = of_postgres(LEASE, None);
        let commit = find(&settings, "synchronous_commit");
        for (value, is_allowed) in
            [("on", true), ("local", true), ("remote_apply", true), ("off", false)]
        {
            assert_eq!(
                commit.holds(&shown(&[("synchronous_commit", value)])),
                is_allowed,
                "{value}"
            );
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
    fn the_format_of_the_binary_log_is_required_only_if_there_is_one() {
        let format = |log: &str| {
            let settings = of_mysql(LEASE, &shown(&[("log_bin", log)]));
            settings.iter().any(|setting| setting.name == "binlog_format")
        };
        assert!(format("ON") && !format("OFF"));
        assert!(names_of_mysql().contains(&"binlog_format"));
    }
}
