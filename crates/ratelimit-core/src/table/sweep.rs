//! Forgetting what has expired, so that searches find their end sooner.

use super::{Cell, Host, Table, GRACE};
use crate::time::Micros;

/// How many cells are looked at under one lock of their partition.
const CHUNK: usize = 1_000;

impl<H: Host> Table<'_, H> {
    /// Clears all cells whose key has been as good as new for a moment, and says how many there were. The moment is for those who read
    /// the clock before the key expired and have not found it yet.
    ///
    /// A search passes over a cleared cell, for what it looks for may lie behind. Where the next cell is empty nothing does: there the
    /// cleared one becomes empty too. So each partition is swept backwards. Its last cells are followed by its first ones: those that
    /// only become empty at the end of the sweep are left to the next.
    pub fn sweep(&self, now: Micros) -> u64 {
        let now = now.saturating_sub(GRACE);
        let partitions = self.cells.chunks_exact(self.shape.partition_size.max(1)).enumerate();
        partitions.map(|(partition, cells)| self.sweep_partition(partition, cells, now)).sum()
    }

    fn sweep_partition(&self, partition: usize, cells: &[Cell], now: Micros) -> u64 {
        let Some(mut next) = cells.first() else { return 0 };
        let mut cleared = 0;
        for chunk in cells.rchunks(CHUNK) {
            self.host.interrupts();
            // Nobody else gives an empty cell a key while we have this.
            self.host.lock(partition);
            for cell in chunk.iter().rev() {
                cleared += u64::from(self.sweep_cell(cell, next.is_empty(), now));
                next = cell;
            }
            self.host.unlock(partition);
        }
        cleared
    }

    /// Says whether there was something to clear.
    fn sweep_cell(&self, cell: &Cell, last: bool, now: Micros) -> bool {
        if cell.is_empty() || !cell.may_be_free(now) {
            return false;
        }
        let mut locked = cell.lock(|times| self.host.yield_now(times));
        if locked.free_from() > now {
            return false;
        }
        let expired = locked.fresh() > Micros::MIN;
        if last {
            locked.vacate();
        } else if expired {
            locked.clear();
        }
        expired
    }
}
