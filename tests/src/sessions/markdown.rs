//! The SQL in a Markdown document.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A document with fenced blocks of SQL. A block may have a name behind the language: ` ```sql worker `.
pub struct Document {
    text: String,
}

/// A statement, with the comment behind it and the number of the line where it ends.
#[derive(Debug, PartialEq)]
pub struct Statement<'a> {
    pub sql: &'a str,
    pub comment: &'a str,
    pub line: usize,
}

impl Document {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { text })
    }

    /// The statements of all blocks, in their order.
    pub fn statements(&self) -> Vec<Statement<'_>> {
        let mut statements = Vec::new();
        for (_, start, end) in self.blocks() {
            let mut at = start;
            while let Some(length) = statement_length(&self.text[at..end]) {
                let (sql, rest) = self.text[at..end].split_at(length);
                let line_rest = rest.lines().next().unwrap_or_default();
                let comment = line_rest.trim_start().strip_prefix("--");
                at += length;
                let line = 1 + self.text[..at].matches('\n').count();
                let sql = sql.trim();
                statements.push(Statement {
                    sql,
                    comment: comment.unwrap_or_default().trim(),
                    line,
                });
                at += comment.map_or(0, |_| line_rest.len());
            }
        }
        statements
    }

    /// The text of the block of that name.
    pub fn block(&self, name: &str) -> Result<&str> {
        let found = self.blocks().find(|(found, _, _)| *found == name);
        let (_, start, end) = found.with_context(|| format!("there is no block {name}"))?;
        Ok(&self.text[start..end])
    }

    /// Name, start and end of each block.
    fn blocks(&self) -> impl Iterator<Item = (&str, usize, usize)> {
        const FENCE: &str = "```sql";
        let mut at = 0;
        std::iter::from_fn(move || {
            let fence = at + self.text[at..].find(FENCE)? + FENCE.len();
            let start = fence + self.text[fence..].find('\n')? + 1;
            let end = self.text[start..].find("```").map_or(self.text.len(), |found| start + found);
            at = (end + 3).min(self.text.len());
            Some((self.text[fence..start].trim(), start, end))
        })
    }
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
