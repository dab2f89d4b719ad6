//! Looking into a JSON document by places: what stands where, and what is wrong there.
//!
//! Deriving `Deserialize` would be shorter. It stops at the first mistake, speaks of Rust's types, takes an array for an object,
//! and cannot say where the mistake is when two fields contradict each other.

use std::cell::RefCell;
use std::fmt::Display;

use ratelimit_core::MAX_QUOTA;
use serde_json::{Map, Value};

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The place, as `limiters.api.rules[0].rate`; empty for the document as a whole.
    pub path: String,
    /// Sentences that say what is wrong there.
    pub detail: String,
}

/// Mistakes in the order in which they were found.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<Vec<Mistake>>);

impl Mistakes {
    pub fn add(&self, path: &str, detail: impl Display) {
        let (path, detail) = (path.to_owned(), detail.to_string());
        self.0.borrow_mut().push(Mistake { path, detail });
    }

    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn into_inner(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}

/// An object of a document, and its place.
pub struct Object<'a> {
    pub path: String,
    fields: &'a Map<String, Value>,
    mistakes: &'a Mistakes,
}

impl<'a> Object<'a> {
    /// An object with any fields.
    pub fn open(path: String, value: &'a Value, mistakes: &'a Mistakes) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Object { path, fields, mistakes }),
            other => {
                mistakes.add(&path, expected("an object", other));
                None
            }
        }
    }

    /// The object, of which nothing but these fields is known.
    pub fn with_fields(self, known: &[&str]) -> Self {
        for name in self.fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            self.wrong(name, format!("There is no such field. Here can be: {known}."));
        }
        self
    }

    /// What each field has.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// What a field has; null is as good as nothing.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// What a field has, if it is there and not wrong.
    pub fn read<T>(&self, name: &str, read: impl Fn(&'a Value) -> Result<T, String>) -> Option<T> {
        match read(self.get(name)?) {
            Ok(value) => Some(value),
            Err(detail) => {
                self.wrong(name, detail);
                None
            }
        }
    }

    /// The object in a field.
    pub fn object(&self, name: &str) -> Option<Object<'a>> {
        Object::open(self.path_of(name), self.get(name)?, self.mistakes)
    }

    /// The objects of an array in a field. One that is none is left out.
    pub fn objects(&self, name: &str) -> Option<Vec<Object<'a>>> {
        let elements = self.read(name, |value| match value {
            Value::Array(elements) => Ok(elements),
            other => Err(expected("an array", other)),
        })?;
        let path = |n| format!("{}[{n}]", self.path_of(name));
        let elements = elements.iter().enumerate();
        Some(elements.filter_map(|(n, e)| Object::open(path(n), e, self.mistakes)).collect())
    }

    /// The place of a field.
    pub fn path_of(&self, name: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let name = match !name.is_empty() && name.chars().all(plain) {
            true => shown(name),
            false => Value::from(shown(name)).to_string(),
        };
        match self.path.as_str() {
            "" => name,
            path => format!("{path}.{name}"),
        }
    }

    /// Says that a field is wrong.
    pub fn wrong(&self, name: &str, detail: impl Display) {
        self.mistakes.add(&self.path_of(name), detail);
    }

    /// Says that the object as a whole is wrong.
    pub fn whole(&self, detail: impl Display) {
        self.mistakes.add(&self.path, detail);
    }

    /// Says that a field is missing.
    pub fn missing(&self, name: &str) {
        self.whole(format!("The field {name} is missing."));
    }
}

/// A string.
pub fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

/// A whole number from `least` on, as PostgreSQL's integer has it.
pub fn integer(value: &Value, least: i32) -> Result<i32, String> {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    let number = number.filter(|number| *number >= least);
    number.ok_or_else(|| expected(&format!("a whole number from {least} to {}", i32::MAX), value))
}

/// A quota or burst.
pub fn quota(value: &Value, least: u64) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| (least..=MAX_QUOTA).contains(number));
    number.ok_or_else(|| expected(&format!("a whole number from {least} to {MAX_QUOTA}"), value))
}

/// One of several words.
pub fn word(value: &Value, words: &[&'static str]) -> Result<&'static str, String> {
    let found = words.iter().find(|word| value.as_str() == Some(word));
    found.copied().ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        expected(&words.join(" or "), value)
    })
}

fn expected(what: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => shown(&number.to_string()),
        Value::String(text) => format!("\"{}\"", shown(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    format!("Expected {what}, found {found}.")
}

/// The first characters of what a user wrote.
pub fn shown(text: &str) -> String {
    const MOST: usize = 63;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
