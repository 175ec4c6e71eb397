//! The ingest ledger as a model: one partition, readers that start, leave, hang and die, and a
//! database that may fail over to a replica which lacks the last commit. A person may set
//! the row back, so that records are read again: then each is processed once since.
//!
//! Not modelled: batches that the database refuses (halving), gaps in the log, retention.

use stateright::{Model, Property};

mod guards;
mod steps;
mod state;

/// Records of the log: the last has the key of the first, the middle one is poison.
const RECORDS: usize = 3;
/// At most; each model says how many it has.
const READERS: usize = 3;

/// What the implementation does to be right. Each can be taken out.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// A batch counts only under the token of the row.
    compare_token: bool,
    /// A batch counts only if it begins at the row's offset.
    compare_offset: bool,
    /// A claim waits for a transaction that has locked the row.
    claim_waits: bool,
    /// Reading begins at the row's offset after the claim, not before it.
    read_row_after_claim: bool,
    /// The end of the log is asked for after the claim: what a row says was surely there.
    read_end_after_claim: bool,
    /// A batch without an answer is followed by a fresh token for the row.
    reclaim_after_outage: bool,
    /// A fresh token counts as ours only if the row, read afterwards, still has it.
    reclaim_keeps_own_token: bool,
    /// The offset and what becomes of its records are one transaction.
    one_transaction: bool,
    /// The unique key in the database decides what is a duplicate.
    unique_key: bool,
    /// The memory of recent keys saves queries and decides nothing.
    memory_only_hints: bool,
    /// A reader that has nothing to read notices that the row has another token.
    readers_look_around: bool,
}

const ALL: Guards = Guards {
    compare_token: true,
    compare_offset: true,
    claim_waits: true,
    read_row_after_claim: true,
    read_end_after_claim: true,
    reclaim_after_outage: true,
    reclaim_keeps_own_token: true,
    one_transaction: true,
    unique_key: true,
    memory_only_hints: true,
    readers_look_around: true,
};

/// How much may go wrong.
#[derive(Clone, Copy, Debug)]
struct Ledger {
    guards: Guards,
    readers: usize,
    /// Lost answers, aborts and crashes.
    faults: u8,
    /// Reassignments of the partition from a reader that still reads.
    rebalances: u8,
    /// Claims by readers that do not know yet that the partition is not theirs.
    zombie_claims: u8,
    /// Returns of the database to where it was one commit ago.
    failovers: u8,
    /// Moves of the row back to the start, by hand.
    seeks: u8,
}

type Token = u8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Results {
    jobs: u8,
    duplicates: u8,
    letters: u8,
}

impl Results {
    fn total(self) -> u8 {
        self.jobs + self.duplicates + self.letters
    }
}

/// What is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Tables {
    reader: Token,
    next: usize,
    results: [Results; RECORDS],
    key: bool,
}

/// A batch, as the database sees it: it may outlive its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Batch {
    from: usize,
    token: Token,
    expected: usize,
    upto: usize,
    /// The row is locked and compared.
    holds_row: bool,
    /// A reader waits for the answer.
    awaited: bool,
    /// Its sender has concluded that it was not written.
    given_up: bool,
    /// The memory of recent keys called the key known.
    told_duplicate: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Out,
    /// The row was found; these were seen before the claim.
    Found {
        next: usize,
        end: usize,
    },
    /// The row has our token; it is to be read.
    Claimed {
        token: Token,
        next: usize,
        end: usize,
    },
    Reading {
        token: Token,
        next: usize,
    },
    Writing {
        token: Token,
        next: usize,
    },
    /// The row was not as the batch expected.
    Fenced {
        token: Token,
    },
    /// The batch has no answer.
    InDoubt {
        token: Token,
        next: usize,
    },
    /// The row got a fresh token after that; it is to be read.
    Reclaimed {
        old: Token,
        token: Token,
        next: usize,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    /// It has not learned that the partition was reassigned.
    believes: bool,
    phase: Phase,
    /// The key is in its memory of recent keys.
    remembers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tables: Tables,
    /// One commit ago.
    before: Tables,
    batches: Vec<Batch>,
    readers: [Reader; READERS],
    /// Whose the partition is, as the group sees it.
    assigned: Option<usize>,
    /// The end of the log.
    end: usize,
    faults: u8,
    rebalances: u8,
    zombie_claims: u8,
    failovers: u8,
    seeks: u8,
    /// A batch changed something though another token had been given to the row.
    late_commit: bool,
    /// A batch was written that its sender had given up.
    ghost_commit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append,
    Assign(usize),
    Learn(usize),
    Crash(usize),
    /// The actor panicked; its batch goes on.
    Restart(usize),
    Find(usize),
    Claim(usize, Answer),
    ReadRow(usize),
    Send(usize, usize),
    LoseConnection(usize),
    Lock(usize),
    Commit(usize),
    Abort(usize),
    InsertLate(usize),
    SeeRow(usize),
    LookAround(usize),
    Reclaim(usize, Answer),
    ReadReclaimed(usize),
    Failover,
    Seek,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Arrives,
    IsLost,
}

