//! Classifies the error numbers of MySQL and MariaDB.
//!
//! Their SQLSTATE is not specific enough: `HY000` covers a violated check constraint, a full disk
//! and a lock that was not granted. So every number that our statements can cause is listed. Other
//! numbers are classified by their SQLSTATE, and if that is not conclusive either, as
//! [`Error::Unclear`].

use super::Error;

/// The variant of [`Error`] for a number.
pub(super) type Kind = fn(String) -> Error;

/// The numbers of each variant, in the order of the servers' documentation.
const KINDS: [(Kind, &[u16]); 7] = [
    (
        Error::Refused,
        &[
            1048, // a column cannot be null
            1118, // the row is too large for its table
            1216, 1217, // a foreign key
            1264, 1265, // a value out of range, or cut
            1292, // a value of the wrong form
            1300, // a text that is not of its character set
            1364, // a column without a default
            1366, 1367, // a value that the column cannot hold
            1369, // the check option of a view
            1406, // a text that is too long
            1411, // a value of the wrong form for a function
            1451, 1452, // a foreign key
            1526, // the value belongs to no partition of the table
            1690, // a value out of range
            1713, // the undo record is too large
            1748, // the row is not of this partition
            3140, 3141, 3157, // invalid or too deeply nested JSON
            3819, // MySQL: a check constraint
            4025, // MariaDB: a check constraint
        ],
    ),
    (
        Error::Raced,
        &[
            1022, 1062, 1169, 1586, 1761, 1762, // a unique key
            1213, 1614, // a deadlock
        ],
    ),
    (
        Error::ReadOnly,
        &[
            1036, // the table is read only
            1290, // an option prevents the statement: here that is read_only
            1792, // the transaction is read only
            1836, // the server is in read-only mode
            1881, // InnoDB is in read-only mode
        ],
    ),
    (
        Error::Setting,
        &[
            1104, 1175, // sql_big_selects, sql_safe_updates
            1243, 1615, // a prepared statement that is unknown, or must be prepared again
            1665, // binlog_format
            1969, 3024, // the limits of a statement's time
        ],
    ),
    (
        Error::Unusable,
        &[
            1044, 1045, 1049, 1698, // the database does not exist, or access is denied
            1054, 1072, 1146, 1176, // a column, table or index does not exist
            1064, 1193, 1235, // a statement or variable that this server does not support
            1115, 1273, 1286, 3161, // an unknown character set, collation or engine
            1130, 1141, 1142, 1143, 1227, 1370, // a missing permission
            1251, 1524, // an authentication method that server or client does not support
            1820, 1862, 3118, 4151, // an expired password, a locked account
            3159, // only connections with TLS are accepted
            3750, // every table must have a primary key
        ],
    ),
    (
        Error::Unavailable,
        &[
            1020, // the row was changed by others since it was read
            1021, 1026, 1114, // the disk or the tablespace is full
            1030, 1034, 1194, 1195, 1712,
            1815, // the storage engine failed, a table is corrupt
            1037, 1038, 1041, 1135, // no memory, no thread
            1040, 1042, 1043, 1129, 1203, 1226, // no connection is available
            1047, // a node of a cluster that is not ready
            1050, 1060, 1061, 1091, // another instance altered a table first
            1053, 1077, 1079, 1080, // the server is shutting down
            1099, 1100, 1205, 1206, 1223, 1689, 3572, // a lock that was not granted
            1152, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161,
            1184, // the connection broke
            1180, 1181, // a commit or rollback failed
            1317, 1927, 3169, // the statement or the session was killed
            1412, // the table was altered during the transaction
            1461, // too many prepared statements
            1637, // too many transactions
            3058, // a deadlock of named locks
            3098, 3100, 3101, // the replication group was not ready, or rolled it back
            3168, 3170, // a service of the server or memory is missing
            3955, // too many wrong passwords: the account is locked for a time
            4031, // the session was idle for too long
        ],
    ),
    (
        too_large,
        &[1153], // the packet is larger than max_allowed_packet
    ),
];

/// Not [`Error::Refused`]: a batch that is too large is divided by its caller, and the dead letter
/// of a single row that is too large would be too large as well.
fn too_large(text: String) -> Error {
    let way_out = "raise max_allowed_packet on the server, or lower ingest.max_record_bytes";
    Error::Unavailable(format!("{text}: {way_out}"))
}

