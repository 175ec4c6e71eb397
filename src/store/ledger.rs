//! The ingest ledger: how far each partition has been read, and by whom.
//!
//! A reader claims the row of its partition with a new token; the update waits for the last commit
//! of the previous reader. From then on a batch is admitted only with this token, and only if it
//! begins at the row's next offset. Exactly-once ingest depends on this row alone.

use infinite_scheduler_entity::ingest_offset as row;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::steps::Step;
use super::{Error, Result, Store, audit};
use crate::model::audit::AuditEntry;
use crate::model::ids::{InstanceId, LedgerId, Offset, Partition, ReaderToken};
use crate::model::record::RawRecord;

/// Identifies a partition within a consumer group.
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

/// The position of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// The row.
    pub id: LedgerId,
    /// The token of the reader that has claimed it.
    pub reader: ReaderToken,
    /// The offset of the next record to be admitted.
    pub next_offset: Offset,
    /// The record before it, if there is one and it is known.
    pub last: Option<LastRecord>,
}

/// Enough of a record to detect that the topic was recreated under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Its timestamp, epoch milliseconds; -1 if it has none.
    pub time_ms: i64,
    /// A hash of its key and value.
    pub hash: i64,
}

impl LastRecord {
    /// That of `record`.
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
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn find_ledger(&self, key: &LedgerKey) -> Result<Option<LedgerRow>> {
        let query = row::Entity::find()
            .filter(row::Column::Cluster.eq(&key.cluster))
            .filter(row::Column::ConsumerGroup.eq(&key.group))
            .filter(row::Column::Topic.eq(&key.topic))
            .filter(row::Column::Number.eq(key.partition.0));
        Ok(query.one(&self.inner.pool).await?.map(decode))
    }

    /// Inserts a row that starts at this offset, unless there is one already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
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
        let _permit = self.write_permit().await;
        let inserted = row::Entity::insert(new).exec_without_returning(&self.inner.pool).await;
        match inserted.map_err(Error::from) {
            Ok(_) | Err(Error::Raced(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Claims the row for a reader of `instance`: batches are admitted only with `token` from now
    /// on. Waits for a transaction of the previous reader, so that the returned row is final for
    /// every earlier token.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable or that transaction does not end.
    pub async fn claim_ledger(
        &self,
        ledger: LedgerId,
        token: ReaderToken,
        instance: InstanceId,
    ) -> Result<LedgerRow> {
        let _permit = self.write_permit().await;
        row::Entity::update_many()
            .col_expr(row::Column::Reader, token.0.into())
            .col_expr(row::Column::Instance, instance.0.into())
            .filter(row::Column::Id.eq(ledger.0))
            .exec(&self.inner.pool)
            .await?;
        self.read_ledger(ledger).await
    }

    /// Replaces the token `ours` by a new one. Afterwards a transaction with `ours` whose answer was
    /// lost has ended, and the returned row shows whether it was committed. `None` if the row has
    /// another token. The row's instance is unchanged.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable or that transaction does not end.
    pub async fn reclaim_ledger(
        &self,
        ledger: LedgerId,
        ours: ReaderToken,
        fresh: ReaderToken,
    ) -> Result<Option<LedgerRow>> {
        let _permit = self.write_permit().await;
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

    /// Reads the row.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn read_ledger(&self, ledger: LedgerId) -> Result<LedgerRow> {
        let found = row::Entity::find_by_id(ledger.0).one(&self.inner.pool).await?;
        found
            .map(decode)
            .ok_or_else(|| Error::Unavailable(format!("ledger row {ledger} does not exist")))
    }

    /// Sets the next offset to `to`, after records of the log were lost. Returns false if the row is
    /// not as `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn move_ledger(&self, seen: &LedgerRow, to: Offset) -> Result<bool> {
        self.transact(vec![move_row(seen, seen.reader, to)]).await
    }

    /// Advances the next offset past control records, such as transaction markers, which no consumer
    /// receives. The last record is kept: if a record is ever found right before `to`, the topic
    /// was recreated. Returns false if the row is not as `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable.
    pub async fn pass_ledger(&self, seen: &LedgerRow, to: Offset) -> Result<bool> {
        let _permit = self.write_permit().await;
        let passed = row::Entity::update_many()
            .col_expr(row::Column::NextOffset, to.0.into())
            .filter(row::Column::Id.eq(seen.id.0))
            .filter(row::Column::Reader.eq(seen.reader.0))
            .filter(row::Column::NextOffset.eq(seen.next_offset.0))
            .exec(&self.inner.pool)
            .await?;
        Ok(passed.rows_affected == 1)
    }

    /// Sets the next offset to `to` on request of an operator, and replaces the reader's token by
    /// `fresh`: the batch that the reader is working on is not admitted, and the reader starts
    /// again at the row. Waits for a batch that is being written. Returns false if the row is not
    /// as `seen`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database is unavailable or that batch does not end.
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
