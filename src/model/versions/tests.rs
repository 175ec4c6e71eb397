//! The rule against a naive one that knows all messages of a name at once.

use proptest::prelude::*;

use super::*;

/// One message on a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// Its time is `100 * version + 1`, and its body is its version.
    Schedule(Option<i64>),
    Cancel(Option<i64>),
    /// Its time is `100 * version + 2`.
    Move(Option<i64>),
}

/// What exists under a name: its standing, what is remembered, and the body and time of its job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    standing: Standing,
    memory: Memory,
    body: Option<i64>,
    time_ms: i64,
}

impl Name {
    fn new() -> Self {
        let (standing, memory) = (Standing::Awaited, Memory::default());
        Self { standing, memory, body: None, time_ms: 0 }
    }

    /// What becomes of the name, and of the message in words.
    fn take(&mut self, message: Message) -> String {
        match message {
            Message::Schedule(version) => {
                let (s, own_ms) = (schedule_version(version), time_of(version, 1));
                let met = self.memory.schedule(self.standing, version, own_ms);
                match met {
                    Met::Lives(ms) | Met::Replaces(ms) => {
                        (self.standing, self.body, self.time_ms) = (Standing::Live(s), Some(s), ms);
                    }
                    Met::Cancelled => self.standing = Standing::Cancelled(s),
                    Met::RepeatsCancelled | Met::Repeats | Met::Superseded => {}
                }
                format!("{met:?}")
            }
            Message::Cancel(version) => {
                let effect = self.memory.cancel(self.standing, version);
                if let (Effect::Applied, Standing::Live(s)) = (effect, self.standing) {
                    self.standing = Standing::Cancelled(s);
                }
                format!("{effect:?}")
            }
            Message::Move(version) => {
                let moved = Moved { version, to_ms: time_of(version, 2), by_key: false };
                let effect = self.memory.reschedule(self.standing, moved);
                if effect == Effect::Applied {
                    self.time_ms = moved.to_ms;
                }
                format!("{effect:?}")
            }
        }
    }

    /// The version and the time of its live job.
    fn job(&self) -> Option<(i64, i64)> {
        match self.standing {
            Standing::Live(s) => Some((s, self.time_ms)),
            Standing::Cancelled(_) | Standing::Awaited => None,
        }
    }
}

fn time_of(version: Option<i64>, kind: i64) -> i64 {
    schedule_version(version) * 100 + kind
}

/// The job that these messages come to, all of which have a version.
fn naive(messages: &[Message]) -> Option<(i64, i64)> {
    let highest = |of: fn(&Message) -> Option<i64>| messages.iter().filter_map(of).max();
    let s = highest(|message| match message {
        Message::Schedule(version) => Some(schedule_version(*version)),
        Message::Cancel(_) | Message::Move(_) => None,
    })?;
    let c = highest(|message| match message {
        Message::Cancel(version) => *version,
        Message::Schedule(_) | Message::Move(_) => None,
    });
    let r = highest(|message| match message {
        Message::Move(version) => *version,
        Message::Schedule(_) | Message::Cancel(_) => None,
    });
    let r = r.filter(|r| *r > s);
    let time_ms = r.map_or(time_of(Some(s), 1), |r| time_of(Some(r), 2));
    c.is_none_or(|c| s > c).then_some((s, time_ms))
}

fn check(messages: &[Message], job: Option<(i64, i64)>, told: &[&str]) {
    let mut name = Name::new();
    let said: Vec<String> = messages.iter().map(|message| name.take(*message)).collect();
    assert_eq!(said, told, "{messages:?}");
    assert_eq!(name.job(), job, "{messages:?}");
}

#[test]
fn a_cancellation_before_its_schedule_is_remembered() {
    use Message::{Cancel, Schedule};
    check(&[Cancel(None), Schedule(None)], None, &["Remembered", "Cancelled"]);
    check(&[Cancel(Some(3)), Schedule(Some(3))], None, &["Remembered", "Cancelled"]);
    check(&[Cancel(Some(3)), Schedule(Some(4))], Some((4, 401)), &["Remembered", "Lives(401)"]);
    // One without a version waits for a schedule without one.
    check(&[Cancel(None), Schedule(Some(0))], Some((0, 1)), &["Remembered", "Lives(1)"]);
    check(
        &[Cancel(None), Schedule(None), Schedule(None), Cancel(None)],
        None,
        &["Remembered", "Cancelled", "RepeatsCancelled", "Unchanged"],
    );
    check(
        &[Cancel(Some(3)), Cancel(Some(2)), Cancel(Some(3))],
        None,
        &["Remembered", "Superseded", "Remembered"],
    );
}

