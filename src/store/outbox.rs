//! The outbox: dead letters and verdicts that are to be published to their topics.
//!
//! What is published is first written to the outbox, in the transaction that decides it. Rows with
//! the same ordering key are published in order by one instance, which then removes them. A crash
//! between the two publishes a row again, under the same id.

use infinite_scheduler_entity::{dead_letter, outbox};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::headers::{Header, decode_headers};
use super::steps::Step;
use super::{Driver, Result, Store};
use crate::model::ids::{LedgerId, ShardId};

/// The ordering key of an outbox row. Rows with the same key are published in the order of their ids,
/// by one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderingKey {
    /// The results of one partition's records, published by the instance that reads it.
    Partition(LedgerId),
    /// The results of one shard's jobs, published by the instance that owns it.
    Shard(ShardId),
}

impl OrderingKey {
    /// The value of the column `ordering_key`.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Partition(ledger) => i64::from(ledger.0),
            Self::Shard(shard) => (1 << 32) + i64::from(shard.0),
        }
    }
}

/// A dead letter that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The outbox row.
    pub id: i64,
    /// The letter's row.
    pub letter: dead_letter::Model,
}

/// Verdicts of one batch that are to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingVerdicts {
    /// The outbox row.
    pub id: i64,
    /// The events, as [`pack`](crate::model::verdict::pack) writes them.
    pub packed: String,
}

/// What an outbox row contains.
#[derive(Clone, Copy)]
enum Content {
    Letters,
    Verdicts,
}

impl Outgoing {
    /// The record's headers, unchanged.
    pub fn headers(&self) -> Vec<Header> {
        decode_headers(&self.letter.headers)
    }
}

