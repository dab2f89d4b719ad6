//! Random histories against a model that keeps everything in two lists and walks them.

use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const SLOTS: usize = 6;
const PROCESSES: u32 = 6;
const KEYS: [Key; 3] = [A, B, [5, 5]];

/// A slot that is taken. One that its waiter has not heard of has no number yet.
#[derive(Clone, Debug)]
struct Held {
    index: Option<u32>,
    key: Key,
    process: u32,
    lease: Option<(Token, Micros)>,
}

#[derive(Clone, Debug)]
struct Waiting {
    key: Key,
    process: u32,
    terms: Terms,
}

struct Model {
    now: Micros,
    capacity: BTreeMap<Key, u32>,
    held: Vec<Held>,
    /// Of all keys, in the order in which they came.
    queue: Vec<Waiting>,
    /// Those whose wait has ended, and how: in a slot, or at the ceiling.
    ended: BTreeMap<u32, Result<Terms, Refused>>,
    /// Those whose wait has ended in the call at hand.
    woken: Vec<u32>,
}

impl Model {
    fn new(now: Micros) -> Self {
        Model {
            now,
            capacity: KEYS.map(|key| (key, 0)).into(),
            held: Vec::new(),
            queue: Vec::new(),
            ended: BTreeMap::new(),
            woken: Vec::new(),
        }
    }
    fn expired(&self, held: &Held) -> bool {
        held.lease.is_some_and(|(_, expires)| expires <= self.now)
    }
    fn count(&self, key: Key) -> usize {
        self.held.iter().filter(|held| held.key == key).count()
    }
    fn has_room(&self, key: Key) -> bool {
        self.count(key) < self.capacity[&key] as usize
    }
    fn waiters(&self, key: Key) -> impl Iterator<Item = u32> + '_ {
        self.queue.iter().filter(move |waiter| waiter.key == key).map(|waiter| waiter.process)
    }
    fn first(&self, key: Key) -> Option<u32> {
        self.waiters(key).next()
    }
    fn serve(&mut self, key: Key) {
        while let Some(first) = self.first(key).filter(|_| self.has_room(key)) {
            let at = self.queue.iter().position(|waiter| waiter.process == first).unwrap();
            let Waiting { process, terms, .. } = self.queue.remove(at);
            let end = if self.held.len() < SLOTS { Ok(terms) } else { Err(Refused::Ceiling) };
            if end.is_ok() {
                self.held.push(Held { index: None, key, process, lease: None });
            }
            self.ended.insert(process, end);
            self.woken.push(process);
        }
    }
    fn drop_where(&mut self, key: Key, gone: impl Fn(&Model, &Held) -> bool) {
        let held = core::mem::take(&mut self.held);
        let kept = held.iter().filter(|held| held.key != key || !gone(self, held)).cloned();
        self.held = kept.collect();
        self.serve(key);
    }
    fn drop_expired(&mut self, key: Key) {
        self.drop_where(key, Model::expired);
    }
    fn set_capacity(&mut self, key: Key, capacity: u32) {
        self.capacity.insert(key, capacity);
        self.serve(key);
    }
    /// Whether there is a slot; it is not taken yet.
    fn look(&mut self, key: Key, capacity: u32) -> Result<(), Refused> {
        self.set_capacity(key, capacity);
        if !self.has_room(key) {
            self.drop_expired(key);
        }
        match () {
            () if !self.has_room(key) => Err(Refused::Taken),
            () if self.held.len() == SLOTS => Err(Refused::Ceiling),
            () => Ok(()),
        }
    }
    fn hold(&mut self, key: Key, process: u32, index: u32, terms: Terms) {
        assert!(!self.held.iter().any(|held| held.index == Some(index)), "it is somebody else's");
        let lease = self.lease(index, terms);
        self.held.push(Held { index: Some(index), key, process, lease });
    }
    fn lease(&self, index: u32, terms: Terms) -> Option<(Token, Micros)> {
        let Terms::Lease { random, ttl, .. } = terms else { return None };
        Some((lease_token(random, index), self.now + ttl))
    }
    fn cancel(&mut self, process: u32) {
        self.queue.retain(|waiter| waiter.process != process);
        if self.ended.remove(&process).is_some() {
            let is_it = |held: &Held| held.index.is_none() && held.process == process;
            if let Some(key) = self.held.iter().find(|held| is_it(held)).map(|held| held.key) {
                self.drop_where(key, |_, held| is_it(held));
            }
        }
    }
    /// The lease with this token, unless it has expired.
    fn find(&mut self, token: Token) -> Option<&mut Held> {
        let now = self.now;
        let is_it = |held: &&mut Held| held.lease.is_some_and(|(t, e)| t == token && e > now);
        self.held.iter_mut().find(is_it)
    }
    fn leases(&self, key: Key) -> impl Iterator<Item = Micros> + '_ {
        let leases = self.held.iter().filter(move |held| held.key == key);
        leases.filter_map(|held| held.lease).map(|(_, expires)| expires)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take { key: Key, capacity: u32, process: u32, ttl: Option<Micros>, wait: bool },
    Outcome(u32),
    Cancel(u32),
    Release(usize),
    Renew(usize, Micros),
    ReleaseLease(usize),
    Settle(Key),
    Capacity(Key, u32),
    Sweep(u32),
    Later(Micros),
    Save,
    PutBack(usize),
    Restart(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::sample::select(&KEYS[..]);
    let (capacity, process, ttl) = (|| 0u32..4, || 0..PROCESSES, || 1i64..20);
    let take = (key(), capacity(), process(), prop::option::of(ttl()), any::<bool>());
    prop_oneof![
        8 => take.prop_map(|(key, capacity, process, ttl, wait)| Step::Take { key, capacity, process, ttl, wait }),
        3 => process().prop_map(Step::Outcome),
        1 => process().prop_map(Step::Cancel),
        3 => any::<usize>().prop_map(Step::Release),
        1 => (any::<usize>(), ttl()).prop_map(|(nth, ttl)| Step::Renew(nth, ttl)),
        2 => any::<usize>().prop_map(Step::ReleaseLease),
        1 => key().prop_map(Step::Settle),
        1 => (key(), capacity()).prop_map(|(key, capacity)| Step::Capacity(key, capacity)),
        1 => (1u32..9).prop_map(Step::Sweep),
        2 => (0i64..9).prop_map(Step::Later),
        1 => Just(Step::Save),
        1 => any::<usize>().prop_map(Step::PutBack),
        1 => (0u32..3).prop_map(Step::Restart),
    ]
}