/// The variant for `number`, if it is listed.
pub(super) fn by_number(number: u16) -> Option<Kind> {
    let listed = KINDS.iter().find(|(_, numbers)| numbers.contains(&number));
    listed.map(|(kind, _)| *kind)
}

/// The variant for an SQLSTATE, for numbers that are not listed.
pub(super) fn by_state(state: &str) -> Kind {
    match state {
        // A trigger chooses the SQLSTATE of the errors that it raises.
        "HY000" | "45000" | "44000" | "42000" | "01000" | "02000" => Error::Unclear,
        "40001" => Error::Raced,
        "25006" => Error::ReadOnly,
        _ if state.starts_with("28") => Error::Unusable,
        _ if state.starts_with("22") || state.starts_with("23") => Error::Refused,
        _ => Error::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::kind;
    use super::*;

    #[test]
    fn what_is_too_much_at_once_says_the_way_out() {
        let kind = by_number(1153).expect("it is listed");
        let said = kind("Got a packet bigger than 'max_allowed_packet' bytes".into()).to_string();
        for way_out in ["raise max_allowed_packet", "lower ingest.max_record_bytes"] {
            assert!(said.contains(way_out), "{said}");
        }
    }

    #[test]
    fn a_number_means_one_thing() {
        let mut all: Vec<u16> = KINDS.iter().flat_map(|(_, numbers)| *numbers).copied().collect();
        all.sort_unstable();
        let twice: Vec<_> = all.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    #[test]
    fn each_number_is_what_its_caller_has_to_do() {
        // With the SQLSTATE that the servers return for it, which must not be used.
        for (number, state, expected) in [
            (3819, "HY000", "refused"),
            (4025, "23000", "refused"),
            (1364, "HY000", "refused"),
            (1366, "HY000", "refused"),
            (1406, "22001", "refused"),
            (1118, "42000", "refused"),
            (1153, "08S01", "unavailable"),
            (1062, "23000", "raced"),
            (1213, "40001", "raced"),
            (1614, "XA102", "raced"),
            (1290, "HY000", "read-only"),
            (1036, "HY000", "read-only"),
            (1792, "25006", "read-only"),
            (1881, "HY000", "read-only"),
            (1665, "HY000", "setting"),
            (3024, "HY000", "setting"),
            (1044, "42000", "unusable"),
            (1045, "28000", "unusable"),
            (1049, "42000", "unusable"),
            (1054, "42S22", "unusable"),
            (1130, "HY000", "unusable"),
            (1142, "42000", "unusable"),
            (1146, "42S02", "unusable"),
            (3118, "HY000", "unusable"),
            (3159, "HY000", "unusable"),
            (1020, "HY000", "unavailable"),
            (1021, "HY000", "unavailable"),
            (1030, "HY000", "unavailable"),
            (1040, "08004", "unavailable"),
            (1041, "HY000", "unavailable"),
            (1047, "08S01", "unavailable"),
            (1053, "08S01", "unavailable"),
            (1114, "HY000", "unavailable"),
            (1180, "HY000", "unavailable"),
            (1203, "42000", "unavailable"),
            (1205, "HY000", "unavailable"),
            (1206, "HY000", "unavailable"),
            (1226, "42000", "unavailable"),
            (1317, "70100", "unavailable"),
            (1461, "42000", "unavailable"),
            (3101, "HY000", "unavailable"),
            (3572, "HY000", "unavailable"),
            (4031, "HY000", "unavailable"),
            // Not listed: what a trigger raises, something new, a trigger's own state.
            (1644, "45000", "unclear"),
            (1785, "HY000", "unclear"),
            (9999, "HY000", "unclear"),
            (9999, "22007", "refused"),
            (9999, "23000", "refused"),
            (9999, "28000", "unusable"),
            (9999, "40001", "raced"),
            (9999, "08S01", "unavailable"),
            (9999, "70100", "unavailable"),
        ] {
            let of = by_number(number).unwrap_or_else(|| by_state(state));
            assert_eq!(kind(&of("as it said".into())), expected, "{number} {state}");
        }
    }
}
