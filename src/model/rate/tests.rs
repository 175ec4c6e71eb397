//! Purchases as tables, and the promise of the rate over any instances with any demand.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_000 * SECOND_NS;

fn rate(per_second: f64, burst: u32) -> Rate {
    Rate::new(per_second, NonZeroU32::new(burst)).unwrap()
}

fn due(due: u32) -> Demand {
    Demand { due, expected: 0, buyers: 1 }
}

#[track_caller]
fn check(rate: Rate, shared_ns: i64, demand: Demand, count: u32, first_ns: i64) {
    let purchase = rate.buy(shared_ns, NOW, demand);
    assert_eq!((purchase.count, purchase.first_ns - NOW), (count, first_ns), "{purchase:?}");
}

#[test]
fn what_is_due_is_bought_as_far_as_the_rate_allows() {
    let tenth = SECOND_NS / 10;
    // After a pause the whole burst, and the second that comes.
    check(rate(10.0, 10), 0, due(100), 20, -9 * tenth);
    check(rate(10.0, 10), 0, due(3), 3, -9 * tenth);
    check(rate(10.0, 1), 0, due(100), 11, 0);
    // What is left of the coming second.
    check(rate(10.0, 10), NOW + 7 * tenth, due(100), 4, 7 * tenth);
    // Nothing: it is worth to ask when the next start is a second ahead.
    check(rate(10.0, 10), NOW + 11 * tenth, due(100), 0, tenth);
    check(rate(1.0 / 60.0, 1), NOW + 45 * SECOND_NS, due(1), 0, 44 * SECOND_NS);
    check(rate(1.0 / 60.0, 1), 0, due(9), 1, 0);
    check(rate(10_000.0, 10_000), 0, due(100_000), 20_000, -9_999 * tenth / 1_000);
}

#[test]
fn the_coming_second_is_divided_among_buyers_and_what_is_saved_is_not() {
    let of_three = Demand { due: 100, expected: 0, buyers: 3 };
    check(rate(9.0, 1), 0, of_three, 4, 0);
    check(rate(9.0, 9), 0, of_three, 12, -888_888_896);
}

#[test]
fn what_is_only_expected_is_bought_of_what_is_left_over() {
    let expected = Demand { due: 1, expected: 100, buyers: 1 };
    check(rate(10.0, 5), 0, expected, 5, -4 * SECOND_NS / 10);
    check(rate(10.0, 5), NOW, expected, 1, 0);
    check(rate(10.0, 5), NOW + 1, Demand { due: 0, ..expected }, 0, 1 - SECOND_NS);
}

#[test]
fn a_shared_time_that_no_purchase_can_have_left_is_not_waited_for() {
    check(rate(10.0, 10), NOW + 3_600 * SECOND_NS, due(1), 1, SECOND_NS / 10);
}

#[test]
fn a_rate_is_a_number_that_can_be_kept() {
    for (written, shown) in [(0.0167, 0.0167), (1e-6, 1e-6), (10_000.0, 10_000.0)] {
        assert_eq!(Rate::new(written, None).unwrap().per_second(), shown);
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e7, 1e-7] {
        let sentence = Rate::new(bad, None).unwrap_err().to_string();
        assert!(sentence.contains("but must be from 0.000001"), "{sentence}");
    }
    let burst = |per_second| Rate::new(per_second, None).unwrap().burst().get();
    assert_eq!((burst(0.5), burst(2.5), burst(10.0)), (1, 2, 10));
}

#[test]
fn starts_are_used_from_their_time_on_and_expire_after_it() {
    let rate = rate(10.0, 2);
    let purchase = rate.buy(0, NOW, due(4));
    let mut tokens = Tokens::default();
    tokens.add(rate, purchase, NOW, 0);
    assert_eq!((tokens.usable(0), tokens.at_hand()), (2, 4));
    tokens.use_up(2, 0);
    assert_eq!((tokens.usable(0), tokens.next_ns()), (0, Some(SECOND_NS / 10)));
    assert_eq!(tokens.usable(SECOND_NS / 10), 1);
    assert_eq!(tokens.usable(SECOND_NS), 2);
    assert_eq!(tokens.usable(SECOND_NS / 10 + VALID_NS), 2);
    assert_eq!(tokens.usable(SECOND_NS / 10 + VALID_NS + 1), 1);
    assert_eq!(tokens.usable(2 * SECOND_NS), 0);
}

