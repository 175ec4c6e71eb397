//! How much the server takes at once.

use super::{Hot, Result, Store};

impl Store {
    /// The most bytes that the server takes in one packet, `max_allowed_packet`; `None` where
    /// there is no such limit.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is away.
    pub async fn max_packet_bytes(&self) -> Result<Option<u64>> {
        let Hot::MySql(pool) = &self.inner.hot else { return Ok(None) };
        let asked = "select cast(@@max_allowed_packet as unsigned)";
        let most: u64 = sqlx::query_scalar(asked).fetch_one(pool).await?;
        Ok(Some(most))
    }
}
