//! The server's limit of a packet's size.

use super::{Driver, Result, Store};

impl Store {
    /// The largest packet that the server accepts, `max_allowed_packet`, in bytes; `None` for a
    /// database without such a limit.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`] if the database is unavailable.
    pub async fn max_packet_bytes(&self) -> Result<Option<u64>> {
        let Driver::MySql(pool) = &self.inner.driver else { return Ok(None) };
        let asked = "select cast(@@max_allowed_packet as unsigned)";
        let most: u64 = sqlx::query_scalar(asked).fetch_one(pool).await?;
        Ok(Some(most))
    }
}
