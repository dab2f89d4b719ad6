//! What people are shown works: `examples/*.sql`, and the SQL of the README, the recipes and the comparison with peers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use postgres::{Client, SimpleQueryMessage};

use super::ask::run;
use super::markdown::{Document, Statement};
use super::FileTest;
use crate::bed::Bed;

/// One test for each document that is there.
pub fn tests() -> Vec<FileTest> {
    let mut tests: Vec<FileTest> = Vec::new();
    for path in files(&top().join("examples"), "sql") {
        tests.push((format!("example_{}", stem(&path)), Box::new(move |bed| example(bed, &path))));
    }
    let documents =
        ["docs", "docs/recipes"].iter().flat_map(|folder| files(&top().join(folder), "md"));
    for path in std::iter::once(top().join("README.md")).chain(documents) {
        if Document::read(&path).is_ok_and(|document| document.statements().is_empty()) {
            continue;
        }
        let name = format!("document_{}", stem(&path));
        let database = name.clone();
        tests.push((name, Box::new(move |bed| document(bed, &database, &path))));
    }
    tests
}

/// The recipe of that name.
pub fn recipe(name: &str) -> Result<Document> {
    Document::read(&top().join(format!("docs/recipes/{name}.md")))
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// Runs a file as a person would: with psql, in a new database.
fn example(bed: &Bed, path: &Path) -> Result<()> {
    let server = bed.private().database("example").start()?;
    let mut psql = server.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(path);
    psql.current_dir(path.parent().context("no folder")?);
    run(&mut psql, b"").map(drop)
}

/// Runs a document in a database of its own, in which the extension is unless the document creates it.
fn document(bed: &Bed, name: &str, path: &Path) -> Result<()> {
    let document = Document::read(path)?;
    let mut session = bed.database(name)?.connect()?;
    if document.statements().iter().any(|statement| statement.sql.starts_with("CREATE EXTENSION")) {
        session.batch_execute("DROP EXTENSION ratelimit")?;
    }
    check_all(&mut session, &document)
}

/// Runs the SQL of a document, all of it in one session. A comment behind a statement says what comes of it:
///
/// ```sql
/// SELECT rl_try_acquire('api', 'user:42');              -- t
/// SELECT quota, remaining FROM rl_peek('api', 'me');    -- 100, 99
/// SELECT key FROM keys ORDER BY key;                    -- ann; bob
/// SELECT key FROM keys WHERE false;                     -- no rows
/// SELECT rl_try_acquire('api', 'me', -1);               -- ERROR: 22023
/// ```
///
/// What follows in parentheses is for people, as is a comment behind a statement that returns no result.
fn check_all(session: &mut Client, document: &Document) -> Result<()> {
    let statements = document.statements();
    ensure!(!statements.is_empty(), "there is no SQL in it");
    for Statement { sql, comment, line } in statements {
        check(session, sql, comment).with_context(|| format!("line {line}: {sql}"))?;
    }
    Ok(())
}

fn check(session: &mut Client, sql: &str, comment: &str) -> Result<()> {
    let error = comment.strip_prefix("ERROR:").and_then(|code| code.split_whitespace().next());
    match (session.simple_query(sql), error) {
        (Err(found), Some(code)) => {
            let found = found.as_db_error().context("no answer")?;
            ensure!(found.code().code() == code, "{found} instead of {code}");
        }
        (Err(found), None) => return Err(found.into()),
        (Ok(_), Some(code)) => bail!("no error {code}"),
        (Ok(messages), None) => {
            if let Some(answer) = answer(&messages).filter(|_| !comment.is_empty()) {
                ensure!(says(comment, &answer), "{answer} instead of {comment}");
            }
        }
    }
    Ok(())
}

/// The rows of a result as comments write them; none for a statement that returns no result.
fn answer(messages: &[SimpleQueryMessage]) -> Option<String> {
    let mut rows: Option<Vec<String>> = None;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(_) => rows = Some(Vec::new()),
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..row.len()).map(|n| row.get(n).unwrap_or("NULL")).collect();
                rows.get_or_insert_default().push(values.join(", "));
            }
            _ => {}
        }
    }
    let rows = rows?;
    Some(if rows.is_empty() { "no rows".to_owned() } else { rows.join("; ") })
}

/// Whether a comment consists of an answer, or of something in parentheses, or of both.
fn says(comment: &str, answer: &str) -> bool {
    comment.starts_with('(')
        || comment
            .strip_prefix(answer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
}
