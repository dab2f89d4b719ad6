//! What people are shown works: `examples/*.sql`, and the SQL of the README and of `docs/*.md`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use postgres::{Client, SimpleQueryMessage};

use super::ask::run;
use super::FileTest;
use crate::bed::Bed;

/// One test for each document that is there.
pub fn tests() -> Vec<FileTest> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests: Vec<FileTest> = Vec::new();
    for path in files(&top.join("examples"), "sql") {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        tests.push((format!("example_{name}"), Box::new(move |bed| example(bed, &path))));
    }
    let docs = files(&top.join("docs"), "md").into_iter().map(|path| ("docs_", path));
    for (prefix, path) in docs.chain([("", top.join("README.md"))]) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        if fs::read_to_string(&path).is_ok_and(|text| !statements(&text).is_empty()) {
            let name = format!("{prefix}{stem}");
            tests.push((name, Box::new(move |bed| document(bed, &path))));
        }
    }
    tests
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

/// Runs the SQL of a document, all of it in one session of a new database. A comment behind a statement says what comes of it:
///
/// ```sql
/// SELECT rl_try_acquire('api', 'user:42');  -- t
/// SELECT rl_enforce('api', 'user:42');      -- PT429
/// SELECT rl_try_acquire('api', 'me', -1);   -- ERROR: 22023
/// ```
///
/// Results are compared where they are one value; what follows the value in parentheses or behind a comma is for people.
fn document(bed: &Bed, path: &Path) -> Result<()> {
    let server = bed.private().database("document").start()?;
    let mut session = server.connect()?;
    let text = fs::read_to_string(path)?;
    let statements = statements(&text);
    ensure!(!statements.is_empty(), "there is no SQL in it");
    for Statement { sql, comment, line } in statements {
        check(&mut session, sql, comment).with_context(|| format!("line {line}: {sql}"))?;
    }
    Ok(())
}

fn check(session: &mut Client, sql: &str, comment: &str) -> Result<()> {
    let error = match comment.strip_prefix("ERROR:") {
        Some(code) => code.split_whitespace().next(),
        None if says(comment, "PT429") => Some("PT429"),
        None => None,
    };
    match (session.simple_query(sql), error) {
        (Err(found), Some(code)) if found.code().is_some_and(|found| found.code() == code) => {
            Ok(())
        }
        (Err(found), _) => Err(found.into()),
        (Ok(_), Some(code)) => bail!("no error {code}"),
        (Ok(messages), None) => {
            let rows: Vec<_> = messages
                .iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect();
            if let [row] = rows[..] {
                if row.len() == 1 && !comment.is_empty() {
                    let value = row.get(0).unwrap_or("NULL");
                    ensure!(says(comment, value), "{value} instead of {comment}");
                }
            }
            Ok(())
        }
    }
}

/// Whether a comment consists of a value, or begins with it.
fn says(comment: &str, value: &str) -> bool {
    match comment.strip_prefix(value) {
        Some(rest) => {
            rest.is_empty() || [", ", ": ", "; ", " ("].iter().any(|mark| rest.starts_with(mark))
        }
        None => false,
    }
}

/// A statement, with the comment behind it and the number of the line where it ends.
#[derive(Debug, PartialEq)]
struct Statement<'a> {
    sql: &'a str,
    comment: &'a str,
    line: usize,
}

/// The statements in all fenced blocks of SQL.
fn statements(document: &str) -> Vec<Statement<'_>> {
    let mut statements = Vec::new();
    let mut at = 0;
    while let Some(start) =
        document[at..].find("```sql\n").map(|found| at + found + "```sql\n".len())
    {
        let end = document[start..].find("```").map_or(document.len(), |found| start + found);
        at = start;
        while let Some(length) = statement_length(&document[at..end]) {
            let (sql, rest) = document[at..end].split_at(length);
            let line_rest = rest.lines().next().unwrap_or_default();
            let comment = line_rest.trim_start().strip_prefix("--").unwrap_or_default();
            at += length;
            let line = 1 + document[..at].matches('\n').count();
            statements.push(Statement { sql: sql.trim(), comment: comment.trim(), line });
            at += if line_rest.trim_start().starts_with("--") { line_rest.len() } else { 0 };
        }
        at = end + 3;
    }
    statements
}

/// How long the first statement is: up to a semicolon outside of comments and quotes.
fn statement_length(sql: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let quoted = |quote: &str| Some(rest[quote.len()..].find(quote)? + 2 * quote.len());
        at += match first {
            ';' => return Some(at + 1),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '\'' => quoted("'")?,
            '"' => quoted("\"")?,
            '$' => match dollar_quote(rest) {
                Some(quote) => quoted(quote)?,
                None => 1,
            },
            _ => first.len_utf8(),
        };
    }
    None
}

/// The opening `$tag$`, if there is one.
fn dollar_quote(sql: &str) -> Option<&str> {
    let tag = &sql[1..1 + sql[1..].find('$')?];
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_tag.then(|| &sql[..tag.len() + 2])
}
