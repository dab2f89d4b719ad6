//! Tests with several sessions, and with servers that stop or crash.

mod admission;
mod apply;
mod ask;
mod bans;
mod contention;
mod copies;
mod crash;
mod crowd;
mod deadlocks;
mod definitions;
mod documents;
mod dump;
mod durability;
mod durable_leases;
mod encodings;
mod every_call;
mod flood;
mod folding;
mod histories;
mod kinds;
mod leases;
mod lifecycle;
mod lists;
mod markdown;
mod monitoring;
mod oracle;
mod parallel;
mod planted;
mod postgrest;
mod privileges;
mod purging;
mod queue;
mod random;
mod read_only;
mod recipes;
mod releases;
mod resets;
mod rollback;
mod ruin;
mod saved;
mod savepoints;
mod settings;
mod slots_ceiling;
mod slots_crowd;
mod slots_interrupted;
mod slots_pooler;
mod slots_queue;
mod standby;
mod statistics;
mod transactions;
mod unloaded;
mod unloaded_leases;
mod unloaded_slots;
mod upgrade;
mod verdicts;
mod waiting;
mod worker;

use anyhow::Result;

use crate::bed::Bed;

/// A name and what to do.
pub type Test = (&'static str, fn(&Bed) -> Result<()>);

/// A test that is made for a file.
pub type FileTest = (String, Box<dyn Fn(&Bed) -> Result<()> + Send>);

/// Tests that need a pooler, which is not on all machines.
pub const POOLED: &[Test] = slots_pooler::TESTS;

/// All other tests; each module lists its own.
pub fn tests() -> Vec<FileTest> {
    let lists = [
        admission::TESTS,
        apply::TESTS,
        bans::TESTS,
        contention::TESTS,
        copies::TESTS,
        crash::TESTS,
        deadlocks::TESTS,
        definitions::TESTS,
        dump::TESTS,
        durability::TESTS,
        durable_leases::TESTS,
        encodings::TESTS,
        flood::TESTS,
        folding::TESTS,
        histories::TESTS,
        leases::TESTS,
        lifecycle::TESTS,
        lists::TESTS,
        monitoring::TESTS,
        parallel::TESTS,
        planted::TESTS,
        postgrest::TESTS,
        privileges::TESTS,
        purging::TESTS,
        read_only::TESTS,
        recipes::TESTS,
        releases::TESTS,
        resets::TESTS,
        ruin::TESTS,
        saved::TESTS,
        settings::TESTS,
        slots_ceiling::TESTS,
        slots_crowd::TESTS,
        slots_interrupted::TESTS,
        slots_queue::TESTS,
        standby::TESTS,
        statistics::TESTS,
        transactions::TESTS,
        unloaded::TESTS,
        unloaded_leases::TESTS,
        unloaded_slots::TESTS,
        upgrade::TESTS,
        verdicts::TESTS,
        waiting::TESTS,
        worker::TESTS,
    ];
    let named = lists
        .concat()
        .into_iter()
        .map(|(name, test)| -> FileTest { (name.to_owned(), Box::new(test)) });
    let made = [
        admission::tests(),
        documents::tests(),
        rollback::tests(),
        savepoints::tests(),
        slots_interrupted::tests(),
        slots_queue::tests(),
        transactions::tests(),
        waiting::interruptions(),
        waiting::tests(),
    ];
    named.chain(made.into_iter().flatten()).collect()
}