#[test]
fn a_reschedule_before_its_schedule_sets_its_time_and_revives_nothing() {
    use Message::{Cancel, Move, Schedule};
    check(&[Move(None), Schedule(None)], Some((0, 2)), &["Remembered", "Lives(2)"]);
    check(&[Move(Some(5)), Schedule(Some(4))], Some((4, 502)), &["Remembered", "Lives(502)"]);
    check(&[Move(Some(5)), Schedule(Some(5))], Some((5, 501)), &["Remembered", "Lives(501)"]);
    let told = ["Lives(401)", "Applied", "Remembered", "Superseded"];
    check(&[Schedule(Some(4)), Cancel(Some(4)), Move(Some(5)), Move(Some(4))], None, &told);
    let told = ["Lives(401)", "Applied", "Remembered", "Lives(602)"];
    check(
        &[Schedule(Some(4)), Cancel(Some(4)), Move(Some(6)), Schedule(Some(5))],
        Some((5, 602)),
        &told,
    );
}

#[test]
fn versions_do_not_go_back() {
    use Message::{Cancel, Move, Schedule};
    check(&[Schedule(Some(2)), Schedule(Some(1))], Some((2, 201)), &["Lives(201)", "Superseded"]);
    check(&[Schedule(Some(2)), Cancel(Some(1))], Some((2, 201)), &["Lives(201)", "Superseded"]);
    check(&[Schedule(Some(2)), Move(Some(2))], Some((2, 201)), &["Lives(201)", "Superseded"]);
    check(
        &[Schedule(Some(2)), Move(Some(4)), Move(Some(3)), Move(Some(4))],
        Some((2, 402)),
        &["Lives(201)", "Applied", "Superseded", "Unchanged"],
    );
    check(
        &[Schedule(Some(2)), Move(Some(4)), Schedule(Some(3)), Schedule(Some(5))],
        Some((5, 501)),
        &["Lives(201)", "Applied", "Replaces(402)", "Replaces(501)"],
    );
    // Cancelled without a version: what existed is, and a higher one is not.
    check(
        &[Schedule(Some(2)), Cancel(None), Schedule(Some(2)), Schedule(Some(3))],
        Some((3, 301)),
        &["Lives(201)", "Applied", "RepeatsCancelled", "Lives(301)"],
    );
}

#[test]
fn at_a_tie_the_reschedule_by_request_id_decides() {
    let moved = |to_ms, by_key| Moved { version: Some(1), to_ms, by_key };
    for order in [[true, false], [false, true]] {
        let mut memory = Memory::default();
        for by_key in order {
            memory.reschedule(Standing::Awaited, moved(i64::from(by_key), by_key));
        }
        assert_eq!(memory.schedule(Standing::Awaited, None, 9), Met::Lives(0), "{order:?}");
    }
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let version = prop_oneof![3 => 0..6i64, 1 => 0..i64::MAX / 200].prop_map(Some);
    let message = prop_oneof![
        version.clone().prop_map(Message::Schedule),
        version.clone().prop_map(Message::Cancel),
        version.prop_map(Message::Move),
    ];
    proptest::collection::vec(message, 0..9)
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (messages, shuffled) in messages().prop_flat_map(|messages| {
            (Just(messages.clone()), Just(messages).prop_shuffle())
        })
    ) {
        let mut name = Name::new();
        for message in &shuffled {
            name.take(*message);
        }
        prop_assert_eq!(name.job(), naive(&messages), "{:?}", shuffled);
        if let Some((s, _)) = name.job() {
            prop_assert_eq!(name.body, Some(s));
        }
        // All of them again change nothing.
        let before = name.clone();
        for message in &messages {
            name.take(*message);
        }
        prop_assert_eq!(name, before);
    }
}
