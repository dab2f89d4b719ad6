//! The key of a slot, for those who look.

use core::fmt;

/// So many bytes of a key are kept. A host whose texts are not UTF-8 cuts them itself, between characters.
pub const MAX_TEXT: usize = 176;

/// A key, cut to [`MAX_TEXT`] bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    length: u16,
    bytes: [u8; MAX_TEXT],
}

impl Text {
    /// The text, or its beginning: to the end of a character of UTF-8.
    pub fn new(text: &[u8]) -> Self {
        let mut new = Text::default();
        new.set(text);
        new
    }

    /// Writes no more than there is: most are short.
    pub(super) fn set(&mut self, text: &[u8]) {
        let text = cut(text);
        self.length = text.len() as u16;
        if let Some(place) = self.bytes.get_mut(..text.len()) {
            place.copy_from_slice(text);
        }
    }

    /// What is kept.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or(&[])
    }
}

impl Default for Text {
    fn default() -> Self {
        Text { length: 0, bytes: [0; MAX_TEXT] }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

fn cut(text: &[u8]) -> &[u8] {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let starts = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xC0 != 0x80);
    let end = (MAX_TEXT - 3..=MAX_TEXT).rev().find(starts).unwrap_or(MAX_TEXT);
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(Text::new(b"user:42").as_bytes(), b"user:42");
        let long = "x".repeat(MAX_TEXT - 1);
        for (text, kept) in [("xx", 1), ("\u{e4}", 0), ("x\u{e4}", 1), ("\u{1f600}", 0)] {
            let text = [&long, text].concat();
            let kept = MAX_TEXT - 1 + kept;
            assert_eq!(Text::new(text.as_bytes()).as_bytes(), &text.as_bytes()[..kept]);
        }
    }
}
