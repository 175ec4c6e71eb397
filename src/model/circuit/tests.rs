use super::*;

/// What happens to a circuit of at most 64 attempts.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many attempts start and end one after the other, each of a job of its own.
    Each(usize, End),
    /// An attempt at the same job again.
    Same(usize),
    /// Time passes, in milliseconds.
    After(u64),
    /// The target asks for time, in milliseconds.
    Hold(u64),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Accepted,
    Answered,
    Failed,
    NotSent,
    None,
    TooMany,
}

use End::*;
use Step::*;

fn job(number: usize) -> JobId {
    JobId::derive("sms", &number.to_string())
}

/// A circuit in a world of its own.
struct World {
    circuit: Circuit,
    now: Instant,
    jobs: usize,
}

impl World {
    fn new() -> Self {
        Self { circuit: Circuit::new(64), now: Instant::now(), jobs: 0 }
    }

    fn end(&mut self, number: u64, sign: End, running: usize) -> Option<Duration> {
        self.jobs += 1;
        let sign = match sign {
            Accepted => Sign::Accepted,
            Answered => Sign::Answered,
            Failed => Sign::Failed(job(self.jobs)),
            NotSent => Sign::NotSent,
            None => Sign::None,
            TooMany => Sign::TooMany,
        };
        self.circuit.ended(number, sign, running, self.now)
    }

    fn step(&mut self, step: Step) {
        match step {
            Each(times, sign) => {
                for _ in 0..times {
                    assert!(self.free() > 0, "{:?}", self.circuit);
                    let number = self.circuit.started();
                    self.end(number, sign, 1);
                }
            }
            Same(times) => {
                for _ in 0..times {
                    let number = self.circuit.started();
                    self.circuit.ended(number, Sign::Failed(job(0)), 1, self.now);
                }
            }
            After(ms) => self.now += Duration::from_millis(ms),
            Hold(ms) => self.circuit.hold(Duration::from_millis(ms), self.now),
        }
    }

    fn free(&self) -> usize {
        self.circuit.free(0, self.now)
    }

    fn wait_ms(&self) -> u128 {
        self.circuit.wait(self.now).unwrap_or_default().as_millis()
    }
}

/// How many attempts may start after these steps, and after how many milliseconds.
fn check(steps: &[Step], free: usize, wait_ms: u128) {
    let mut world = World::new();
    for step in steps {
        world.step(*step);
    }
    assert_eq!((world.free(), world.wait_ms()), (free, wait_ms), "{steps:?}: {:?}", world.circuit);
}

#[test]
fn ten_failures_in_a_row_open_it() {
    check(&[], 64, 0);
    check(&[Each(9, Failed)], 64, 0);
    check(&[Each(10, Failed)], 0, 1000);
    check(&[Each(10, NotSent)], 0, 1000);
    check(&[Each(5, Failed), Each(5, NotSent)], 0, 1000);
    check(&[Each(9, Failed), Each(1, Accepted), Each(9, Failed)], 64, 0);
    check(&[Each(9, Failed), Each(1, Answered), Each(9, Failed)], 64, 0);
    check(&[Each(9, Failed), Each(5, None), Each(1, Failed)], 0, 1000);
}

#[test]
fn a_job_counts_once_in_a_row_unless_nothing_could_be_sent() {
    check(&[Same(5000)], 64, 0);
    check(&[Same(50), Each(8, Failed)], 64, 0);
    check(&[Same(50), Each(9, Failed)], 0, 1000);
    check(&[Same(1), Each(1, Accepted), Same(1), Each(8, Failed)], 64, 0);
}

#[test]
fn one_probe_follows_each_wait_which_doubles_up_to_half_a_minute() {
    let mut steps = vec![Each(10, Failed)];
    for wait in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        check(&steps, 0, wait.into());
        check(&[&steps[..], &[After(wait - 1)]].concat(), 0, 1);
        steps.push(After(wait));
        check(&steps, 1, 0);
        // A probe that says nothing is followed by another one.
        check(&[&steps[..], &[Each(1, None)]].concat(), 1, 0);
        steps.push(Each(1, Failed));
    }
}

#[test]
fn the_same_job_as_a_probe_counts_each_time() {
    check(&[Each(10, Failed), After(1000), Same(1), After(2000), Same(1)], 0, 4000);
}

