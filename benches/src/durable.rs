//! What clients get from durable limits, beside the upsert into a logged table and Redis: all of them have it on disk before they
//! answer.

use std::path::PathBuf;

use anyhow::{ensure, Result};
use serde_json::{json, Value};

use crate::clients::{Cell, Clients};
use crate::contender::{Contender, Keys};
use crate::house::{House, Kept};
use crate::lab::{Lab, SOME_KEYS};
use crate::machine;
use crate::options::Options;
use crate::redis::Redis;
use crate::stats::Spread;

/// How many clients there are.
pub const CLIENTS: u32 = 8;

/// Each beside what it is compared with.
const CELLS: [(Contender, Keys); 6] = [
    (Contender::Denied, Keys::Hot),
    (Contender::DurableDenied, Keys::Hot),
    (Contender::Durable, Keys::Some),
    (Contender::Durable, Keys::Hot),
    (Contender::Commit, Keys::Hot),
    (Contender::UpsertLogged, Keys::Hot),
];

/// All that was measured.
pub struct Durable {
    pub clients: Clients,
    /// Requests a second of Redis in each round, where it is installed.
    pub redis: Option<Vec<f64>>,
    /// Milliseconds that a flush of the disk took, before each round.
    pub flush: Spread,
    pub house: Kept,
}

/// Measures all cells in turns, while house is kept.
pub fn measure(lab: &mut Lab, options: &Options) -> Result<Durable> {
    let cells = || {
        let cell = |(contender, keys)| Cell::new(contender, keys, CLIENTS);
        Clients { cells: CELLS.into_iter().map(cell).collect() }
    };
    use_keys(lab)?;
    let mut redis = Redis::start(lab.server(), CLIENTS);
    eprintln!("==> durable: warming up");
    cells().round(lab, 0, 1, |_| true)?;

    let house = House::keep(lab.server())?;
    let mut clients = cells();
    let folder = PathBuf::from(lab.server().host());
    let (mut requests, mut flushes) = (Vec::new(), Vec::new());
    for round in 0..options.durable_rounds {
        eprintln!("==> durable: round {} of {}", round + 1, options.durable_rounds);
        flushes.extend(machine::flushes(&folder)?);
        clients.round(lab, round, options.seconds, |_| true)?;
        if let Some(redis) = &mut redis {
            requests.extend(redis.run(options.seconds).ok());
        }
    }
    let house = house.end()?;
    let flush = Spread::of(flushes);
    Ok(Durable { clients, redis: redis.map(|_| requests), flush, house })
}

/// Brings all keys into shared memory.
fn use_keys(lab: &mut Lab) -> Result<()> {
    let sql = format!(
        "SELECT count(*) FROM generate_series(1, {SOME_KEYS}) AS n
         WHERE rl_try_acquire('durable', 'user:' || n)"
    );
    let count: i64 = lab.client().query_one(&sql, &[])?.get(0);
    ensure!(count.unsigned_abs() == SOME_KEYS, "only {count} of {SOME_KEYS} keys were allowed");
    Ok(())
}

impl Durable {
    pub fn to_json(&self) -> Value {
        json!({
            "cells": self.clients.to_json(), "redis_requests_per_second": self.redis,
            "flush_ms": self.flush.to_json(), "house_keeping": self.house.to_json(),
        })
    }
}
