//! What clients get, through the protocol, with prepared statements.

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::contender::{Contender, Keys};
use crate::lab::Lab;
use crate::options::Options;
use crate::pgbench::{self, Length, Slice};
use crate::stats::Spread;

/// Numbers of clients.
pub const CLIENTS: [u32; 3] = [1, 2, 8];

/// One contender with some keys and so many clients.
pub struct Cell {
    pub contender: Contender,
    pub keys: Keys,
    pub clients: u32,
    /// With the round that each belongs to.
    slices: Vec<(usize, Slice)>,
}

/// All that was measured with clients.
pub struct Clients {
    pub cells: Vec<Cell>,
}

/// Measures all cells in turns.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Clients> {
    lab.use_all_keys()?;
    let mut cells = Vec::new();
    for clients in CLIENTS {
        for contender in Contender::ALL {
            // Hot beside spread, and the empty function beside rl_try_acquire: what is compared, runs at nearly the same time.
            let keys = if contender == Contender::Acquire {
                [Keys::Spread, Keys::Hot]
            } else {
                [Keys::Hot, Keys::Spread]
            };
            for keys in keys.into_iter().filter(|keys| contender.runs_with(*keys)) {
                cells.push(Cell::new(contender, keys, clients));
            }
        }
    }
    let mut measured = Clients { cells };
    for round in 0..options.rounds {
        eprintln!("==> pgbench: round {} of {}", round + 1, options.rounds);
        let everybody = round % options.others_every == 0;
        let take_part = |cell: &Cell| everybody || cell.contender.has_target();
        measured.round(lab, round, options.seconds, take_part)?;
    }
    Ok(measured)
}

impl Cell {
    pub fn new(contender: Contender, keys: Keys, clients: u32) -> Self {
        Cell { contender, keys, clients, slices: Vec::new() }
    }

    fn spread(&self, figure: impl Fn(&Slice) -> f64) -> Spread {
        Spread::of(self.slices.iter().map(|(_, slice)| figure(slice)))
    }

    pub fn tps(&self) -> Spread {
        self.spread(|slice| slice.tps)
    }

    pub fn server_cpu(&self) -> Spread {
        self.spread(|slice| slice.server_cpu)
    }

    pub fn client_cpu(&self) -> Spread {
        self.spread(|slice| slice.client_cpu)
    }
}

impl Clients {
    /// Measures each cell that takes part once, for so many seconds.
    pub fn round(
        &mut self,
        lab: &Lab,
        round: usize,
        seconds: u32,
        take_part: impl Fn(&Cell) -> bool,
    ) -> Result<()> {
        let mut order: Vec<&mut Cell> =
            self.cells.iter_mut().filter(|cell| take_part(cell)).collect();
        // Who came first comes last in the next round, so that a trend favours nobody.
        if round % 2 == 1 {
            order.reverse();
        }
        for cell in order {
            let script = lab.script(cell.contender, cell.keys)?;
            let length = Length::Seconds(seconds);
            let slice = pgbench::run(lab.server(), &script, cell.clients, length)
                .with_context(|| cell.contender.name())?;
            cell.slices.push((round, slice));
        }
        Ok(())
    }

    pub fn find(&self, contender: Contender, keys: Keys, clients: u32) -> Option<&Cell> {
        let wanted = (contender, keys, clients);
        self.cells.iter().find(|cell| (cell.contender, cell.keys, cell.clients) == wanted)
    }

    /// The ratio of two cells in `figure`, in each round that both were in.
    pub fn ratio(&self, of: &Cell, to: &Cell, figure: impl Fn(&Slice) -> f64) -> Spread {
        let pairs = of.slices.iter().filter_map(|(round, slice)| {
            let (_, other) = to.slices.iter().find(|(same, _)| same == round)?;
            Some(figure(slice) / figure(other))
        });
        Spread::of(pairs)
    }

    /// How many processors others used while a slice ran.
    pub fn other_load(&self) -> Spread {
        let slices = self.cells.iter().flat_map(|cell| &cell.slices);
        Spread::of(slices.map(|(_, slice)| slice.other_load))
    }

    pub fn to_json(&self) -> Value {
        let cell = |cell: &Cell| {
            let rounds = cell.slices.iter().map(|(round, slice)| {
                let mut value = slice.to_json();
                value["round"] = json!(round);
                value
            });
            json!({
                "name": cell.contender.name(),
                "keys": cell.keys.name(),
                "clients": cell.clients,
                "script": cell.contender.script(cell.keys),
                "tps": cell.tps().to_json(),
                "server_cpu_us": cell.server_cpu().to_json(),
                "client_cpu_us": cell.client_cpu().to_json(),
                "rounds": rounds.collect::<Vec<_>>(),
            })
        };
        self.cells.iter().map(cell).collect()
    }
}
