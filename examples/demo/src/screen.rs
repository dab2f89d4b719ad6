//! What is written to the terminal, and how.

use std::io::{IsTerminal, Stdout, Write};
use std::time::Duration;

use anyhow::Result;

/// The columns that the demo is laid out for.
pub const WIDTH: usize = 79;

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const CYAN: &str = "36";

pub struct Screen {
    out: Stdout,
    pub terminal: bool,
    colour: bool,
}

/// Writes a line.
macro_rules! say {
    ($screen:expr) => { $screen.write("\n") };
    ($screen:expr, $($arg:tt)*) => { $screen.write(&format!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use say;

/// Writes a paragraph, broken into lines between words.
macro_rules! tell {
    ($screen:expr, $($arg:tt)*) => { $screen.paragraph(&format!($($arg)*)) };
}
pub(crate) use tell;

impl Screen {
    pub fn new() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { out, terminal, colour: terminal && !unwanted }
    }

    pub fn write(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    pub fn heading(&mut self, text: &str) -> Result<()> {
        let line = self.paint(BOLD, text);
        say!(self, "\n{line}")
    }

    pub fn paragraph(&mut self, text: &str) -> Result<()> {
        for line in broken(text, WIDTH) {
            say!(self, "{line}")?;
        }
        Ok(())
    }

    /// A command to copy.
    pub fn strong(&mut self, text: &str) -> Result<()> {
        let line = self.paint(BOLD, text);
        say!(self, "\n    {line}\n")
    }

    pub fn sql(&mut self, statements: &str) -> Result<()> {
        say!(self)?;
        for line in statements.lines() {
            let line = self.paint(CYAN, line);
            say!(self, "    {line}")?;
        }
        Ok(())
    }

    /// A line that the next one replaces, or one more line where there is no terminal.
    pub fn progress(&mut self, text: &str) -> Result<()> {
        if self.terminal {
            // What a narrow terminal broke into two lines, the next one could not replace.
            self.write(&format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"))
        } else {
            say!(self, "{text}")
        }
    }

    pub fn end_progress(&mut self) -> Result<()> {
        if self.terminal {
            say!(self)?;
        }
        Ok(())
    }

    /// A bar of `width` columns for `most`, of what passed and what was refused.
    pub fn bar(&self, width: usize, allowed: usize, limited: usize, most: usize) -> String {
        let columns = |count: usize| (count * width + most / 2) / most.max(1);
        let mut red = columns(limited);
        // What happened is never rounded away.
        if limited > 0 {
            red = red.max(1);
        }
        let green = columns(allowed + limited).saturating_sub(red);
        let rest = width.saturating_sub(green + red);
        let (green, red) = ("█".repeat(green), "░".repeat(red));
        format!("{}{}{}", self.good(&green), self.bad(&red), " ".repeat(rest))
    }

    pub fn good(&self, text: &str) -> String {
        self.paint(GREEN, text)
    }

    pub fn bad(&self, text: &str) -> String {
        self.paint(RED, text)
    }

    pub fn strengthened(&self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A number with its thousands set apart.
pub fn number(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in the unit that suits it.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs_f64();
    match value.as_secs() {
        0 if seconds == 0.0 => "0 s".to_owned(),
        0 if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        0 => format!("{:.0} ms", seconds * 1e3),
        60 if seconds.fract() == 0.0 => "1 min".to_owned(),
        whole @ 1..=119 if whole >= 10 || seconds.fract() < 0.05 => format!("{seconds:.0} s"),
        1..=119 => format!("{seconds:.1} s"),
        whole => {
            let minutes = (whole + 30) / 60;
            match (minutes / 60, minutes % 60) {
                (0 | 1, _) => format!("{minutes} min"),
                (hours, 0) => format!("{hours} h"),
                (hours, minutes) => format!("{hours} h {minutes} min"),
            }
        }
    }
}

/// The text in lines of at most `width` columns, where no word is longer.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The text without what control characters could do to a terminal, at most `width` columns long.
pub fn cell(text: &str, width: usize) -> String {
    let clean: Vec<_> = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if clean.len() <= width {
        return clean.into_iter().collect();
    }
    clean[..width - 1].iter().chain(['…'].iter()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn durations() {
        let shown = [0.000_5, 0.0893, 1.0, 14.94, 60.0, 300.0, 7199.0, 298_000.0]
            .map(|seconds| duration(Duration::from_secs_f64(seconds)));
        assert_eq!(
            shown,
            ["0.50 ms", "89 ms", "1 s", "15 s", "1 min", "5 min", "2 h", "82 h 47 min"]
        );
    }

    #[test]
    fn paragraphs() {
        assert_eq!(broken("a bc def", 4), ["a bc", "def"]);
        assert_eq!(broken("überall är", 7), ["überall", "är"]);
    }

    #[test]
    fn cells() {
        assert_eq!(cell("a\x1b[31m", 9), "a?[31m");
        assert_eq!(cell("2001:db8::1", 8), "2001:db…");
    }
}