#[test]
fn after_a_good_probe_it_is_one_two_four_at_a_time_and_then_closed() {
    let open = [Each(10, NotSent), After(1000)];
    let then = |answers| [&open[..], &[Each(answers, Accepted)]].concat();
    for (answers, free) in [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)] {
        check(&then(answers), free, 0);
    }
    // Closed: ten in a row are needed again.
    check(&[&then(64)[..], &[Each(9, Failed)]].concat(), 64, 0);
    check(&[&then(64)[..], &[Each(10, Failed)]].concat(), 0, 1000);
}

#[test]
fn while_few_run_few_failures_open_it_again_and_a_target_that_was_back_is_tried_soon() {
    let open = [Each(10, NotSent), After(1000)];
    let then = |answers, failures| {
        [&open[..], &[Each(answers, Accepted), Each(failures, Failed)]].concat()
    };
    check(&then(1, 1), 0, 2000);
    check(&then(2, 1), 2, 0);
    check(&then(2, 2), 0, 2000);
    check(&then(8, 8), 0, 2000);
    check(&then(16, 9), 16, 0);
    check(&then(16, 10), 0, 1000);
}

#[test]
fn attempts_that_ran_when_it_opened_change_nothing() {
    let mut world = World::new();
    let old: Vec<u64> = (0..30).map(|_| world.circuit.started()).collect();
    let opened = old[..20].iter().filter_map(|number| world.end(*number, Failed, 30));
    assert_eq!(opened.collect::<Vec<_>>(), [Duration::from_secs(1)]);
    world.end(old[20], Accepted, 10);
    assert_eq!((world.free(), world.wait_ms()), (0, 1000));
    world.step(After(1000));
    assert_eq!(world.circuit.free(9, world.now), 1, "they do not delay the probe");
    let probe = world.circuit.started();
    assert_eq!(world.free(), 0);
    world.end(old[21], Accepted, 10);
    world.end(old[22], NotSent, 9);
    assert_eq!((world.free(), world.circuit.is_open()), (0, true));
    world.end(probe, Accepted, 8);
    assert_eq!((world.free(), world.circuit.is_open()), (1, false));
}

#[test]
fn too_many_requests_halve_what_runs_once_and_each_success_adds_one() {
    let mut world = World::new();
    let numbers: Vec<u64> = (0..40).map(|_| world.circuit.started()).collect();
    for number in &numbers {
        world.end(*number, TooMany, 40);
    }
    assert_eq!(world.free(), 20, "the forty knew nothing of each other");
    world.step(Each(2, Accepted));
    assert_eq!(world.free(), 22);
    for limit in [11, 5, 2, 1, 1] {
        let number = world.circuit.started();
        world.end(number, TooMany, 99);
        assert_eq!(world.free(), limit);
    }
    world.step(Each(80, Accepted));
    assert_eq!(world.free(), 64);
    assert!(!world.circuit.is_open());
}

#[test]
fn a_target_that_asks_for_time_gets_it_up_to_half_a_minute() {
    check(&[Hold(3000)], 0, 3000);
    check(&[Hold(3000), Hold(1000)], 0, 3000);
    check(&[Hold(3000), After(3000)], 64, 0);
    check(&[Hold(86_400_000)], 0, 30_000);
    check(&[Hold(u64::MAX)], 0, 30_000);
    check(&[Hold(3000), After(1000)], 0, 2000);
}

#[test]
fn a_circuit_of_one_attempt_closes_with_its_probe() {
    let mut circuit = Circuit::new(1);
    let now = Instant::now();
    for _ in 0..10 {
        let number = circuit.started();
        circuit.ended(number, Sign::NotSent, 1, now);
    }
    let later = now + Duration::from_secs(1);
    assert_eq!((circuit.free(0, now), circuit.free(0, later)), (0, 1));
    let number = circuit.started();
    circuit.ended(number, Sign::Accepted, 1, later);
    assert!(matches!(circuit.state, State::Closed), "{circuit:?}");
    let number = circuit.started();
    circuit.ended(number, Sign::TooMany, 1, later);
    assert_eq!(circuit.free(0, later), 1);
}