impl Model for Ledger {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tables: Tables::default(),
            before: Tables::default(),
            batches: Vec::new(),
            readers: Default::default(),
            assigned: None,
            end: RECORDS - 1,
            faults: self.faults,
            rebalances: self.rebalances,
            zombie_claims: self.zombie_claims,
            failovers: self.failovers,
            seeks: self.seeks,
            late_commit: false,
            ghost_commit: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        use Action::*;
        if state.end < RECORDS {
            actions.push(Append);
        }
        // What a failover undid is noticed with the next record, not before.
        if state.failovers > 0 && state.before != state.tables && state.end < RECORDS {
            actions.push(Failover);
        }
        let free = !state.locked() || !self.guards.claim_waits;
        if state.seeks > 0 && state.tables.next > 0 && free {
            actions.push(Seek);
        }
        for reader in 0..self.readers {
            self.actions_of(state, reader, actions);
        }
        for (place, batch) in state.batches.iter().enumerate() {
            if !batch.holds_row && !state.locked() {
                actions.push(Lock(place));
            }
            if batch.holds_row {
                actions.push(Commit(place));
            }
            if !batch.awaited {
                actions.push(Abort(place));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action);
        state.batches.sort_unstable();
        if state.failovers == 0 {
            state.before = state.tables;
        }
        state.rename_tokens();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(DECIDED, |_, state: &State| {
                state.tables.results[..state.tables.next].iter().all(|results| results.total() > 0)
            }),
            Property::always(ONCE, |_, state: &State| {
                state.tables.results.iter().all(|results| results.total() <= 1)
            }),
            Property::always(NOT_AHEAD, |_, state: &State| {
                state.tables.results[state.tables.next..].iter().all(|results| results.total() == 0)
            }),
            Property::always(ONE_JOB, |_, state: &State| {
                state.tables.results.iter().map(|results| results.jobs).sum::<u8>() <= 1
            }),
            Property::always(OF_A_JOB, |_, state: &State| {
                state.tables.key
                    || state.tables.results.iter().all(|results| results.duplicates == 0)
            }),
            Property::always(LATE, |_, state: &State| !state.late_commit),
            Property::always(SHARED, |_, state: &State| {
                let of = |reader: &Reader| match reader.phase {
                    Phase::Reading { token, .. } | Phase::Writing { token, .. } => Some(token),
                    _ => None,
                };
                let held: Vec<Token> = state.readers.iter().filter_map(of).collect();
                (1..held.len()).all(|place| !held[..place].contains(&held[place]))
            }),
            Property::always(GIVEN_UP, |_, state: &State| !state.ghost_commit),
            Property::always(QUIET, |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                state.all_decided() || !actions.is_empty()
            }),
            Property::sometimes("everything is decided", |_, state: &State| state.all_decided()),
            Property::sometimes("a zombie is fenced", |_, state: &State| {
                let mut readers = state.readers.iter().enumerate();
                readers.any(|(place, reader)| {
                    matches!(reader.phase, Phase::Fenced { .. }) && state.assigned != Some(place)
                })
            }),
            Property::sometimes(
                "a commit without an answer is found",
                |model: &Self, state: &State| {
                    model.faults == 0
                        || state.readers.iter().any(|reader| match reader.phase {
                            Phase::Reclaimed { token, next, .. } => {
                                (state.tables.reader, state.tables.next) == (token, next + 1)
                            }
                            _ => false,
                        })
                },
            ),
        ]
    }
}

const DECIDED: &str = "every record below the offset was processed";
const ONCE: &str = "no record was processed twice";
const NOT_AHEAD: &str = "no record beyond the offset was processed";
const ONE_JOB: &str = "no key has two jobs";
const OF_A_JOB: &str = "a duplicate is of a job that is there";
const LATE: &str = "a commit after another claim changes nothing";
const SHARED: &str = "no two readers have the same token";
const GIVEN_UP: &str = "what was given up as unwritten is never written";
const QUIET: &str = "when all is quiet every record is decided";
