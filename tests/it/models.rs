//! The protocols as models that are explored completely for small sizes. For each guard there is a
//! test that removes it, to check that the model detects that.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

mod fences;
mod leases;
mod ledger;

/// More states than any of these has: a model that grows past it is not bounded.
const MOST_STATES: usize = 30_000_000;

/// Explores everything and asserts each property.
fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + Send + Sync + PartialEq + Clone,
    M::Action: Debug + PartialEq + Clone,
{
    let began = std::time::Instant::now();
    let checker = model.checker().threads(2).target_state_count(MOST_STATES).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{name}: {states} states in {:.1?}", began.elapsed());
    assert!(
        checker.is_done() && checker.state_count() < MOST_STATES,
        "{name} was not explored to the end"
    );
    checker.assert_properties();
}

/// Asserts that `property` is violated, and shows how.
fn finds<M>(property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Debug + Hash + Send + Sync + PartialEq + Clone,
    M::Action: Debug + PartialEq + Clone,
{
    let only = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = model.checker().threads(1).finish_when(only).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else {
        panic!("in {} states nothing violates: {property}", checker.unique_state_count());
    };
    let steps: Vec<String> =
        path.into_actions().into_iter().map(|action| format!("{action:?}")).collect();
    println!("not any more: {property}\n  {}", steps.join("\n  "));
}

/// Asserts that from every state the end can be reached though nothing more goes wrong:
/// what stateright cannot say where a model may go round in circles for ever.
fn always_can_end<M>(
    name: &str,
    model: &M,
    is_end: fn(&M::State) -> bool,
    is_fault: fn(&M::Action) -> bool,
) where
    M: Model,
    M::State: Debug + Hash + Eq + Clone,
    M::Action: Clone,
{
    let mut places: HashMap<M::State, usize> = HashMap::new();
    let mut to_visit = model.init_states();
    let mut ends = Vec::new();
    let mut comes_from: Vec<Vec<usize>> = Vec::new();
    for state in &to_visit {
        places.insert(state.clone(), comes_from.len());
        comes_from.push(Vec::new());
    }
    while let Some(state) = to_visit.pop() {
        let from = places[&state];
        if is_end(&state) {
            ends.push(from);
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for action in actions {
            let Some(next) = model.next_state(&state, action.clone()) else { continue };
            let to = *places.entry(next).or_insert_with_key(|next| {
                to_visit.push(next.clone());
                comes_from.push(Vec::new());
                comes_from.len() - 1
            });
            if !is_fault(&action) {
                comes_from[to].push(from);
            }
        }
    }
    let mut can_end = vec![false; comes_from.len()];
    while let Some(place) = ends.pop() {
        if !std::mem::replace(&mut can_end[place], true) {
            ends.extend_from_slice(&comes_from[place]);
        }
    }
    let stuck = places.iter().find(|(_, place)| !can_end[**place]);
    assert!(
        stuck.is_none(),
        "{name}: from here there is no end: {:#?}",
        stuck.map(|(state, _)| state)
    );
    println!("{name}: {} states, and an end to each", places.len());
}
