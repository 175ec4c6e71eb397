//! Admission: one batch becomes rows, and what it came from moves on, in one transaction.
//!
//! Every batch is first written as if nothing in it were known: the unique keys say so if
//! that is wrong, and the whole transaction is undone. Then what is there already is
//! read, the batch is judged by it, and written again. So a duplicate is decided by the
//! database and by nothing else, and a batch without duplicates pays for no look-up.

mod batch;
mod beside;
mod halves;
mod known;
pub(super) mod mysql;
mod plan;
pub(super) mod postgres;
pub(super) mod sqlite;

use std::sync::Arc;

use super::{Error, Hot, Result, Store};

pub use batch::{
    Admitted, Advance, Batch, BatchSource, Decision, Entry, PlacedCandidate, Taken, Wait,
};
pub use plan::Names;

use known::Known;
use plan::Plan;

/// How often a batch is judged anew because others admit the same names at the same time.
const RACES: usize = 8;

impl Store {
    /// Admits a batch, all of it or nothing. A row that the database itself refuses is
    /// found by halving and becomes a dead letter; the rest goes in.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was committed, as its answer may be
    /// lost; the ledger row tells. [`Error::Refused`] only for a batch without records.
    pub async fn admit(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        match self.admit_whole(batch).await {
            Err(Error::Refused(cause)) if batch.source.ledger().is_some() => {
                Box::pin(self.admit_halves(batch, cause)).await
            }
            Err(Error::Unclear(cause)) => Box::pin(self.admit_unclear(batch, cause)).await,
            result => result,
        }
    }

    /// What [`admit`](Self::admit) would say just now, if what was foreseen with the same
    /// `names` had been admitted before. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn foresee(&self, batch: &Batch, names: &mut Names) -> Result<Vec<Decision>> {
        Ok(Plan::after(names, batch, &self.known(batch).await?).decisions)
    }

    async fn admit_whole(&self, batch: &Arc<Batch>) -> Result<Admitted> {
        let mut known = match batch.read_first {
            true => self.known(batch).await?,
            false => Known::default(),
        };
        for _ in 0..RACES {
            let plan = Plan::of(batch, &known);
            match self.write(batch, plan).await {
                Err(Error::Raced(_)) => known = self.known(batch).await?,
                result => return result,
            }
        }
        Err(Error::Unavailable("others admit the same names at the same time".into()))
    }

    /// Inserts the batch's jobs and keys, and takes them back.
    ///
    /// # Errors
    /// What the database says about them.
    async fn insert_in_vain(&self, batch: &Batch) -> Result<()> {
        let plan = Plan::of(batch, &Known::default());
        match &self.inner.hot {
            Hot::Postgres(pool) => postgres::insert_in_vain(pool, batch, &plan).await,
            Hot::MySql(pool) => mysql::insert_in_vain(pool, batch, &plan).await,
            // Its errors are clear.
            Hot::Sqlite(_) => Ok(()),
        }
    }

    async fn write(&self, batch: &Arc<Batch>, plan: Plan) -> Result<Admitted> {
        if plan.is_a_refusal(batch) {
            return Ok(Admitted::Done(plan.decisions));
        }
        match &self.inner.hot {
            Hot::Postgres(pool) if plan.is_plain() => {
                postgres::write_plain(pool, batch, plan).await
            }
            Hot::Postgres(pool) => postgres::write(pool, batch, plan).await,
            Hot::MySql(pool) => mysql::write(pool, batch, plan).await,
            Hot::Sqlite(sqlite) => {
                let batch = batch.clone();
                let done = |admitted: &Admitted| matches!(admitted, Admitted::Done(_));
                let write = move |connection: &_| sqlite::write(connection, &batch, &plan);
                sqlite.write_if(done, write).await
            }
        }
    }
}
