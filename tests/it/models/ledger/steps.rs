//! The possible steps from a state, and the states that they lead to.

use super::*;

impl Ledger {
    pub(super) fn actions_of(&self, state: &State, reader: usize, actions: &mut Vec<Action>) {
        use Action::*;
        let Reader { believes, phase, .. } = state.readers[reader];
        let is_assigned = state.assigned == Some(reader);
        if state.assigned.is_none() || (!is_assigned && state.rebalances > 0) {
            actions.push(Assign(reader));
        }
        if !believes {
            return;
        }
        let fault = state.faults > 0;
        let free = !state.locked() || !self.guards.claim_waits;
        if fault {
            actions.extend([Crash(reader), Restart(reader)]);
        }
        if !is_assigned {
            actions.push(Learn(reader));
        }
        match phase {
            Phase::Out => actions.push(Find(reader)),
            Phase::Found { .. } if free && (is_assigned || state.zombie_claims > 0) => {
                actions.push(Claim(reader, Answer::Arrives));
                if fault {
                    actions.push(Claim(reader, Answer::IsLost));
                }
            }
            Phase::Claimed { .. } => actions.push(ReadRow(reader)),
            Phase::Reading { token, next } => {
                actions.extend((next + 1..=state.end).map(|upto| Send(reader, upto)));
                // Only a row that was set by hand needs it; there are fewer states that way.
                let was_moved = self.seeks > state.seeks && state.tables.reader != token;
                if was_moved && self.guards.readers_look_around {
                    actions.push(LookAround(reader));
                }
            }
            Phase::Writing { .. } if state.awaits(reader).is_none() => {
                actions.push(InsertLate(reader));
            }
            Phase::Writing { .. } if fault => actions.push(LoseConnection(reader)),
            Phase::Fenced { .. } => actions.push(SeeRow(reader)),
            Phase::InDoubt { .. } if free => {
                actions.push(Reclaim(reader, Answer::Arrives));
                if fault && self.guards.reclaim_after_outage {
                    actions.push(Reclaim(reader, Answer::IsLost));
                }
            }
            Phase::Reclaimed { .. } => actions.push(ReadReclaimed(reader)),
            _ => {}
        }
    }

