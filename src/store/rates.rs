//! The shared time of an app's rate, which instances move on to buy starts.

use infinite_scheduler_entity::app;
use sea_orm::{ConnectionTrait, EntityTrait, QuerySelect, sea_query::Expr};

use super::{Error, Result, Store};
use crate::model::ids::AppId;
use crate::model::rate::Purchase;

impl Store {
    /// The shared time of the app's rate, and the database's time, epoch nanoseconds.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database does not answer.
    pub async fn rate_time(&self, app: AppId) -> Result<(i64, i64)> {
        let query = app::Entity::find_by_id(app.0)
            .select_only()
            .column(app::Column::RateNs)
            .column_as(Expr::cust(self.now_us()), "now_us");
        let found: Option<(i64, i64)> = query.into_tuple().one(&self.inner.pool).await?;
        let (shared_ns, now_us) =
            found.ok_or_else(|| Error::Unavailable(format!("app {} has no row", app.0)))?;
        Ok((shared_ns, now_us.saturating_mul(1000)))
    }

    /// Moves the shared time from `seen_ns` on to that after the purchase, which was made for
    /// `at_ns` by the database's clock. False if another instance has moved it, or the database's
    /// time is another than that.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: unknown whether it was moved; what was bought is not to be used.
    pub async fn move_rate_time(
        &self,
        app: AppId,
        seen_ns: i64,
        purchase: Purchase,
        at_ns: i64,
    ) -> Result<bool> {
        let tolerance_us = Purchase::TOLERANCE_NS / 1000;
        let (from_us, to_us) = (at_ns / 1000 - tolerance_us, at_ns / 1000 + tolerance_us);
        let now = self.now_us();
        let update = format!(
            "update scheduler_app set rate_ns = {} where id = {} and rate_ns = {seen_ns} \
             and {now} between {from_us} and {to_us}",
            purchase.next_ns, app.0,
        );
        let _permit = self.write_permit().await;
        Ok(self.inner.pool.execute_unprepared(&update).await?.rows_affected() == 1)
    }
}
