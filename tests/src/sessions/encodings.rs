//! Databases whose texts are not UTF-8: the sessions' are, and see what users wrote.

use anyhow::{ensure, Result};
use postgres::Client;

use super::ask::{ensure_code, Ask, AGE};
use super::kinds::Kind;
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("errors_show_what_users_wrote_in_latin1", |bed| shows(bed, "LATIN1", "é")),
    ("errors_show_what_users_wrote_in_euc_jp", |bed| shows(bed, "EUC_JP", "日")),
    ("documents_have_what_users_wrote", documents_have_what_users_wrote),
    ("errors_cut_no_letter_in_two", errors_cut_no_letter_in_two),
    ("house_is_kept_in_a_schema_of_any_name", house_is_kept_in_a_schema_of_any_name),
];

/// A session in a new database of this encoding, with the extension in a schema of this name.
fn database(bed: &Bed, name: &str, encoding: &str, schema: &str) -> Result<Client> {
    let server = bed.shared()?;
    server.connect()?.batch_execute(&format!(
        "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    ))?;
    let mut session = server.connect_to(name, "postgres")?;
    session.batch_execute(&format!(
        "CREATE SCHEMA \"{schema}\"; SET search_path = \"{schema}\"; CREATE EXTENSION ratelimit"
    ))?;
    Ok(session)
}

fn shows(bed: &Bed, encoding: &str, letter: &str) -> Result<()> {
    let name = format!("shows_{}", encoding.to_lowercase());
    let mut session = database(bed, &name, encoding, "limits")?;
    let mut check = |statement: &str, code: &str, shown: &str| {
        let error = session.refused(statement)?;
        ensure_code(&error, code)?;
        let text = format!("{} | {}", error.message(), error.detail().unwrap_or(""));
        ensure!(text.contains(shown), "{text} instead of {shown}");
        Ok(())
    };
    check(
        &format!("SELECT rl_try_acquire('n{letter}', 'key')"),
        "42704",
        &format!("limiter \"n{letter}\" does not exist"),
    )?;
    check(
        &format!("SELECT rl_create_limiter('x', '5 {letter} minute')"),
        "22023",
        &format!("invalid rate \"5 {letter} minute\" at character 3 | Expected \"per\" or \"/\", found \"{letter}\"."),
    )?;
    check(
        &format!("SELECT rl_create_limiter('n{letter}', '0 per day'); SELECT rl_enforce('n{letter}', 'key')"),
        "PT429",
        &format!("Limiter \"n{letter}\", retry_after never."),
    )?;
    check(
        &format!(
            "SELECT rl_create_limiter('api', '0 per day'); CREATE TABLE t (id int);
             CREATE TRIGGER \"t{letter}\" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION rl_limit_row('api', '{{c{letter}}}');
             INSERT INTO t VALUES (1)"
        ),
        "22023",
        &format!("trigger \"t{letter}\": invalid argument 2, the key template \"{{c{letter}}}\" | The table has no column \"c{letter}\"."),
    )
}

fn documents_have_what_users_wrote(bed: &Bed) -> Result<()> {
    for (encoding, letter) in [("LATIN1", "é"), ("EUC_JP", "日")] {
        let mut session =
            database(bed, &format!("document_{}", encoding.to_lowercase()), encoding, "limits")?;
        let name = letter.repeat(20);
        let document = format!(
            r#"{{"limiters": {{"{name}": {{"rates": "5 per hour", "description": "{letter}"}}}}}}"#
        );
        session.batch_execute(&format!("SELECT rl_apply_config('{document}')"))?;
        ensure!(session.ask::<bool>(&format!("SELECT rl_export_config() = '{document}'"))?);
        ensure!(session.ask::<bool>(&format!("SELECT description = '{letter}' FROM rl_limiters"))?);
        let wrong = document.replace(" per ", &format!(" {letter} "));
        let error = session.refused(&format!("SELECT rl_apply_config('{wrong}')"))?;
        let detail = error.detail().unwrap_or("");
        ensure!(
            detail.contains(&format!("{name}.rates: "))
                || detail.contains(&format!("\"{name}\".rates: ")),
            "{detail}"
        );
        ensure!(
            detail.contains(&format!("Expected \"per\" or \"/\", found \"{letter}\".")),
            "{detail}"
        );
    }
    Ok(())
}

fn errors_cut_no_letter_in_two(bed: &Bed) -> Result<()> {
    let mut session = database(bed, "cuts", "EUC_JP", "limits")?;
    let long = "日".repeat(100);
    let error = session.refused(&format!("SELECT rl_try_acquire('{long}', 'key')"))?;
    let shown = "日".repeat(63);
    ensure!(error.message() == format!("limiter \"{shown}...\" does not exist"), "{error}");
    // Where a word begins with the second byte of a letter, the letter is not shown.
    let error = session.refused("SELECT rl_create_limiter('x', 'あ')")?;
    ensure!(error.message() == "invalid rate \"あ\" at character 1", "{error}");
    ensure!(error.detail() == Some("Expected a quota, found \"?\"."), "{:?}", error.detail());
    Ok(())
}

fn house_is_kept_in_a_schema_of_any_name(bed: &Bed) -> Result<()> {
    let mut session = database(bed, "any_schema", "LATIN1", "sch\u{e9}ma")?;
    Kind::Durable.create(&mut session, "api", &format!("10 per {AGE}"), "token_bucket")?;
    session.batch_execute("SELECT rl_enforce('api', 'key')")?;
    ensure!(session.ask::<i64>("SELECT rl_purge()")? == 1, "nothing was folded");
    ensure!(session.left("api", "key")? == 9);
    Ok(())
}
