//! Key templates: `{tenant_id}:{user_id}`.
//!
//! Different rows must not give the same key by accident, so the text of a key can be read back: inside a value, the
//! backslash, the colon and whatever begins a separator of the template are preceded by a backslash, and null is `\N`.
//! A template with a single placeholder leaves values as they are.

use super::Row;

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Column(Vec<u8>),
}

/// A parsed template.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    /// What is escaped inside values; nothing where there is one placeholder.
    special: Vec<u8>,
}

impl Template {
    /// Reads a template; the error is a sentence.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        loop {
            match rest {
                [] => break,
                [b'{', b'{', tail @ ..] | [b'}', b'}', tail @ ..] => {
                    literal.push(rest[0]);
                    rest = tail;
                }
                [b'{', tail @ ..] => {
                    let end = tail.iter().position(|byte| *byte == b'}' || *byte == b'{');
                    let Some(end) = end.filter(|end| tail[*end] == b'}') else {
                        return Err(
                            "A brace is opened and not closed; write a literal one twice.".into()
                        );
                    };
                    if end == 0 {
                        return Err("There is no column name between the braces.".into());
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    } else if let Some(Piece::Column(_)) = pieces.last() {
                        return Err("Two placeholders need something between them.".into());
                    }
                    pieces.push(Piece::Column(tail[..end].to_vec()));
                    rest = &tail[end + 1..];
                }
                [b'}', ..] => {
                    return Err(
                        "A brace is closed and was not opened; write a literal one twice.".into()
                    )
                }
                [byte, tail @ ..] => {
                    literal.push(*byte);
                    rest = tail;
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template { special: special(&pieces), pieces })
    }

    /// The key of a row; the error names a column that the row does not have.
    pub fn key(&self, row: &Row) -> Result<Vec<u8>, String> {
        self.fill(|column| {
            let value = row.column(row.number(column)?);
            Ok(value.map(|value| value.into_owned()))
        })
    }

    fn fill(
        &self,
        mut value_of: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, String>,
    ) -> Result<Vec<u8>, String> {
        let mut key = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => key.extend(text),
                Piece::Column(name) => match value_of(name)? {
                    Some(value) => self.escape(&value, &mut key),
                    None => key.extend(b"\\N"),
                },
            }
        }
        Ok(key)
    }

    fn escape(&self, value: &[u8], key: &mut Vec<u8>) {
        // Alone, a value only must not look like null.
        if self.special.is_empty() {
            if let Some(backslashes) = value.strip_suffix(b"N") {
                if !backslashes.is_empty() && backslashes.iter().all(|byte| *byte == b'\\') {
                    key.push(b'\\');
                }
            }
            key.extend(value);
            return;
        }
        for byte in value {
            if self.special.contains(byte) {
                key.push(b'\\');
            }
            key.push(*byte);
        }
    }
}

fn special(pieces: &[Piece]) -> Vec<u8> {
    let columns = pieces.iter().filter(|piece| matches!(piece, Piece::Column(_))).count();
    if columns < 2 {
        return Vec::new();
    }
    let first = |piece: &Piece| match piece {
        Piece::Literal(text) => text.first().copied(),
        Piece::Column(_) => None,
    };
    pieces.iter().filter_map(first).chain([b'\\', b':']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, values: &[Option<&str>]) -> String {
        let mut values = values.iter();
        let template = Template::parse(template.as_bytes()).unwrap();
        let next = |_: &[u8]| Ok(values.next().unwrap().map(|value| value.as_bytes().to_vec()));
        String::from_utf8(template.fill(next).unwrap()).unwrap()
    }

    #[test]
    fn placeholders_are_replaced_and_doubled_braces_are_literal() {
        assert_eq!(key("user:{id}", &[Some("42")]), "user:42");
        assert_eq!(key("{{{a}}}", &[Some("x")]), "{x}");
        assert_eq!(key("all", &[]), "all");
    }

    #[test]
    fn different_values_give_different_keys() {
        assert_eq!(key("{a}:{b}", &[Some("x:y"), Some("z")]), "x\\:y:z");
        assert_eq!(key("{a}:{b}", &[Some("x"), Some("y:z")]), "x:y\\:z");
        assert_eq!(key("{a}-{b}", &[Some("x-y"), Some("z")]), "x\\-y-z");
        assert_eq!(key("{a}:{b}", &[None, Some("\\N")]), "\\N:\\\\N");
        assert_eq!(key("{a}", &[None]), "\\N");
        assert_eq!(key("{a}", &[Some("\\N")]), "\\\\N");
        assert_eq!(key("{a}", &[Some("x:\\y")]), "x:\\y");
    }

    #[test]
    fn a_wrong_template_is_refused() {
        for text in ["{a", "a}", "{}", "{a}{b}", "{a{b}}"] {
            assert!(Template::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
