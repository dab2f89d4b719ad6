//! What a transaction remembers of what it took, to give it back if it rolls back.

use smallvec::SmallVec;

use crate::meter::Meter;
use crate::rule::{with_meter, Rule, LOG_KIND};
use crate::time::{Micros, Now};
use crate::token_bucket::{later, of_part};

/// One charge, or several that need not be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// When it was made, or for when it was booked; of several, the last.
    pub at: Now,
    /// How much was taken.
    pub cost: u64,
    /// Of several, when the first was made.
    pub(crate) since: Micros,
    /// Where it stands: the algorithm's own measure.
    pub(crate) position: i128,
    /// How much was ever given back before.
    pub(crate) returned: u32,
    /// Under which definition.
    pub(crate) mark: u32,
    /// The state's epoch: in another one the receipt is worth nothing.
    pub(crate) epoch: u8,
}

impl Receipt {
    pub(crate) fn new(at: Now, cost: u64, position: i128, returned: u32, mark: u32) -> Self {
        Receipt { at, cost, since: at.steady, position, returned, mark, epoch: 0 }
    }
}

/// What one transaction took of one rule for one key, oldest first. Its length is bounded.
#[derive(Clone, Debug, Default)]
pub struct Receipts(SmallVec<[Receipt; 1]>);

/// When there are twice as many, they are made so many: enough for all that the longest log can hold.
const MANY: usize = 1_024;

impl Receipts {
    /// Adds one. It becomes part of the last one if that makes no difference, or next to none, and then rather for counting too
    /// much and giving back too little.
    #[inline]
    pub fn add(&mut self, rule: &Rule, receipt: Receipt) {
        if let Some(last) = self.0.last_mut() {
            let same = last.mark == receipt.mark && last.epoch == receipt.epoch;
            if let Some(both) =
                with_meter!(rule, meter => meter.merged(last, &receipt)).filter(|_| same)
            {
                *last = both;
                return;
            }
        }
        self.0.push(receipt);
        if self.0.len() >= 2 * MANY {
            self.compact(rule);
        }
    }

    /// Adds those of a savepoint that has been released.
    pub fn append(&mut self, rule: &Rule, later: Receipts) {
        for receipt in later.0 {
            self.add(rule, receipt);
        }
    }

    #[cold]
    fn compact(&mut self, rule: &Rule) {
        let mut kept = SmallVec::new();
        for pair in self.0.chunks(2) {
            match pair {
                [one, other] if one.mark == other.mark && one.epoch == other.epoch => {
                    match with_meter!(rule, meter => meter.squeezed(one, other)) {
                        Some(both) => kept.push(both),
                        None => {
                            kept.clear();
                            break;
                        }
                    }
                }
                _ => kept.extend_from_slice(pair),
            }
        }
        if kept.is_empty() {
            // Windows that ended long ago, or times that no log has room for.
            self.0.drain(..self.0.len() - MANY);
        } else {
            self.0 = kept;
        }
    }

    /// Removes up to `cost` of what was taken last, and returns it.
    pub fn take_back(&mut self, rule: &Rule, mut cost: u64) -> Receipts {
        let mut taken = Receipts::default();
        while let Some(last) = self.0.last_mut().filter(|_| cost > 0) {
            let part = last.cost.min(cost);
            cost -= part;
            let rest = with_meter!(rule, meter => meter.shortened(last, part));
            let fitted = match rule.kind() {
                LOG_KIND => last.returned - rest.returned,
                _ if rest.cost > 0 => of_part(last.returned),
                _ => last.returned,
            };
            taken.0.insert(0, Receipt { cost: part, returned: fitted, ..*last });
            *last = rest;
            if last.cost == 0 {
                self.0.pop();
            }
        }
        taken
    }

    /// Something that was taken later has been undone: so many steps, as [`Limit::undo`](crate::Limit::undo) says, did not move
    /// up what is remembered here.
    pub fn moved_up(&mut self, steps: u32) {
        for receipt in self.0.iter_mut().filter(|_| steps > 0) {
            receipt.returned = later(receipt.returned, steps);
        }
    }

    /// Undoes all, the latest first, by `undo`, which says by how many steps others have moved up; and so does this. What is still to
    /// be undone was before that, and has not.
    pub fn undo(&self, mut undo: impl FnMut(&Receipt) -> u32) -> u32 {
        self.0.iter().rev().fold(0, |steps: u32, receipt| {
            let returned = later(receipt.returned, steps);
            steps.wrapping_add(undo(&Receipt { returned, ..*receipt }))
        })
    }

    /// Whether nothing is left of what was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The receipts, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Receipt> {
        self.0.iter()
    }
}
