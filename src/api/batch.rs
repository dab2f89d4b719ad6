//! Calls for many keys.

use std::collections::{HashMap, HashSet};

use ratelimit_core::{Brief, Decision, Operation};

use crate::catalog::Mode;
use crate::datum;
use crate::error::Error;
use crate::function::pg_function;
use crate::store::{Asked, Store};

/// So many pairs are decided together at most: their cells are locked at the same time.
const MOST_TOGETHER: usize = 1_000;

pg_function! {
    /// All or nothing over several limiters and keys.
    fn rl_check_all(call) {
        let (limiters, keys) = (call.texts(0, "limiters")?, call.texts(1, "keys")?);
        if limiters.len() != keys.len() {
            return Err(Error::array_lengths("limiters", limiters.len(), "keys", keys.len()));
        }
        if keys.len() > MOST_TOGETHER {
            return Err(Error::too_many("limits", MOST_TOGETHER));
        }
        let costs = call.costs(2, "costs", "keys", keys.len())?;
        let store = Store::new(call)?;
        let definitions = limiters.iter().map(|name| store.limiter(name)).collect::<Result<Vec<_>, _>>()?;

        let pairs = || definitions.iter().zip(&keys).enumerate();
        let verdicts = pairs()
            .map(|(_, (limiter, key))| store.verdict(limiter, key))
            .collect::<Result<Vec<_>, _>>()?;

        let (mut asked, mut shut_out) = (Asked::default(), None::<Decision>);
        // Whose request it is, and which request a key has: a pair that is named twice is asked once, for both costs.
        let mut owners = Vec::new();
        let (mut places, mut slot_owners) = (HashMap::new(), Vec::new());
        let mut with_slot = HashSet::new();
        let is_shadow = |n: &usize| definitions[*n].mode() == Mode::Shadow;
        for (n, (definition, key)) in pairs().filter(|(n, _)| !is_shadow(n)) {
            let one = Asked::new(definition, &verdicts[n], key, costs[n])?;
            if let Some(refused) = one.settled().filter(|decision| !decision.allowed) {
                let refused = Decision { binding: n, ..refused };
                shut_out = Some(shut_out.map_or(refused, |other| other.and(refused)));
            }
            if one.has_slots() && with_slot.insert(definition.key(key)) {
                asked.push_slots(&one);
                slot_owners.push(n);
            }
            for (request, of) in one.parts() {
                match places.get(&request.key) {
                    Some(place) => {
                        let known: &mut ratelimit_core::table::Request<'_> = &mut asked.requests[*place];
                        known.cost = known.cost.saturating_add(request.cost);
                    }
                    None => {
                        places.insert(request.key, asked.requests.len());
                        asked.push(request, of);
                        owners.push(n);
                    }
                }
            }
        }
        if asked.requests.len() > MOST_TOGETHER {
            return Err(Error::too_many("rules of limits", MOST_TOGETHER));
        }
        owners.extend(slot_owners);
        let mut decision = match shut_out {
            Some(refused) => refused,
            None => {
                let decision = store.decide_all(&mut asked, Operation::Take)?;
                let binding = owners.get(decision.binding).copied().unwrap_or(0);
                Decision { binding, ..decision }
            }
        };
        let brief = costs.get(decision.binding).map_or(Brief::ALLOWED, |cost| decision.brief(*cost));
        for (n, (limiter, key)) in pairs().filter(|(n, _)| !is_shadow(n)) {
            if n == decision.binding {
                store.count(limiter, key, brief);
            } else if brief.allowed {
                store.count(limiter, key, Brief::ALLOWED);
            }
        }
        // In shadow each limiter is asked by itself, if the others would let the call pass.
        let lets_pass = decision.allowed;
        for n in (0..keys.len()).filter(|n| lets_pass && is_shadow(n)) {
            let said = store.decide(&definitions[n], keys[n], costs[n], Operation::Take)?;
            let said = Decision { binding: n, ..said };
            decision = match (decision.reason, said.reason) {
                (None, None) => decision.and(said),
                (None, Some(_)) => said,
                (Some(_), _) => decision,
            };
        }
        let limiter = limiters.get(decision.binding).map(|name| datum::text(name));
        let [a, b, c, d, e, f] = datum::decision(&decision);
        Ok(datum::row(call, &[a, b, c, d, e, f, limiter]))
    }
}

pg_function! {
    /// One decision for each element, in their order.
    fn rl_try_acquire_many(call) {
        let (limiter, keys) = (call.text(0, "limiter")?, call.texts(1, "keys")?);
        let costs = call.costs(2, "costs", "keys", keys.len())?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let taken = keys.iter().zip(costs).map(|(key, cost)| {
            pgrx::check_for_interrupts!();
            store.try_take(&limiter, key, cost)
        });
        Ok(datum::booleans(&taken.collect::<Result<Vec<_>, _>>()?))
    }
}
