//! What is to be done to make the tables equal to a document.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::limiter::{Limiter, Rule};

/// What becomes of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// There was none of that name.
    Created,
    /// It was defined otherwise.
    Changed,
    /// It is not in the document.
    Dropped,
}

/// One limiter, and how it is to be defined unless it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What becomes of it.
    pub action: Action,
    /// Its name.
    pub limiter: String,
    /// The rows that it is to have.
    pub definition: Option<Limiter>,
}

/// What the tables say of the limiters, by name; `None` where it makes no sense.
pub type Current = BTreeMap<String, Option<Limiter>>;

/// The steps from here to there, by name. What is equal already has none; what is not wanted is dropped with `prune` only.
pub fn plan(wanted: Vec<Limiter>, current: &Current, prune: bool) -> Vec<Step> {
    let names: BTreeSet<_> = wanted.iter().map(|limiter| limiter.name.clone()).collect();
    let mut steps: Vec<_> = wanted
        .into_iter()
        .filter_map(|mut limiter| {
            let action = match current.get(&limiter.name) {
                None => Action::Created,
                Some(None) => Action::Changed,
                Some(Some(current)) => {
                    keep_positions(&mut limiter.rules, &current.rules);
                    if limiter == *current {
                        return None;
                    }
                    Action::Changed
                }
            };
            Some(Step { action, limiter: limiter.name.clone(), definition: Some(limiter) })
        })
        .collect();
    let unwanted = current.keys().filter(|name| prune && !names.contains(*name));
    steps.extend(unwanted.map(|name| Step {
        action: Action::Dropped,
        limiter: name.clone(),
        definition: None,
    }));
    steps.sort_by(|one, other| one.limiter.cmp(&other.limiter));
    steps
}

/// What keys have used of a rule is known by its position: the first rule takes the place of the first, and so on, wherever that
/// is. Further ones follow, as far as there are positions.
fn keep_positions(rules: &mut [Rule], current: &[Rule]) {
    const LAST: i32 = 100;
    let last = current.last().map_or(0, |rule| rule.position);
    let places = current.iter().map(|rule| rule.position).chain(last.saturating_add(1)..);
    let places: Vec<_> = places.take(rules.len()).collect();
    if places.last().is_some_and(|place| *place <= LAST) {
        for (rule, place) in rules.iter_mut().zip(places) {
            rule.position = place;
        }
    }
}
