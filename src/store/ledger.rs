//! The ingest ledger: how far each partition has been read, and by whom.
//!
//! A partition's row is claimed with a fresh token, which waits for the last commit of
//! whoever held it. From then on a batch counts only under this token and only if it
//! begins where the row stands. Exactly-once ingest comes from this row alone.

use infinite_scheduler_entity::ingest_offset as row;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::steps::Step;
use super::{Error, Result, Store, audit};
use crate::model::audit::AuditEntry;
use crate::model::ids::{InstanceId, LedgerId, Offset, Partition, ReaderToken};
use crate::model::record::RawRecord;

/// Names one partition, as one consumer group reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LedgerKey {
    /// The Kafka cluster's own id.
    pub cluster: String,
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
}

/// Where a partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// The row.
    pub id: LedgerId,
    /// Who holds it.
    pub reader: ReaderToken,
    /// The first record that has no fate yet.
    pub next_offset: Offset,
    /// What the record before it looked like.
    pub last: Option<LastRecord>,
}

/// Enough of a record to notice that the topic was made again under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Its own time, epoch milliseconds; -1 if it had none.
    pub time_ms: i64,
    /// A hash of its key and value.
    pub hash: i64,
}

impl LastRecord {
    /// What to remember of `record`.
    pub fn of(record: &RawRecord) -> Self {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for part in [&record.key, &record.value] {
            hash.update([u8::from(part.is_some())]);
            hash.update(part.as_deref().unwrap_or_default());
        }
        let mut head = [0; 8];
        head.copy_from_slice(&hash.finalize()[..8]);
        Self { time_ms: record.timestamp_ms.unwrap_or(-1), hash: i64::from_be_bytes(head) }
    }
}

impl Store {
    /// The partition's row, if it was ever read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn find_ledger(&self, key: &LedgerKey) -> Result<Option<LedgerRow>> {
        let query = row::Entity::find()
            .filter(row::Column::Cluster.eq(&key.cluster))
            .filter(row::Column::ConsumerGroup.eq(&key.group))
            .filter(row::Column::Topic.eq(&key.topic))
            .filter(row::Column::Number.eq(key.partition.0));
        Ok(query.one(&self.inner.pool).await?.map(decode))
    }

    /// Writes down where reading starts, unless another instance did so before.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn open_ledger(&self, key: &LedgerKey, start: Offset) -> Result<()> {
        let new = row::ActiveModel {
            id: NotSet,
            cluster: Set(key.cluster.clone()),
            consumer_group: Set(key.group.clone()),
            topic: Set(key.topic.clone()),
            number: Set(key.partition.0),
            reader: Set(0),
            next_offset: Set(start.0),
            jobs: Set(0),
            duplicates: Set(0),
            operations: Set(0),
            dead_letters: Set(0),
            last_time_ms: Set(None),
            last_hash: Set(None),
            instance: Set(None),
            records: Set(0),
            parked: Set(0),
        };
        let _turn = self.turn().await;
        let inserted = row::Entity::insert(new).exec_without_returning(&self.inner.pool).await;
        match inserted.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes `token`, of a reader of `instance`, the only one under which batches count.
    /// Waits for a commit that is under way, so that what is read afterwards is final for
    /// everybody else.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away or that commit does not end.
    pub async fn claim_ledger(
        &self,
        ledger: LedgerId,
        token: ReaderToken,
        instance: InstanceId,
    ) -> Result<LedgerRow> {
        let _turn = self.turn().await;
        row::Entity::update_many()
            .col_expr(row::Column::Reader, token.0.into())
            .col_expr(row::Column::Instance, instance.0.into())
            .filter(row::Column::Id.eq(ledger.0))
            .exec(&self.inner.pool)
            .await?;
        self.read_ledger(ledger).await
    }

    /// Gives the row a fresh token, if it still has ours: after that, a transaction under
    /// our token whose answer was lost has ended, and the row tells how. `None`: it has
    /// another. The row goes on naming the instance that it named under our token.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away or that transaction does not end.
    pub async fn reclaim_ledger(
        &self,
        ledger: LedgerId,
        ours: ReaderToken,
        fresh: ReaderToken,
    ) -> Result<Option<LedgerRow>> {
        let _turn = self.turn().await;
        let claimed = row::Entity::update_many()
            .col_expr(row::Column::Reader, fresh.0.into())
            .filter(row::Column::Id.eq(ledger.0))
            .filter(row::Column::Reader.eq(ours.0))
            .exec(&self.inner.pool)
            .await?;
        if claimed.rows_affected != 1 {
            return Ok(None);
        }
        Ok(Some(self.read_ledger(ledger).await?))
    }

    /// The row as it stands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn read_ledger(&self, ledger: LedgerId) -> Result<LedgerRow> {
        let found = row::Entity::find_by_id(ledger.0).one(&self.inner.pool).await?;
        found.map(decode).ok_or_else(|| Error::Unavailable(format!("ledger row {ledger} is gone")))
    }

    /// Moves the row to where the log goes on, after ground was lost. False if the row
    /// is not as it was seen.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn move_ledger(&self, seen: &LedgerRow, to: Offset) -> Result<bool> {
        self.transact(vec![move_row(seen, seen.reader, to)]).await
    }

    /// Moves the row past what the log has for its own use and shows to nobody, such as the
    /// marks of transactions. What is known of the last record stays: if there is ever a
    /// record right before `to`, the log is another one. False if the row is not as it was seen.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away.
    pub async fn pass_ledger(&self, seen: &LedgerRow, to: Offset) -> Result<bool> {
        let _turn = self.turn().await;
        let passed = row::Entity::update_many()
            .col_expr(row::Column::NextOffset, to.0.into())
            .filter(row::Column::Id.eq(seen.id.0))
            .filter(row::Column::Reader.eq(seen.reader.0))
            .filter(row::Column::NextOffset.eq(seen.next_offset.0))
            .exec(&self.inner.pool)
            .await?;
        Ok(passed.rows_affected == 1)
    }

    /// Makes `to` the next record that is read, for a person who wants it so, and puts
    /// `fresh` in place of the reader's token: what the reader has in hand writes nothing,
    /// and it begins again at the row. Waits for a batch that is being written. False if the
    /// row is not as it was seen.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is away or that batch does not end.
    pub async fn seek_ledger(
        &self,
        seen: &LedgerRow,
        fresh: ReaderToken,
        to: Offset,
        entry: &AuditEntry,
    ) -> Result<bool> {
        self.transact(vec![move_row(seen, fresh, to), audit::step(entry)]).await
    }
}

/// One compare-and-set. The record before `to` is not known.
fn move_row(seen: &LedgerRow, reader: ReaderToken, to: Offset) -> Step {
    let update = "update scheduler_ingest_offset set reader = ?, next_offset = ?, \
                  last_time_ms = null, last_hash = null \
                  where id = ? and reader = ? and next_offset = ?";
    let values = vec![
        reader.0.into(),
        to.0.into(),
        seen.id.0.into(),
        seen.reader.0.into(),
        seen.next_offset.0.into(),
    ];
    Step::one(update, values)
}

pub(super) fn decode(model: row::Model) -> LedgerRow {
    let last =
        model.last_time_ms.zip(model.last_hash).map(|(time_ms, hash)| LastRecord { time_ms, hash });
    LedgerRow {
        id: LedgerId(model.id),
        reader: ReaderToken(model.reader),
        next_offset: Offset(model.next_offset),
        last,
    }
}
