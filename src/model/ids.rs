//! Identifiers, each with a type of its own, so that they cannot be mixed up.

use std::{fmt, ops};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// Identifies a job: the first 128 bits of a SHA-256 over its app and request id.
///
/// Because it is derived, the primary key also guards against the same request twice, without a
/// second index. Every database orders it by its 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// The id of `app`'s job with this request id.
    pub fn derive(app: &str, request_id: &str) -> Self {
        Self(Uuid::new_v8(digest(b"job", app, request_id)))
    }

    /// The id with these 16 bytes, as a database row holds them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id with this value.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID, its form for people and receivers.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// Its 16 bytes, most significant first.
    pub fn into_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Its value as a number, which orders like the id itself.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// One of `places`, evenly by the id, which is a hash already.
    pub fn one_of<T>(self, places: &[T]) -> Option<&T> {
        let count = u128::try_from(places.len()).ok().filter(|count| *count > 0)?;
        places.get(usize::try_from(self.as_u128() % count).ok()?)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies an idempotency key of an app: a SHA-256 cut to 128 bits, like [`JobId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id of `key` among `app`'s idempotency keys.
    pub fn derive(app: &str, key: &str) -> Self {
        Self(digest(b"key", app, key))
    }

    /// The id with these 16 bytes, as a database row holds them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub fn into_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

fn digest(kind: &[u8], app: &str, name: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update([0]);
    hash.update(app.as_bytes());
    hash.update([0]);
    hash.update(name.as_bytes());
    let full = hash.finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    short
}

/// Which of an app's first `shards` shards has all jobs with this concurrency key: 0 for the first.
pub fn shard_number_of(app: &str, concurrency_key: &str, shards: u32) -> u32 {
    let hash = u128::from_be_bytes(digest(b"concurrency", app, concurrency_key));
    u32::try_from(hash % u128::from(shards.max(1))).unwrap_or(0)
}

/// The request id of a record without one: the same record always has the same id.
pub fn derived_request_id(
    cluster: &str,
    topic: &str,
    partition: Partition,
    offset: Offset,
) -> String {
    let name = format!("{cluster}/{topic}/{partition}/{offset}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// An app's row.
    AppId(i32)
}
number! {
    /// One shard of an app's jobs; a job belongs to one shard for life.
    ShardId(i32)
}
number! {
    /// Grows each time that a shard changes its owner; a write under an older epoch changes
    /// nothing.
    Epoch(i64)
}
number! {
    /// One start of an instance. A process that was declared dead continues under a new one.
    InstanceId(i64)
}
number! {
    /// The ledger row of one partition, which holds the next offset to read.
    LedgerId(i32)
}
number! {
    /// Distinguishes a reader of a partition from earlier ones: each claim has a new one.
    ReaderToken(i64)
}

number! {
    /// The number of a partition within its topic, from 0.
    Partition(i32)
}
number! {
    /// The offset of a record within its partition.
    Offset(i64)
}

impl ops::Add<i64> for Offset {
    type Output = Self;

    fn add(self, records: i64) -> Self {
        Self(self.0 + records)
    }
}

impl ops::Sub<i64> for Offset {
    type Output = Self;

    fn sub(self, records: i64) -> Self {
        Self(self.0 - records)
    }
}

/// The number of offsets from the right-hand side to the left; negative if that lies before it.
impl ops::Sub for Offset {
    type Output = i64;

    fn sub(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl InstanceId {
    /// A fresh random id, never zero or negative.
    pub fn random() -> Self {
        Self(fastrand::i64(1..i64::MAX))
    }
}

impl ReaderToken {
    /// A fresh random token, never zero or negative.
    pub fn random() -> Self {
        Self(fastrand::i64(1..i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_app_by_name_and_by_kind() {
        let id = JobId::derive("sms", "r1");
        assert_eq!(id, JobId::derive("sms", "r1"));
        assert_ne!(id, JobId::derive("sms", "r2"));
        assert_ne!(id, JobId::derive("sm", "sr1"));
        assert_ne!(KeyId::derive("sms", "r1").into_bytes(), id.into_bytes());
    }

    #[test]
    fn a_record_read_twice_has_one_name() {
        let named = |offset| derived_request_id("c", "t", Partition(3), Offset(offset));
        let name = named(41);
        assert_eq!(name, named(41));
        assert_ne!(name, named(42));
        assert_eq!(name.len(), 36);
    }

    #[test]
    fn an_id_is_its_sixteen_bytes_whichever_way_it_is_taken() {
        let bytes: [u8; 16] = std::array::from_fn(|nth| nth as u8 + 1);
        let id = JobId::from_bytes(bytes);
        assert_eq!((id.into_bytes(), id.as_u128()), (bytes, u128::from_be_bytes(bytes)));
        assert_eq!((id.uuid().into_bytes(), JobId::from_uuid(id.uuid())), (bytes, id));
        let shown = "01020304-0506-0708-090a-0b0c0d0e0f10";
        assert_eq!((id.to_string(), format!("{id:?}")), (shown.to_owned(), shown.to_owned()));
        let key = KeyId::from_bytes(bytes);
        assert_eq!((key.into_bytes(), format!("{key:?}")), (bytes, shown.to_owned()));
        assert_eq!(ShardId(-7).to_string(), "-7");
    }

    #[test]
    fn ids_never_change_because_databases_hold_them() {
        let job = JobId::derive("sms", "r1");
        let key = KeyId::derive("sms", "r1");
        let record = derived_request_id("cluster", "topic", Partition(3), Offset(41));
        assert_eq!(
            (job.to_string().as_str(), format!("{key:?}").as_str(), record.as_str()),
            (
                "949c3960-8e8d-8f8b-ae06-b11d33b8783b",
                "d3d9db14-3412-fd5c-d014-476641046d7e",
                "b0542872-dd13-5ebd-8275-5efaf6e18c2e",
            )
        );
        let numbers = ["", "k", "customer-17"].map(|key| shard_number_of("sms", key, 8));
        assert_eq!(numbers, [6, 1, 2]);
    }

    #[test]
    fn random_ids_are_positive_and_not_one() {
        let ids: std::collections::BTreeSet<_> = (0..20).map(|_| InstanceId::random().0).collect();
        let tokens: std::collections::BTreeSet<_> =
            (0..20).map(|_| ReaderToken::random().0).collect();
        for drawn in [ids, tokens] {
            assert!(drawn.len() > 10 && drawn.iter().all(|number| *number > 0), "{drawn:?}");
        }
    }
}
