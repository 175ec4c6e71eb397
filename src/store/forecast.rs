//! How many jobs of an app are due when, by minutes and counted up to a limit.

use super::{DueJobs, Result, Store};
use crate::model::ids::ShardId;
use crate::model::job::Priority;

/// How many intervals one statement counts.
const INTERVALS: usize = 60;

/// How many jobs are due in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueWithin {
    /// Its begin, epoch milliseconds.
    pub from_ms: i64,
    /// Its end.
    pub until_ms: i64,
    /// The number; more than [`DueJobs::LIMIT`] means more than that.
    pub jobs: u64,
}

impl Store {
    /// When the first job of these shards is due, epoch milliseconds.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn first_due(&self, shards: &[ShardId]) -> Result<Option<i64>> {
        let lists = shards.iter().flat_map(|shard| Priority::ALL.map(|priority| (shard, priority)));
        let firsts: Vec<String> = lists
            .map(|(shard, priority)| {
                format!(
                    "select min(due_ms) as due_ms from scheduler_job where shard = {shard} \
                     and priority = {}",
                    priority.rank()
                )
            })
            .collect();
        if firsts.is_empty() {
            return Ok(None);
        }
        let all = firsts.join(" union all ");
        let rows = self.query(&format!("select min(due_ms) from ({all}) as firsts")).await?;
        Ok(rows.first().map_or(Ok(None), |row| row.try_get_by_index(0))?)
    }

    /// Counts the jobs in these shards that are due in each of the intervals, up to
    /// [`DueJobs::LIMIT`] + 1 for each.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database does not answer.
    pub async fn count_due_within(
        &self,
        shards: &[ShardId],
        intervals: &[(i64, i64)],
    ) -> Result<Vec<DueWithin>> {
        let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
        let (shards, most) = (shards.join(", "), DueJobs::LIMIT + 1);
        let ranks = Priority::ALL.map(|priority| priority.rank().to_string()).join(", ");
        let mut counted = Vec::with_capacity(intervals.len());
        for some in intervals.chunks(INTERVALS) {
            let counts: Vec<String> = some
                .iter()
                .enumerate()
                .map(|(number, (from_ms, until_ms))| {
                    format!(
                        "select {number} as number, count(*) as jobs from (select 1 as one \
                         from scheduler_job where shard in ({shards}) and priority in ({ranks}) \
                         and due_ms >= {from_ms} and due_ms < {until_ms} limit {most}) as counted"
                    )
                })
                .collect();
            let sql = format!(
                "select jobs from ({}) as intervals order by number",
                counts.join(" union all ")
            );
            for (row, (from_ms, until_ms)) in self.query(&sql).await?.iter().zip(some) {
                let jobs: i64 = row.try_get_by_index(0)?;
                let (from_ms, until_ms) = (*from_ms, *until_ms);
                counted.push(DueWithin { from_ms, until_ms, jobs: jobs.unsigned_abs() });
            }
        }
        Ok(counted)
    }
}
