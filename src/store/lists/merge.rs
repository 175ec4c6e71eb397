//! Merges several lists of the database into one order, reading places of each as they are needed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;

use sea_orm::{DbErr, QueryResult};

use crate::store::{Driver, Result, Store};

/// Lists that one statement reads. SQLite allows 500 parts of a union.
const LISTS_AT_ONCE: usize = 200;
/// Places that are read of one list at once, at least and at most.
const AT_ONCE: (usize, usize) = (4, 500);

/// One of the lists that are merged.
pub(super) trait Listed: Copy {
    /// A place in the order of the lists.
    type Place: Copy + Ord + fmt::Debug;

    /// The place of a row, in its columns from the second one on.
    fn place(row: &QueryResult) -> Result<Self::Place, DbErr>;

    /// The statement that reads the next places of each of the lists until `last_ms`: the list's
    /// index, time and id.
    fn sql(driver: &Driver, lists: &[&mut List<Self>], last_ms: i64) -> String;
}

/// What is known of a list.
#[derive(Debug)]
pub(super) struct List<L: Listed> {
    pub(super) listed: L,
    /// The last place that was read.
    pub(super) after: L::Place,
    places: VecDeque<L::Place>,
    /// Places that are read next.
    pub(super) at_once: usize,
    is_at_end: bool,
}

/// The lists as one. It holds places only, so that it is small however large the rows are.
#[derive(Debug)]
pub(super) struct Merge<L: Listed> {
    lists: Vec<List<L>>,
    last_ms: i64,
}

impl<L: Listed> Merge<L> {
    /// The lists after the place `after` and until `last_ms`, of which about `expected` places are
    /// wanted.
    pub(super) fn new(lists: Vec<L>, after: L::Place, last_ms: i64, expected: usize) -> Self {
        let (least, most) = AT_ONCE;
        let at_once = (2 * expected).checked_div(lists.len()).unwrap_or(0).clamp(least, most);
        let list =
            |listed| List { listed, after, places: VecDeque::new(), at_once, is_at_end: false };
        Self { lists: lists.into_iter().map(list).collect(), last_ms }
    }

    /// The next `count` places in order; fewer at the end.
    pub(super) async fn next(&mut self, store: &Store, count: usize) -> Result<Vec<L::Place>> {
        let mut found = Vec::with_capacity(count);
        loop {
            self.fill(store).await?;
            let firsts = self.lists.iter().enumerate();
            let firsts = firsts.filter_map(|(at, list)| Some(Reverse((*list.places.front()?, at))));
            let mut firsts: BinaryHeap<Reverse<(L::Place, usize)>> = firsts.collect();
            loop {
                if found.len() == count {
                    return Ok(found);
                }
                let Some(Reverse((place, at))) = firsts.pop() else { return Ok(found) };
                let list = &mut self.lists[at];
                list.places.pop_front();
                found.push(place);
                match list.places.front() {
                    Some(next) => firsts.push(Reverse((*next, at))),
                    None if list.is_at_end => {}
                    // What follows in this list may come before the firsts of the others.
                    None => break,
                }
            }
        }
    }

    /// Whether there is a further place.
    pub(super) async fn has_more(&mut self, store: &Store) -> Result<bool> {
        self.fill(store).await?;
        Ok(self.lists.iter().any(|list| !list.places.is_empty()))
    }

    /// Reads places of every list of which none is known and which has not ended.
    async fn fill(&mut self, store: &Store) -> Result<()> {
        let mut empty: Vec<&mut List<L>> = self
            .lists
            .iter_mut()
            .filter(|list| list.places.is_empty() && !list.is_at_end)
            .collect();
        for lists in empty.chunks_mut(LISTS_AT_ONCE) {
            let sql = L::sql(&store.inner.driver, lists, self.last_ms);
            for row in store.query(&sql).await? {
                let at: i64 = match store.inner.driver {
                    Driver::Postgres(_) => i64::from(row.try_get_by_index::<i32>(0)?),
                    Driver::MySql(_) | Driver::Sqlite(_) => row.try_get_by_index(0)?,
                };
                if let Some(list) = usize::try_from(at).ok().and_then(|at| lists.get_mut(at)) {
                    list.places.push_back(L::place(&row)?);
                }
            }
            for list in lists {
                list.take_stock();
            }
        }
        Ok(())
    }
}

impl<L: Listed> List<L> {
    /// The places of the list were read.
    fn take_stock(&mut self) {
        // The two parts of a read on MySQL each have the limit.
        self.places.make_contiguous().sort_unstable();
        self.is_at_end = self.places.len() < self.at_once;
        self.places.truncate(self.at_once);
        self.after = self.places.back().copied().unwrap_or(self.after);
        self.at_once = (self.at_once * 2).min(AT_ONCE.1);
    }
}
