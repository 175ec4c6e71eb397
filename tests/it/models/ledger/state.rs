//! Questions to the state of the model, and the steps that several actions share.

use super::*;

impl State {
    pub(super) fn locked(&self) -> bool {
        self.batches.iter().any(|batch| batch.holds_row)
    }

    pub(super) fn all_decided(&self) -> bool {
        self.tables.next == RECORDS
    }

    pub(super) fn commit(&mut self, change: impl FnOnce(&mut Tables)) {
        self.before = self.tables;
        change(&mut self.tables);
    }

    pub(super) fn give_token(&mut self) -> Token {
        let token = self.fresh_token();
        self.commit(|tables| tables.reader = token);
        token
    }

    pub(super) fn fresh_token(&mut self) -> Token {
        self.tokens().into_iter().max().map_or(1, |most| *most + 1)
    }

    pub(super) fn awaits(&self, reader: usize) -> Option<usize> {
        self.batches.iter().position(|batch| batch.from == reader && batch.awaited)
    }

    pub(super) fn orphan_batches_of(&mut self, reader: usize) {
        for batch in self.batches.iter_mut().filter(|batch| batch.from == reader) {
            batch.awaited = false;
        }
    }

    pub(super) fn leave(&mut self, reader: usize) {
        self.orphan_batches_of(reader);
        self.readers[reader].phase = Phase::Out;
    }

    /// What a reader does that reads the row after a batch that may or may not be committed.
    pub(super) fn go_on(&mut self, reader: usize, old: Token, token: Token, expected: usize) {
        let next = self.tables.next;
        if next == expected {
            let of_reader = |batch: &&mut Batch| batch.from == reader && batch.token == old;
            self.batches.iter_mut().filter(of_reader).for_each(|batch| batch.given_up = true);
        }
        self.readers[reader].phase = Phase::Reading { token, next };
    }

    /// Every token that is still held.
    pub(super) fn tokens(&mut self) -> Vec<&mut Token> {
        let mut tokens = vec![&mut self.tables.reader, &mut self.before.reader];
        tokens.extend(self.readers.iter_mut().flat_map(|reader| reader.phase.tokens()));
        tokens.extend(self.batches.iter_mut().map(|batch| &mut batch.token));
        tokens
    }

    /// Tokens are only ever compared: states that differ in their names alone are the same.
    pub(super) fn rename_tokens(&mut self) {
        let mut names: Vec<Token> = Vec::new();
        for token in self.tokens() {
            let known = names.iter().position(|name| name == token);
            let place = known.unwrap_or_else(|| {
                names.push(*token);
                names.len() - 1
            });
            *token = Token::try_from(place).expect("few tokens");
        }
    }
}

impl Phase {
    pub(super) fn tokens(&mut self) -> Vec<&mut Token> {
        match self {
            Self::Out | Self::Found { .. } => Vec::new(),
            Self::Claimed { token, .. }
            | Self::Reading { token, .. }
            | Self::Writing { token, .. }
            | Self::Fenced { token }
            | Self::InDoubt { token, .. } => vec![token],
            Self::Reclaimed { old, token, .. } => vec![old, token],
        }
    }
}

impl Tables {
    /// What a batch's records become.
    pub(super) fn decide(&mut self, batch: &Batch, guards: &Guards) {
        for record in batch.expected..batch.upto {
            let results = &mut self.results[record];
            if record == 1 {
                results.letters += 1;
            } else if batch.told_duplicate || (self.key && guards.unique_key) {
                results.duplicates += 1;
            } else {
                results.jobs += 1;
                self.key = true;
            }
        }
    }
}
