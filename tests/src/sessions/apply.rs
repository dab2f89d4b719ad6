//! Definitions as a document, where that takes many documents or large ones.

use anyhow::{ensure, Context, Result};

use super::ask::{ensure_code, Ask};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("a_wrong_document_changes_nothing", a_wrong_document_changes_nothing),
    ("many_overrides_are_applied_at_once", many_overrides_are_applied_at_once),
];

/// Each line has a place, two blanks at least, and a document that is wrong there.
const WRONG: &str = include_str!("../../../crates/ratelimit-config/src/wrong.txt");

const ALL: &str = "
    SELECT jsonb_build_object('limiters', (SELECT jsonb_agg(l) FROM rl_limiters AS l),
                              'rules', (SELECT jsonb_agg(r) FROM rl_rules AS r),
                              'overrides', (SELECT jsonb_agg(o) FROM rl_overrides AS o))::text";

fn a_wrong_document_changes_nothing(bed: &Bed) -> Result<()> {
    let database = bed.database("wrong_documents")?;
    let mut session = database.connect()?;
    session.batch_execute(
        r#"SELECT rl_apply_config('{"limiters": {"api": {"rates": "5/s", "overrides": {"key": {"action": "deny"}}},
                                                 "other": {"rates": "5/s"}}}')"#,
    )?;
    let before: String = session.ask(ALL)?;
    let mut wrong = 0;
    for line in WRONG.lines().filter(|line| !line.starts_with('#')) {
        let split = line.find(" {").unwrap_or(36);
        let (path, document) = line.split_at(split);
        let path = match path.trim() {
            "(document)" => "the document",
            path => path,
        };
        for arguments in ["", ", prune => true", ", dry_run => true"] {
            let apply = format!("SELECT rl_apply_config($${document}$${arguments})");
            let error = session.refused(&apply)?;
            ensure_code(&error, "22023")?;
            let detail = error.detail().context("no detail")?;
            ensure!(detail.starts_with(&format!("{path}: ")), "{document}: {detail}");
            ensure!(error.hint().is_some(), "{document}: no hint");
        }
        wrong += 1;
    }
    ensure!(wrong >= 100, "only {wrong} documents");
    ensure!(session.ask::<String>(ALL)? == before, "something was changed");
    Ok(())
}

fn many_overrides_are_applied_at_once(bed: &Bed) -> Result<()> {
    let database = bed.database("many_overrides")?;
    let mut session = database.connect()?;
    session.limiter("api", 5)?;
    session.batch_execute(
        "INSERT INTO rl_overrides (limiter, key, action) SELECT 'api', 'key:' || n, 'deny' FROM generate_series(1, 20000) AS n;
         CREATE TEMP TABLE document AS SELECT rl_export_config() AS config;
         UPDATE document SET config = jsonb_set(config, '{limiters,api,overrides,key:7,action}', '\"allow\"')
                                      #- '{limiters,api,overrides,key:8}';
         CREATE TEMP TABLE versions AS SELECT key, ctid AS place FROM rl_overrides",
    )?;
    let changed: i64 = session.ask("SELECT count(*) FROM document, rl_apply_config(config)")?;
    ensure!(changed == 1);
    let written: i64 = session
        .ask("SELECT count(*) FROM versions AS v FULL JOIN rl_overrides AS o USING (key) WHERE v.place IS DISTINCT FROM o.ctid")?;
    ensure!(written == 2, "{written} rows were written for two");
    ensure!(session.ask::<bool>("SELECT rl_export_config() = config FROM document")?);
    Ok(())
}
