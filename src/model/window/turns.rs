//! Whose turn it is among the lists that have due jobs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::list::List;
use super::places::Key;

/// One of so many turns goes to what has waited long.
pub(super) const TURNS: u32 = 4;

/// The lists whose first jobs are due, in the order of their turns.
///
/// A list has an entry in `by_priority`, and one in `by_age` if its first job has waited for
/// `aging_ms`. An entry for a job that is not the first of its list any more is ignored.
pub(super) struct Turns<'a> {
    lists: Vec<&'a mut List>,
    by_priority: BinaryHeap<Reverse<(i16, Key, usize)>>,
    by_age: BinaryHeap<Reverse<(Key, usize)>>,
    now_ms: i64,
    aging_ms: i64,
    current: usize,
}

impl<'a> Turns<'a> {
    pub(super) fn new(lists: Vec<&'a mut List>, now_ms: i64, aging_ms: i64) -> Self {
        let (by_priority, by_age) = Default::default();
        let mut turns = Self { lists, by_priority, by_age, now_ms, aging_ms, current: 0 };
        for list in 0..turns.lists.len() {
            turns.enter(list);
        }
        turns
    }

    /// The list whose turn it is. With `prefers_age`, the one whose first job is due earliest of
    /// those that have waited long, if there are any.
    pub(super) fn next(&mut self, prefers_age: bool) -> Option<&mut List> {
        if prefers_age {
            while let Some(&Reverse((key, list))) = self.by_age.peek() {
                if self.is_first(list, key) {
                    return self.at(list);
                }
                self.by_age.pop();
            }
        }
        while let Some(&Reverse((_, key, list))) = self.by_priority.peek() {
            if self.is_first(list, key) {
                return self.at(list);
            }
            self.by_priority.pop();
        }
        None
    }

    /// The first job of that list was taken or put aside.
    pub(super) fn head_changed(&mut self) {
        self.enter(self.current);
    }

    /// Nothing more of that list is to be taken.
    pub(super) fn leave_out(&mut self) {
        let list = self.current;
        self.by_priority.retain(|Reverse((_, _, other))| *other != list);
        self.by_age.retain(|Reverse((_, other))| *other != list);
    }

    fn at(&mut self, list: usize) -> Option<&mut List> {
        self.current = list;
        self.lists.get_mut(list).map(|list| &mut **list)
    }

    fn is_first(&self, list: usize, key: Key) -> bool {
        self.lists[list].head().is_some_and(|head| head.key() == key)
    }

    fn enter(&mut self, list: usize) {
        let of = &self.lists[list];
        let Some(head) = of.head().filter(|head| head.due_ms <= self.now_ms) else { return };
        let key = head.key();
        self.by_priority.push(Reverse((of.priority.rank(), key, list)));
        if self.now_ms.saturating_sub(head.ready_ms()) >= self.aging_ms {
            self.by_age.push(Reverse((key, list)));
        }
    }
}
