//! The packets of PostgreSQL and MariaDB, and what they show about a marked transaction.

use std::collections::VecDeque;

/// What became of the marked transaction, as far as a frame shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransactionState {
    /// Nothing; frames so far may go on.
    Open,
    /// A later frame of this answer will show it: delay this one until then.
    Undecided,
    Committed,
    RolledBack,
}

/// Follows one connection's protocol, to know when a marked transaction is committed.
///
/// It relies on a client that awaits each answer before its next request, as sqlx does.
pub(super) struct CommitWatch {
    dialect: Dialect,
    /// Set from the frame that carries it until the transaction's end.
    pub(super) marker: Option<Vec<u8>>,
    /// The marked statement was executed, not only prepared.
    executed: bool,
    /// PostgreSQL: the answer at hand brought an error or undid the transaction.
    failed: bool,
    /// MariaDB: the next frame is the first of an answer.
    answer_begins: bool,
    /// MariaDB: as its last answer says.
    in_transaction: bool,
}

impl CommitWatch {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            marker: None,
            executed: false,
            failed: false,
            answer_begins: false,
            in_transaction: false,
        }
    }

    /// `RolledBack` if the client rolls the marked transaction back.
    pub(super) fn request(&mut self, frame: &[u8]) -> TransactionState {
        let executes = self.dialect.executes(frame);
        self.executed |= executes && self.marker.is_some();
        self.answer_begins = executes;
        // PostgreSQL names a rollback in its answer.
        if self.dialect == Dialect::MySql
            && self.executed
            && starts_with_word(&frame[MYSQL_TEXT..], "ROLLBACK")
        {
            self.executed = false;
            return TransactionState::RolledBack;
        }
        TransactionState::Open
    }

    pub(super) fn answer(&mut self, frame: &[u8]) -> TransactionState {
        let state = match self.dialect {
            Dialect::Postgres => self.postgres_answer(frame),
            Dialect::MySql => self.mysql_answer(frame),
        };
        if matches!(state, TransactionState::Committed | TransactionState::RolledBack) {
            self.executed = false;
        }
        state
    }

    fn postgres_answer(&mut self, frame: &[u8]) -> TransactionState {
        if !self.executed {
            return TransactionState::Open;
        }
        match frame {
            [b'E', ..] => self.failed = true,
            [b'C', _, _, _, _, tag @ ..] if tag.starts_with(b"ROLLBACK") => self.failed = true,
            [b'Z', .., b'I'] if std::mem::take(&mut self.failed) => {
                return TransactionState::RolledBack;
            }
            [b'Z', .., b'I'] => return TransactionState::Committed,
            [b'Z', ..] => return TransactionState::Open,
            _ => {}
        }
        TransactionState::Undecided
    }

    fn mysql_answer(&mut self, frame: &[u8]) -> TransactionState {
        if !std::mem::take(&mut self.answer_begins) {
            return TransactionState::Open;
        }
        let status = match frame[MYSQL_HEADER..] {
            [MYSQL_OK, ref rest @ ..] => mysql_status(rest),
            // Within a transaction an error undoes the statement alone, unless it is a deadlock.
            [MYSQL_ERROR, low, high, ..]
                if self.executed
                    && (!self.in_transaction || [low, high] == MYSQL_DEADLOCK.to_le_bytes()) =>
            {
                return TransactionState::RolledBack;
            }
            _ => return TransactionState::Open,
        };
        self.in_transaction = status & MYSQL_IN_TRANSACTION != 0;
        self.answer_begins = status & MYSQL_MORE_RESULTS != 0;
        if self.executed && !self.in_transaction && !self.answer_begins {
            TransactionState::Committed
        } else {
            TransactionState::Open
        }
    }
}

const MYSQL_HEADER: usize = 4;
/// Where the text of a `COM_QUERY` begins.
const MYSQL_TEXT: usize = MYSQL_HEADER + 1;
const MYSQL_OK: u8 = 0x00;
const MYSQL_ERROR: u8 = 0xff;
const MYSQL_DEADLOCK: u16 = 1213;
const MYSQL_IN_TRANSACTION: u16 = 0x0001;
const MYSQL_MORE_RESULTS: u16 = 0x0008;

/// The status flags of an OK packet: they follow two integers of varying length.
fn mysql_status(mut rest: &[u8]) -> u16 {
    for _ in ["affected rows", "last insert id"] {
        let length = match rest.first() {
            Some(0xfc) => 3,
            Some(0xfd) => 4,
            Some(0xfe) => 9,
            _ => 1,
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    match rest {
        [low, high, ..] => u16::from_le_bytes([*low, *high]),
        _ => MYSQL_IN_TRANSACTION,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    MySql,
}

impl Dialect {
    pub(super) fn of(url: &str) -> Self {
        if url.starts_with("mysql:") || url.starts_with("mariadb:") {
            Self::MySql
        } else {
            Self::Postgres
        }
    }

    /// Whether a request's frame makes the server execute something: Query or Execute.
    pub(super) fn executes(self, frame: &[u8]) -> bool {
        match self {
            Self::Postgres => matches!(frame[0], b'Q' | b'E'),
            // The number 0 distinguishes a command from a step of the login.
            Self::MySql => matches!(frame, [_, _, _, 0, 0x03 | 0x17, ..]),
        }
    }
}

/// A stream's bytes, cut into the protocol's packets.
pub(super) struct Frames {
    dialect: Dialect,
    /// The first packet of a PostgreSQL client has a length, but no type before it.
    untyped: bool,
    pub(super) bytes: VecDeque<u8>,
}

impl Frames {
    pub(super) fn from_client(dialect: Dialect) -> Self {
        Self { dialect, untyped: true, bytes: VecDeque::new() }
    }

    pub(super) fn from_server(dialect: Dialect) -> Self {
        Self { dialect, untyped: false, bytes: VecDeque::new() }
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let at = |i: usize| self.bytes.get(i).copied().map(usize::from);
        let length = match self.dialect {
            Dialect::MySql => MYSQL_HEADER + (at(0)? | at(1)? << 8 | at(2)? << 16),
            Dialect::Postgres => {
                let typed = usize::from(!self.untyped);
                let length = (typed..typed + 4).try_fold(0, |sum, i| Some(sum << 8 | at(i)?))?;
                typed + length
            }
        };
        if self.bytes.len() < length {
            return None;
        }
        self.untyped = false;
        Some(self.bytes.drain(..length).collect())
    }
}

fn starts_with_word(text: &[u8], word: &str) -> bool {
    text.trim_ascii_start()
        .get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
}