impl Store {
    /// The oldest unpublished dead letters with these ordering keys, in order, without the outbox
    /// rows `skipped`.
    ///
    /// Reading always begins at the oldest row: a row with a smaller id may be committed after one
    /// with a greater id, but never after a row that depends on it.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn unpublished(
        &self,
        keys: &[OrderingKey],
        skipped: &[i64],
        limit: u64,
    ) -> Result<Vec<Outgoing>> {
        let rows = self.oldest_in_outbox(Content::Letters, keys, skipped, limit).await?;
        let ids = rows.iter().map(|row| row.letter);
        let letters = dead_letter::Entity::find()
            .filter(dead_letter::Column::Id.is_in(ids))
            .all(&self.inner.pool)
            .await?;
        let letter_of = |row: &outbox::Model| {
            let letter = letters.iter().find(|letter| letter.id == row.letter)?.clone();
            Some(Outgoing { id: row.id, letter })
        };
        let outgoing: Vec<Outgoing> = rows.iter().filter_map(letter_of).collect();
        if outgoing.len() < rows.len() {
            // Rows whose dead letters were removed have nothing to publish.
            let is_removed = |row: &&outbox::Model| outgoing.iter().all(|other| other.id != row.id);
            let removed: Vec<i64> = rows.iter().filter(is_removed).map(|row| row.id).collect();
            self.remove_published(&removed).await?;
        }
        Ok(outgoing)
    }

    /// The oldest unpublished verdicts with these ordering keys, in order, without the outbox rows
    /// `skipped`. Reading begins at the oldest row, as in [`unpublished`](Self::unpublished).
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn unpublished_verdicts(
        &self,
        keys: &[OrderingKey],
        skipped: &[i64],
        limit: u64,
    ) -> Result<Vec<OutgoingVerdicts>> {
        let rows = self.oldest_in_outbox(Content::Verdicts, keys, skipped, limit).await?;
        let outgoing =
            |row: outbox::Model| Some(OutgoingVerdicts { id: row.id, packed: row.verdicts? });
        Ok(rows.into_iter().filter_map(outgoing).collect())
    }

    /// The oldest rows with these ordering keys, without those `skipped`.
    ///
    /// On PostgreSQL, each key has its own index scan, which ends at the limit. For a list of keys,
    /// the planner may scan the primary key instead, through all dead tuples of published rows that
    /// are not vacuumed yet.
    async fn oldest_in_outbox(
        &self,
        content: Content,
        keys: &[OrderingKey],
        skipped: &[i64],
        limit: u64,
    ) -> Result<Vec<outbox::Model>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = keys.iter().map(|key| key.number());
        let Driver::Postgres(pool) = &self.inner.driver else {
            let is_content = match content {
                Content::Letters => outbox::Column::Verdicts.is_null(),
                Content::Verdicts => outbox::Column::Verdicts.is_not_null(),
            };
            let rows = outbox::Entity::find()
                .filter(outbox::Column::OrderingKey.is_in(numbers))
                .filter(outbox::Column::Id.is_not_in(skipped.iter().copied()))
                .filter(is_content)
                .order_by_asc(outbox::Column::Id)
                .limit(limit);
            return Ok(rows.all(&self.inner.pool).await?);
        };
        let is_content = match content {
            Content::Letters => "is null",
            Content::Verdicts => "is not null",
        };
        let sql = format!(
            "select o.id, o.ordering_key, o.letter, o.verdicts from unnest($1::bigint[]) as k(ordering_key) \
             cross join lateral (select id, ordering_key, letter, verdicts from scheduler_outbox \
             where ordering_key = k.ordering_key and verdicts {is_content} and (id = any($2::bigint[])) is not true \
             order by id limit $3) as o order by o.id limit $3"
        );
        let rows: Vec<(i64, i64, Uuid, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(numbers.collect::<Vec<_>>())
            .bind(skipped)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(pool)
            .await?;
        let model = |(id, ordering_key, letter, verdicts)| outbox::Model {
            id,
            ordering_key,
            letter,
            verdicts,
        };
        Ok(rows.into_iter().map(model).collect())
    }

    /// Replaces the verdicts of an outbox row by those that are not published yet.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; all of them are published again.
    pub async fn keep_verdicts(&self, row: i64, packed: String) -> Result<()> {
        let _permit = self.write_permit().await;
        outbox::Entity::update_many()
            .col_expr(outbox::Column::Verdicts, Expr::value(packed))
            .filter(outbox::Column::Id.eq(row))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }

    /// Adds verdicts to the outbox, outside of any other transaction.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if it is unknown whether they were added. If they are added
    /// again, events have the same ids.
    pub async fn enqueue_verdicts(&self, key: OrderingKey, packed: String) -> Result<()> {
        let row = outbox::ActiveModel {
            id: NotSet,
            ordering_key: Set(key.number()),
            letter: Set(Uuid::nil()),
            verdicts: Set(Some(packed)),
        };
        let _permit = self.write_permit().await;
        outbox::Entity::insert(row).exec_without_returning(&self.inner.pool).await?;
        Ok(())
    }

    /// Removes rows whose publication the broker has acknowledged.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable; they are published again.
    pub async fn remove_published(&self, outgoing: &[i64]) -> Result<()> {
        let _permit = self.write_permit().await;
        outbox::Entity::delete_many()
            .filter(outbox::Column::Id.is_in(outgoing.iter().copied()))
            .exec(&self.inner.pool)
            .await?;
        Ok(())
    }
}

/// Inserts the outbox row of a dead letter.
pub(super) fn insert_letter(key: OrderingKey, letter: Uuid) -> Step {
    let insert = "insert into scheduler_outbox (ordering_key, letter) values (?, ?)";
    Step::any(insert, vec![key.number().into(), letter.into()])
}

/// Inserts an outbox row with verdicts.
pub(super) fn insert_verdicts(key: OrderingKey, packed: String) -> Step {
    let insert = "insert into scheduler_outbox (ordering_key, letter, verdicts) values (?, ?, ?)";
    Step::any(insert, vec![key.number().into(), Uuid::nil().into(), packed.into()])
}
