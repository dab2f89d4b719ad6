//! What the extension keeps for a transaction and one key.

use ratelimit_core::{Now, Receipt, Receipts, Rule};

use crate::common::Key;
use crate::{total, undo_all};

/// What was taken outside of all savepoints, and since each savepoint that is still there.
#[derive(Debug)]
pub struct Transaction(Vec<Receipts>);

impl Transaction {
    pub fn new() -> Self {
        Transaction(vec![Receipts::default()])
    }

    /// What was taken since the last savepoint.
    pub fn innermost(&self) -> &Receipts {
        self.0.last().unwrap()
    }

    pub fn has_savepoint(&self) -> bool {
        self.0.len() > 1
    }

    pub fn add(&mut self, rule: &Rule, receipt: Receipt) {
        self.0.last_mut().unwrap().add(rule, receipt);
    }

    pub fn savepoint(&mut self) {
        self.0.push(Receipts::default());
    }

    pub fn release(&mut self, rule: &Rule) {
        let inner = self.0.pop().unwrap();
        self.0.last_mut().unwrap().append(rule, inner);
    }

    pub fn roll_back_to_savepoint(&mut self, key: &mut Key, now: Now) {
        let inner = self.0.pop().unwrap();
        let steps = undo_all(key, now, &inner);
        for outer in &mut self.0 {
            outer.moved_up(steps);
        }
    }

    /// The latest first: what is undone later was taken before, and did not move up.
    pub fn roll_back(mut self, key: &mut Key, now: Now) {
        while let Some(inner) = self.0.pop() {
            let steps = undo_all(key, now, &inner);
            for outer in &mut self.0 {
                outer.moved_up(steps);
            }
        }
    }

    /// Gives back what was taken last since the last savepoint; says how much that was.
    pub fn take_back(&mut self, key: &mut Key, now: Now, cost: u64) -> u64 {
        let (inner, outer) = self.0.split_last_mut().unwrap();
        let before = total(inner);
        let taken = inner.take_back(&key.rule, cost);
        assert_eq!(total(&taken), cost.min(before));
        assert_eq!(total(inner), before - cost.min(before));
        let steps = undo_all(key, now, &taken);
        inner.moved_up(steps);
        for outer in outer {
            outer.moved_up(steps);
        }
        total(&taken)
    }
}