/// An instance in the world below.
#[derive(Clone, Debug, Default)]
struct Buyer {
    tokens: Tokens,
    /// How far its notion of the database's time is behind.
    behind_ns: i64,
}

#[derive(Clone, Debug)]
enum Step {
    /// An instance buys.
    Buy(usize, Demand),
    /// It starts up to so many.
    Start(usize, usize),
    /// It dies with what it has, and another takes its place.
    Replace(usize, i64),
    /// Time passes, milliseconds.
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Step> {
    let demand = (0..60_u32, 0..60_u32, 1..4_u32).prop_map(|(due, expected, buyers)| Demand {
        due,
        expected,
        buyers,
    });
    prop_oneof![
        4 => (0..3_usize, demand).prop_map(|(who, demand)| Step::Buy(who, demand)),
        6 => (0..3_usize, 1..40_usize).prop_map(|(who, count)| Step::Start(who, count)),
        1 => (0..3_usize, -50..=50_i64).prop_map(|(who, behind)| Step::Replace(who, behind)),
        4 => (0..400_i64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_window_no_more_starts_than_promised(
        per_second in prop_oneof![Just(0.5), Just(1.0), Just(7.0), Just(30.0)],
        burst in 1..20_u32,
        steps in prop::collection::vec(steps(), 1..300),
    ) {
        let rate = rate(per_second, burst);
        let mut buyers = vec![Buyer::default(); 3];
        let (mut now_ns, mut shared_ns, mut starts) = (NOW, 0, Vec::new());
        for step in steps {
            match step {
                Step::Buy(who, demand) => {
                    let at_ns = now_ns - buyers[who].behind_ns;
                    let purchase = rate.buy(shared_ns, at_ns, demand);
                    shared_ns = purchase.next_ns;
                    buyers[who].tokens.add(rate, purchase, at_ns, now_ns);
                }
                Step::Start(who, count) => {
                    let count = count.min(buyers[who].tokens.usable(now_ns));
                    buyers[who].tokens.use_up(count, now_ns);
                    starts.extend(std::iter::repeat_n(now_ns, count));
                }
                Step::Replace(who, behind_ms) => {
                    let behind_ns = behind_ms * SECOND_NS / 1000;
                    buyers[who] = Buyer { tokens: Tokens::default(), behind_ns };
                }
                Step::Pass(ms) => now_ns += ms * SECOND_NS / 1000,
            }
        }
        for (first, from_ns) in starts.iter().enumerate() {
            for (last, to_ns) in starts.iter().enumerate().skip(first) {
                let seconds = (to_ns - from_ns) as f64 / SECOND_NS as f64;
                let most = per_second * (seconds + 1.0) + f64::from(burst);
                let count = last - first + 1;
                prop_assert!(count as f64 <= most + 1e-6, "{count} in {seconds} s, at most {most}");
            }
        }
    }

    #[test]
    fn who_buys_ahead_each_second_uses_the_whole_rate(
        per_second in prop_oneof![Just(0.5), Just(7.0), Just(1000.0)],
        burst in 1..20_u32,
        buyers in 1..4_u32,
    ) {
        let rate = rate(per_second, burst);
        let mut tokens = vec![Tokens::default(); buyers as usize];
        let (mut shared_ns, mut started) = (0, 0);
        const SECONDS: i64 = 60;
        for tick in 0..SECONDS * 100 {
            let now_ns = NOW + tick * SECOND_NS / 100;
            for (nth, tokens) in tokens.iter_mut().enumerate() {
                if tick % 90 == nth as i64 * 7 {
                    let purchase = rate.buy(shared_ns, now_ns, Demand { due: 9_999, expected: 0, buyers });
                    shared_ns = purchase.next_ns;
                    tokens.add(rate, purchase, now_ns, now_ns);
                }
                let count = tokens.usable(now_ns);
                tokens.use_up(count, now_ns);
                started += count;
            }
        }
        let least = 0.95 * per_second * SECONDS as f64 - 1.0;
        prop_assert!(started as f64 >= least, "{started} started, at least {least}");
    }
}
