//! A continuous flow of records: jobs, poison and repeated requests, known by their numbers.

use super::*;

/// Records that are known by their numbers: each hundredth is poison, after a while
/// each twentieth repeats an earlier request on another partition, the others are jobs.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// What its request ids begin with.
    name: &'static str,
    topic: String,
    /// When the job of record 0 is due; the next ones by and by.
    first_due_ms: i64,
    pub(crate) total: usize,
    half_poison: bool,
}

/// A [`Flow`] that goes on until it is ended.
pub(crate) struct Flowing {
    over: Arc<AtomicBool>,
    produced: JoinHandle<Flow>,
}

impl Flow {
    /// Records a second while it goes on.
    const RATE: usize = 1000;
    /// So many are due together, so that many are in flight at a time.
    const LUMP_MS: usize = 500;
    /// How often some are produced.
    const SLICE: Duration = Duration::from_millis(200);
    /// How far back the repeated request is: of another partition and a record with a key.
    const BACK: usize = 993;

    /// Produces records at an even pace, due a second later, until [`Flowing::end`].
    pub(crate) fn begin(name: &'static str, topic: &str) -> Flowing {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let mut flow = Self::new(name, topic, Duration::from_secs(1));
        let produced = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Self::SLICE);
            while !told.load(Ordering::Acquire) {
                pace.tick().await;
                flow.produce(Self::RATE / (1000 / Self::SLICE.as_millis() as usize)).await;
            }
            flow
        });
        Flowing { over, produced }
    }

    /// Produces this many records at once, the first due after `delay`.
    pub(crate) async fn burst(
        name: &'static str,
        topic: &str,
        total: usize,
        delay: Duration,
    ) -> Self {
        let mut flow = Self::new(name, topic, delay);
        flow.produce(total).await;
        flow
    }

    /// The same, but every other record of each partition is poison, and nothing repeated.
    pub(crate) async fn half_poison(
        name: &'static str,
        topic: &str,
        total: usize,
        delay: Duration,
    ) -> Self {
        let mut flow = Self { half_poison: true, ..Self::new(name, topic, delay) };
        flow.produce(total).await;
        flow
    }

    fn new(name: &'static str, topic: &str, delay: Duration) -> Self {
        let first_due_ms = now_ms() + delay.as_millis() as i64;
        Self { name, topic: topic.to_owned(), first_due_ms, total: 0, half_poison: false }
    }

    async fn produce(&mut self, count: usize) {
        let numbers = self.total..self.total + count;
        let records: Vec<RawRecord> = numbers.map(|n| self.record(n)).collect();
        produce(&self.topic, &records).await;
        self.total += count;
    }

    fn record(&self, n: usize) -> RawRecord {
        let partition = n as i32 % PARTITIONS;
        if self.is_poison(n) {
            return RawRecord::new(partition, format!("not json {n}"));
        }
        let of = if self.is_duplicate(n) { n - Self::BACK } else { n };
        let after_first_ms = of * 1000 / Self::RATE;
        let due = self.first_due_ms + (after_first_ms / Self::LUMP_MS * Self::LUMP_MS) as i64;
        let id = format!("{}-{of}", self.name);
        let key = if of % 20 == 0 { format!(r#","idempotencyKey":"{id}""#) } else { String::new() };
        let request = format!(
            r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due},"jobData":{{"due":{due}}}{key}}}"#
        );
        RawRecord::new(partition, request)
    }

    fn is_poison(&self, n: usize) -> bool {
        if self.half_poison { (n / PARTITIONS as usize).is_multiple_of(2) } else { n % 100 == 99 }
    }

    fn is_duplicate(&self, n: usize) -> bool {
        !self.half_poison && n % 20 == 13 && n >= Self::BACK
    }

    /// The request ids of its jobs.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = String> + '_ {
        let numbers = (0..self.total).filter(|n| !self.is_poison(*n) && !self.is_duplicate(*n));
        numbers.map(|n| format!("{}-{n}", self.name))
    }

    pub(crate) fn duplicates(&self) -> usize {
        (0..self.total).filter(|n| self.is_duplicate(*n)).count()
    }

    pub(crate) fn poison(&self) -> usize {
        (0..self.total).filter(|n| self.is_poison(*n)).count()
    }
}

impl Flowing {
    /// Ends it and gives what was produced.
    pub(crate) async fn end(self) -> Flow {
        self.over.store(true, Ordering::Release);
        self.produced.await.expect("records are produced")
    }
}