/// Both, with what the processes know.
struct Pair {
    server: Server,
    model: Model,
    tokens: Vec<Token>,
    drawn: u64,
    saved: Vec<Lease>,
    /// Until when each process sleeps that waits; None: until it is woken.
    alarms: BTreeMap<u32, Option<Micros>>,
}

fn nth<T>(of: &[T], n: usize) -> Option<&T> {
    of.get(n.checked_rem(of.len())?)
}

impl Pair {
    fn new() -> Self {
        Pair {
            server: Server::new(SLOTS),
            model: Model::new(NOW),
            tokens: Vec::new(),
            drawn: 0,
            saved: Vec::new(),
            alarms: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: Step) {
        self.step(step);
        self.check();
    }

    fn step(&mut self, step: Step) {
        let now = self.model.now;
        // Nobody draws the same twice, whether or not there is a slot for it.
        self.drawn += 1;
        let random = u128::from(self.drawn).to_le_bytes();
        match step {
            Step::Take { key, capacity, process, ttl, wait } => {
                let terms = match ttl {
                    Some(ttl) => Terms::Lease { random, ttl, durable: false },
                    None if process % 2 == 0 => Terms::Session,
                    None => Terms::Transaction,
                };
                self.take(key, capacity, process, terms, wait);
            }
            Step::Outcome(process) => self.outcome(process),
            Step::Cancel(process) => {
                self.model.cancel(process);
                self.server.run(|slots| slots.cancel(process));
            }
            Step::Release(n) => {
                let Some(held) = nth(&self.model.held, n).cloned() else { return };
                let Some(index) = held.index else { return };
                let releasable = held.lease.is_none();
                assert!(!self.server.run(|slots| slots.release(index, held.process + 1)));
                let released = self.server.run(|slots| slots.release(index, held.process));
                assert_eq!(released, releasable);
                if releasable {
                    self.model.drop_where(held.key, |_, held| held.index == Some(index));
                }
            }
            Step::Renew(n, ttl) => {
                let Some(&token) = nth(&self.tokens, n) else { return };
                let expected = self.model.find(token).map(|held| {
                    held.lease = Some((token, now + ttl));
                });
                let renewed = self.server.run(|slots| slots.renew(token, DATABASE, now, now + ttl));
                assert_eq!(renewed, expected.is_some());
            }
            Step::ReleaseLease(n) => {
                let Some(&token) = nth(&self.tokens, n) else { return };
                let found = self.model.find(token).map(|held| held.key);
                if let Some(key) = found {
                    let is_it = |held: &Held| held.lease.is_some_and(|(t, _)| t == token);
                    self.model.drop_where(key, |_, held| is_it(held));
                }
                let released = self.server.run(|slots| slots.release_lease(token, DATABASE, now));
                assert_eq!(released, found.is_some());
            }
            Step::Settle(key) => {
                self.model.drop_expired(key);
                self.server.run(|slots| slots.settle(key, now));
                let first = self.model.first(key);
                let look = first.and_then(|first| self.server.run(|slots| slots.next_look(first)));
                assert!(look.is_none_or(|look| look > now), "it would look for ever");
            }
            Step::Capacity(key, capacity) => {
                self.model.set_capacity(key, capacity);
                self.server.run(|slots| slots.set_capacity(key, capacity));
            }
            Step::Sweep(steps) => {
                KEYS.iter().for_each(|key| self.model.drop_expired(*key));
                let mut from = Some(0);
                while let Some(start) = from {
                    from = self.server.run(|slots| slots.sweep(start, steps, now));
                }
            }
            Step::Later(span) => self.model.now += span,
            Step::Save => self.save(),
            Step::PutBack(n) => {
                if let Some(saved) = nth(&self.saved, n).cloned() {
                    self.put_back(&saved);
                }
            }
            Step::Restart(intruders) => {
                self.save();
                let saved = self.saved.clone();
                let (tokens, drawn) = (core::mem::take(&mut self.tokens), self.drawn);
                *self = Pair { tokens, drawn, saved, ..Pair::new() };
                self.model.now = now;
                for process in 0..intruders {
                    self.take(A, 9, process, Terms::Session, false);
                }
                for saved in self.saved.clone() {
                    self.put_back(&saved);
                }
            }
        }
    }

    fn take(&mut self, key: Key, capacity: u32, process: u32, terms: Terms, wait: bool) {
        let now = self.model.now;
        if wait {
            self.model.cancel(process);
        }
        let expected = self.model.look(key, capacity);
        let claim = claim(terms, process);
        let taken = self.server.run(|slots| match wait {
            false => slots.try_take(key, capacity, now, &claim),
            true => match slots.enqueue(key, capacity, now, &claim) {
                Outcome::Granted(index) => Ok(index),
                Outcome::Ceiling => Err(Refused::Ceiling),
                Outcome::Waiting => Err(Refused::Taken),
            },
        });
        assert_eq!(taken.map(|_| ()), expected);
        match taken {
            Ok(index) => {
                self.model.hold(key, process, index, terms);
                self.tokens.extend(self.model.lease(index, terms).map(|(token, _)| token));
            }
            Err(Refused::Taken) if wait => {
                self.model.queue.push(Waiting { key, process, terms });
                self.alarms.insert(process, self.server.run(|slots| slots.next_look(process)));
            }
            Err(_) => {}
        }
    }

    fn outcome(&mut self, process: u32) {
        let now = self.model.now;
        let told = self.server.run(|slots| slots.outcome(process, now));
        let waits = self.model.queue.iter().any(|waiter| waiter.process == process);
        match self.model.ended.remove(&process) {
            None => assert_eq!(told, waits.then_some(Outcome::Waiting)),
            Some(Err(_)) => assert_eq!(told, Some(Outcome::Ceiling)),
            Some(Ok(terms)) => {
                let Some(Outcome::Granted(index)) = told else { panic!("{told:?}") };
                let is_it = |held: &Held| held.index.is_none() && held.process == process;
                let at = self.model.held.iter().position(is_it).unwrap();
                let key = self.model.held.remove(at).key;
                self.model.hold(key, process, index, terms);
                self.tokens.extend(self.model.lease(index, terms).map(|(token, _)| token));
            }
        }
    }

    fn save(&mut self) {
        let (server, saved) = (&mut self.server, &mut self.saved);
        let mut from = Some(0);
        while let Some(start) = from {
            from = server.run(|s| s.export(start, 2, self.model.now, |lease| saved.push(lease)));
        }
        saved.sort_by_key(|saved| (saved.token, saved.expires));
        saved.dedup_by_key(|saved| saved.token);
    }

    fn put_back(&mut self, saved: &Lease) {
        let now = self.model.now;
        let &Lease { key, token, expires, .. } = saved;
        let restored = self.server.run(|slots| slots.restore(saved, now));
        let is_it = |held: &&Held| held.lease.is_some_and(|(t, _)| t == token);
        let here = self.model.held.iter().find(is_it);
        if expires <= now || here.is_some() || self.model.held.len() == SLOTS {
            let current = here.filter(|held| expires > now && !self.model.expired(held));
            assert_eq!(restored, current.and_then(|held| held.index));
            return;
        }
        let place = restored.unwrap();
        let index = u32::from_be_bytes(token[12..].try_into().unwrap());
        let used = self.model.held.iter().any(|held| held.index == Some(index));
        let pending = self.model.held.iter().any(|held| held.index.is_none());
        assert!(place == index || used || pending, "its own slot was free");
        let terms = Terms::Session;
        self.model.hold(key, 0, place, terms);
        self.model.held.last_mut().unwrap().lease = Some((token, expires));
    }

    /// What must hold between any two calls.
    fn check(&mut self) {
        let now = self.model.now;
        self.check_wakes();
        let model = &self.model;
        self.server.run(|slots| {
            assert_eq!(slots.taken() as usize, model.held.len());
            let shown = slots.iter().map(|h| {
                let index = (!h.pending).then_some(h.index);
                (index, h.key, h.token.zip(h.expires))
            });
            let held = model.held.iter().map(|held| (held.index, held.key, held.lease));
            assert_eq!(shown.collect::<BTreeSet<_>>(), held.collect());
            for (key, capacity) in KEYS.into_iter().zip([1, 3, 9]) {
                let held = model.held.iter().filter(|held| held.key == key && !model.expired(held));
                let used = held.count() + model.waiters(key).count();
                assert_eq!(slots.free(key, capacity, now), capacity.saturating_sub(used as u32));
            }
        });
        let keys = model.held.iter().map(|held| held.key);
        let keys: BTreeSet<_> = keys.chain(model.queue.iter().map(|waiter| waiter.key)).collect();
        assert_eq!(self.server.memory.head.semaphores.taken() as usize, keys.len());
    }

    /// Each wait that ended woke its process once; who was woken besides is first of its queue, and nobody sleeps past a lease's end.
    fn check_wakes(&mut self) {
        let mut woken = core::mem::take(&mut self.server.woken);
        for process in core::mem::take(&mut self.model.woken) {
            let at = woken.iter().position(|other| *other == process);
            woken.remove(at.expect("a wait ended without a wake"));
        }
        let model = &self.model;
        for process in woken {
            let first = KEYS.iter().any(|key| model.first(*key) == Some(process));
            assert!(first || model.ended.contains_key(&process), "{process} has nothing to see");
            self.alarms.insert(process, self.server.run(|slots| slots.next_look(process)));
        }
        for key in KEYS {
            for (process, is_first) in model.waiters(key).zip([true].into_iter().chain([false; 9]))
            {
                let look = self.server.run(|slots| slots.next_look(process));
                let soonest = model.leases(key).min().filter(|_| is_first);
                assert_eq!(look.is_some(), soonest.is_some());
                assert!(look <= soonest);
                let alarm = self.alarms[&process];
                assert!(look.is_none() || alarm.is_some() && alarm <= look, "it oversleeps");
            }
        }
    }

    /// All go.
    fn leave(mut self) {
        for process in 0..PROCESSES {
            self.run(Step::Cancel(process));
        }
        while let Some(at) = self.model.held.iter().position(|held| held.lease.is_none()) {
            self.run(Step::Release(at));
        }
        self.run(Step::Later(DAY));
        self.run(Step::Sweep(4));
        let head = &self.server.memory.head;
        assert_eq!((head.holders.taken(), head.semaphores.taken(), head.displaced), (0, 0, 0));
        for n in 0..SLOTS as u64 {
            assert!(
                self.server.take([2 * n + 1, n], 1, 0).is_ok(),
                "every place can be used again"
            );
        }
    }
}

proptest! {
    #[test]
    fn slots_do_what_two_lists_would(steps in prop::collection::vec(step(), 1..150)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.run(step);
        }
        pair.leave();
    }
}