    pub(super) fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::Append => state.end += 1,
            Action::Failover => self.fail_over(state),
            Action::Seek => seek(state),
            Action::Assign(reader) => {
                state.rebalances -= u8::from(state.assigned.is_some());
                state.assigned = Some(reader);
                state.readers[reader].believes = true;
                state.leave(reader);
            }
            Action::Learn(reader) => {
                state.readers[reader].believes = false;
                state.leave(reader);
            }
            Action::Crash(reader) => {
                state.faults -= 1;
                state.leave(reader);
                state.readers[reader] = Reader::default();
                state.assigned = state.assigned.filter(|assigned| *assigned != reader);
            }
            Action::Restart(reader) => {
                state.faults -= 1;
                state.leave(reader);
            }
            Action::Find(reader) => {
                // What is not to be used is not noted: there are fewer states that way.
                let Guards { read_row_after_claim, read_end_after_claim, .. } = self.guards;
                let next = if read_row_after_claim { 0 } else { state.tables.next };
                let end = if read_end_after_claim { 0 } else { state.end };
                state.readers[reader].phase = Phase::Found { next, end };
            }
            Action::Claim(reader, answer) => self.claim(state, reader, answer),
            Action::ReadRow(reader) => self.read_row(state, reader),
            Action::Send(reader, upto) => self.send(state, reader, upto),
            Action::LoseConnection(reader) => {
                state.faults -= 1;
                state.orphan_batches_of(reader);
                doubt(&mut state.readers[reader]);
            }
            Action::Lock(place) => self.lock(state, place),
            Action::Commit(place) => self.commit(state, place),
            Action::Abort(place) => drop(state.batches.remove(place)),
            Action::InsertLate(reader) => {
                let Phase::Writing { token, next } = state.readers[reader].phase else { return };
                let upto = state.tables.next;
                let batch = Batch { expected: next, ..batch(reader, token, next, upto) };
                state.commit(|tables| tables.decide(&batch, &self.guards));
                state.readers[reader].phase = Phase::Reading { token, next: upto };
            }
            Action::SeeRow(reader) => {
                let Phase::Fenced { token } = state.readers[reader].phase else { return };
                let next = state.tables.next;
                let ours = state.tables.reader == token;
                state.readers[reader].phase =
                    if ours { Phase::Reading { token, next } } else { Phase::Out };
            }
            Action::LookAround(reader) => state.leave(reader),
            Action::Reclaim(reader, answer) => self.reclaim(state, reader, answer),
            Action::ReadReclaimed(reader) => {
                let Phase::Reclaimed { old, token, next } = state.readers[reader].phase else {
                    return;
                };
                if state.tables.reader == token {
                    state.go_on(reader, old, token, next);
                } else if self.guards.reclaim_keeps_own_token {
                    state.leave(reader);
                } else {
                    state.go_on(reader, old, state.tables.reader, next);
                }
            }
        }
    }

    /// A replica takes over that has not got the last commit; every connection breaks.
    fn fail_over(&self, state: &mut State) {
        state.failovers -= 1;
        state.tables = state.before;
        state.batches.clear();
        state.readers.iter_mut().for_each(doubt);
    }

    fn claim(&self, state: &mut State, reader: usize, answer: Answer) {
        let Phase::Found { next, end } = state.readers[reader].phase else { return };
        if state.assigned != Some(reader) {
            state.zombie_claims -= 1;
        }
        let token = state.give_token();
        state.readers[reader].phase = match answer {
            Answer::Arrives => Phase::Claimed { token, next, end },
            Answer::IsLost => Phase::Out,
        };
        state.faults -= u8::from(answer == Answer::IsLost);
    }

    fn read_row(&self, state: &mut State, reader: usize) {
        let Phase::Claimed { token, next, end } = state.readers[reader].phase else { return };
        let row = state.tables;
        let next = if self.guards.read_row_after_claim { row.next } else { next };
        let end = if self.guards.read_end_after_claim { state.end } else { end };
        if next <= end {
            state.readers[reader].phase = Phase::Reading { token, next };
            return;
        }
        // The log ends before it: it was recreated, and is read from its start.
        if (row.reader, row.next) == (token, next) && !state.locked() {
            state.commit(|tables| tables.next = 0);
            state.readers[reader].phase = Phase::Reading { token, next: 0 };
        } else {
            state.leave(reader);
        }
    }

    fn send(&self, state: &mut State, reader: usize, upto: usize) {
        let Phase::Reading { token, next } = state.readers[reader].phase else { return };
        state.readers[reader].phase = Phase::Writing { token, next };
        let memory = !self.guards.memory_only_hints;
        let told_duplicate = memory && state.readers[reader].remembers;
        state.readers[reader].remembers |= memory;
        state.batches.push(Batch { told_duplicate, ..batch(reader, token, next, upto) });
    }

    /// The first statement of the transaction: the row is locked and compared.
    fn lock(&self, state: &mut State, place: usize) {
        let Batch { token, expected, from, awaited, .. } = state.batches[place];
        let same_token = state.tables.reader == token || !self.guards.compare_token;
        let same_offset = state.tables.next == expected || !self.guards.compare_offset;
        if same_token && same_offset {
            state.batches[place].holds_row = true;
            return;
        }
        state.batches.remove(place);
        if awaited {
            state.readers[from].phase = Phase::Fenced { token };
        }
    }

    fn commit(&self, state: &mut State, place: usize) {
        let batch = state.batches.remove(place);
        state.late_commit |= state.tables.reader != batch.token;
        state.ghost_commit |= batch.given_up;
        state.commit(|tables| {
            tables.next = batch.upto;
            if self.guards.one_transaction {
                tables.decide(&batch, &self.guards);
            }
        });
        if batch.awaited && self.guards.one_transaction {
            let (token, next) = (batch.token, batch.upto);
            state.readers[batch.from].phase = Phase::Reading { token, next };
        }
    }

    fn reclaim(&self, state: &mut State, reader: usize, answer: Answer) {
        let Phase::InDoubt { token: old, next } = state.readers[reader].phase else { return };
        if state.tables.reader != old {
            return state.leave(reader);
        }
        if !self.guards.reclaim_after_outage {
            return state.go_on(reader, old, old, next);
        }
        let token = state.give_token();
        match answer {
            Answer::Arrives => {
                state.readers[reader].phase = Phase::Reclaimed { old, token, next };
            }
            // Tried again, it finds an unknown token.
            Answer::IsLost => state.faults -= 1,
        }
    }
}

/// The row gets another offset and a token that no reader has, in one statement.
fn seek(state: &mut State) {
    state.seeks -= 1;
    let token = state.fresh_token();
    state.commit(|tables| {
        *tables = Tables { reader: token, next: 0, results: Default::default(), ..*tables };
    });
}

fn batch(from: usize, token: Token, expected: usize, upto: usize) -> Batch {
    Batch {
        from,
        token,
        expected,
        upto,
        holds_row: false,
        awaited: true,
        given_up: false,
        told_duplicate: false,
    }
}

fn doubt(reader: &mut Reader) {
    if let Phase::Writing { token, next } = reader.phase {
        reader.phase = Phase::InDoubt { token, next };
    }
}
