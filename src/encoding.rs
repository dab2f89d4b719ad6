//! Texts of the database as Rust's strings, and back.
//!
//! Mostly both are UTF-8. In a database of another encoding each byte becomes the character of that number: so an error shows what
//! a user wrote byte by byte, and there is no conversion that could fail in the middle of it.

use std::borrow::Cow;

use pgrx::pg_sys;

fn is_utf8() -> bool {
    // SAFETY: a plain variable, set when the process connected to its database.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// A text of the database as a string.
pub fn decode(text: &[u8]) -> Cow<'_, str> {
    if is_utf8() {
        String::from_utf8_lossy(text)
    } else {
        text.iter().copied().map(char::from).collect()
    }
}

/// A string as a text of the database. Where it was cut within a letter, `?` stands for all that is not ASCII.
pub fn encode(text: &str) -> Cow<'_, [u8]> {
    if is_utf8() {
        return Cow::Borrowed(text.as_bytes());
    }
    let byte = |letter| u8::try_from(letter).unwrap_or(b'?');
    let mut bytes: Vec<u8> = text.chars().map(byte).collect();
    // SAFETY: so many bytes; what is wrong with them is answered, and not raised.
    let valid = unsafe {
        let (encoding, length) = (pg_sys::GetDatabaseEncoding(), bytes.len() as i32);
        pg_sys::pg_verify_mbstr(encoding, bytes.as_ptr().cast(), length, true)
    };
    if !valid {
        bytes.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
    }
    Cow::Owned(bytes)
}

/// The first letters of a text, so many at most.
pub fn first(text: &[u8], letters: i32) -> &[u8] {
    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
    // SAFETY: so many bytes. It answers how many of them to take.
    let length = unsafe { pg_sys::pg_mbcharcliplen(text.as_ptr().cast(), length, letters) };
    text.get(..length as usize).unwrap_or(text)
}

/// As many whole letters of a text as have so many bytes at most.
pub fn clip(text: &[u8], bytes: usize) -> &[u8] {
    if text.len() <= bytes {
        return text;
    }
    let limit = i32::try_from(bytes).unwrap_or(i32::MAX);
    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
    // SAFETY: so many bytes of a text that the server has checked. It answers how many of them to take.
    let length = unsafe { pg_sys::pg_mbcliplen(text.as_ptr().cast(), length, limit) };
    text.get(..length as usize).unwrap_or(text)
}

/// A string that goes to or comes from databases of other encodings: only UTF-8 has more than ASCII in common with them.
pub fn portable(text: &str) -> Cow<'_, str> {
    if is_utf8() || text.is_ascii() {
        Cow::Borrowed(text)
    } else {
        text.replace(|letter: char| !letter.is_ascii(), "?").into()
    }
}
