//! Reading logs.

mod access;
mod auth;
pub mod date;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::scene::{Kind, LOGINS, WEB};

/// Something a client did.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Microseconds since the epoch.
    pub at: i64,
    pub client: String,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub enum What {
    Request { method: String, path: String, status: i32, bytes: i64, agent: Option<String> },
    FailedLogin { account: String },
}

/// What a log holds.
pub struct Log {
    pub kind: &'static Kind,
    pub entries: Vec<Entry>,
    pub lines: usize,
    /// How many lines gave no entry.
    pub skipped: usize,
    /// How many entries come from lines that stand for several.
    pub repeated: usize,
}

impl Log {
    pub fn read(path: &Path) -> Result<Self> {
        let cannot_read = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot_read)?;
        Self::parse(BufReader::new(file)).with_context(cannot_read)
    }

    /// Takes the lines for what most of them are.
    pub fn parse(mut input: impl BufRead) -> Result<Self> {
        ensure!(!input.fill_buf()?.starts_with(b"\x1f\x8b"), "it is compressed; unpack it first");
        let (mut requests, mut logins) = (Vec::new(), Vec::new());
        let (mut lines, mut login_lines, mut repeated) = (0, 0, 0);
        let mut bytes = Vec::new();
        while input.read_until(b'\n', &mut bytes)? > 0 {
            // The server takes text in UTF-8 and without zeros.
            let line = String::from_utf8_lossy(bytes.trim_ascii()).replace('\0', "\u{fffd}");
            bytes.clear();
            lines += usize::from(!line.is_empty());
            if let Some(entry) = access::parse(&line) {
                requests.push(entry);
            } else if let Some((entry, times)) = auth::parse(&line) {
                login_lines += 1;
                repeated += if times > 1 { times } else { 0 };
                logins.extend((0..times).map(|_| entry.clone()));
            }
        }
        ensure!(lines > 0, "it is empty");
        ensure!(
            !requests.is_empty() || login_lines > 0,
            "none of its {lines} lines is of an access log in common or combined format, \
             or has a failed password of sshd"
        );
        Ok(if requests.len() >= login_lines {
            let skipped = lines - requests.len();
            Self { kind: &WEB, entries: requests, lines, skipped, repeated: 0 }
        } else {
            let entries = auth::date(logins);
            Self { kind: &LOGINS, entries, lines, skipped: lines - login_lines, repeated }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_lines_are_counted() {
        let log =
            "nonsense\n\n192.0.2.1 - - [02/Mar/2026:09:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let log = Log::parse(log.as_bytes()).unwrap();
        assert_eq!((log.entries.len(), log.lines, log.skipped), (1, 2, 1));
        assert!(std::ptr::eq(log.kind, &WEB));
    }

    #[test]
    fn nothing_to_replay_is_an_error() {
        assert!(Log::parse("".as_bytes()).is_err());
        assert!(Log::parse("\u{1f}\u{8b}\0\n".as_bytes()).is_err());
    }

    #[test]
    fn any_bytes_are_read() {
        let line = b"192.0.2.1 - - [02/Mar/2026:09:00:00 +0000] \"\xff\0\" 400 -\n";
        let log = Log::parse(line.as_slice()).unwrap();
        let What::Request { path, .. } = &log.entries[0].what else { panic!() };
        assert_eq!(path, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_repeated_message_counts_as_often_as_it_says() {
        let log = "Dec 10 07:13:43 host sshd[1]: Failed password for root from 192.0.2.9 port 4 ssh2\n\
                   Dec 10 07:13:56 host sshd[1]: message repeated 5 times: [ Failed password for root \
                   from 192.0.2.9 port 4 ssh2]\n\
                   Dec 10 07:13:57 host sshd[1]: Connection closed by 192.0.2.9 [preauth]\n";
        let log = Log::parse(log.as_bytes()).unwrap();
        assert_eq!((log.entries.len(), log.skipped, log.repeated), (6, 1, 5));
        assert!(std::ptr::eq(log.kind, &LOGINS));
    }
}
