//! The fixture of tests of the store's statements.

use std::sync::Arc;

use infinite_scheduler::model::audit::{AuditAction, AuditEntry, By};
use infinite_scheduler::model::fingerprint::Fingerprint;
use infinite_scheduler::model::ids::{InstanceId, JobId, Offset, Partition, ReaderToken, ShardId};
use infinite_scheduler::model::job::Changes;
use infinite_scheduler::model::letter::{DeadLetter, ErrorKind, Refusal};
use infinite_scheduler::model::record::RawRecord;
use infinite_scheduler::store::{
    Admitted, Advance, AppRow, Batch, BatchSource, Entry, LedgerKey, LedgerRow, PlacedCandidate,
    Store, StoreOptions, Taken, Wait,
};
use infinite_scheduler::{AppConfig, Job, JobData, Priority};

use super::services::TestDatabase;
use super::world::LEASE;

pub(crate) async fn store(database: &TestDatabase) -> Store {
    let options = StoreOptions { url: database.url().into(), max_connections: 4, lease: LEASE };
    Store::connect(&options).await.expect("a store")
}

/// What the audit is to say of a change at `at_ms`.
pub(crate) fn audit_entry(action: AuditAction, at_ms: i64) -> AuditEntry {
    AuditEntry {
        at_ms,
        by: By::new("anna").because("a test"),
        action,
        app: None,
        subject: "x".into(),
        details: serde_json::json!({}),
        count: 1,
    }
}

/// A store with an app, a claimed ledger row, and a record to be admitted.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) app: AppRow,
    pub(crate) ledger: LedgerRow,
    pub(crate) record: Arc<RawRecord>,
}

impl Fixture {
    pub(crate) async fn new(database: &TestDatabase) -> Self {
        let store = store(database).await;
        store.migrate().await.expect("tables");
        let app = store.register_app(&AppConfig::new("sms"), 0).await.expect("a row");
        let key = LedgerKey {
            cluster: "c".into(),
            group: "g".into(),
            topic: "t".into(),
            partition: Partition(0),
        };
        store.open_ledger(&key, Offset(0)).await.expect("a ledger row");
        let ledger = store.find_ledger(&key).await.expect("an answer").expect("the row");
        let claimed = store.claim_ledger(ledger.id, ReaderToken::random(), InstanceId(1)).await;
        let ledger = claimed.expect("a claimed row");
        let record = RawRecord {
            topic: "t".into(),
            partition: Partition(0),
            offset: Offset(0),
            timestamp_ms: Some(5),
            key: None,
            value: Some(b"value".to_vec()),
            headers: Vec::new(),
        };
        Self { store, app, ledger, record: Arc::new(record) }
    }

    pub(crate) fn letter(&self, attempts: u32) -> DeadLetter {
        let refusal = Refusal {
            request_id: Some("r".into()),
            app: Some("sms".into()),
            ..Refusal::new(ErrorKind::UnknownApp, "not yet")
        };
        DeadLetter { attempts, ..DeadLetter::of_record(&self.record, refusal, 7) }
    }

    pub(crate) fn wait(&self, attempts: u32) -> Entry {
        Entry::Wait(Box::new(Wait { letter: self.letter(attempts), due_ms: 9 }))
    }

    pub(crate) fn job(&self) -> Entry {
        let data = JobData::default();
        let fingerprint = Fingerprint::of_json("{}");
        Entry::Job(Box::new(PlacedCandidate {
            app: Arc::new(self.app.clone()),
            job: Job {
                id: JobId::derive("sms", "r"),
                shard: ShardId(self.app.shards[0].0),
                priority: Priority::Normal,
                due_ms: 0,
                request_id: "r".into(),
                scheduled_ms: 0,
                expires_ms: None,
                flexible_ms: None,
                concurrency_key: None,
                created_ms: 0,
                attempts: 0,
                max_attempts: None,
                timeout_ms: None,
                data,
                trace: None,
                origin: None,
                last_error: None,
                letter: None,
                version: None,
                changes: Changes::default(),
            },
            fingerprint: fingerprint.expect("a fingerprint"),
            key: None,
            foreign: true,
            record: Some(self.record.clone()),
        }))
    }

    pub(crate) async fn admit(&self, source: BatchSource, entry: Entry) -> Admitted {
        let batch = Batch {
            source,
            entries: vec![entry],
            fences: Vec::new(),
            read_first: false,
            conflict_on_time: false,
            window_ms: 86_400_000,
            verdicts: false,
            now_ms: 8,
        };
        self.store.admit(&Arc::new(batch)).await.expect("an answer")
    }

    pub(crate) fn records(&self, expected: i64) -> BatchSource {
        BatchSource::Records(Advance {
            ledger: self.ledger.id,
            reader: self.ledger.reader,
            expected: Offset(expected),
            next: Offset(expected + 1),
            last: None,
        })
    }

    pub(crate) fn parked(&self, attempts: u32) -> BatchSource {
        let rows = vec![Taken { id: self.letter(1).id(), attempts }];
        BatchSource::Parked { ledger: self.ledger.id, rows }
    }
}
