//! Access logs in the common and the combined format.

use super::{date, Entry, What};

/// `CLIENT IDENT USER [DAY/MONTH/YEAR:TIME OFFSET] "REQUEST" STATUS BYTES ["REFERER" "AGENT"]`
pub fn parse(line: &str) -> Option<Entry> {
    let (who, rest) = line.split_once(" [")?;
    let (at, rest) = rest.split_once("] ")?;
    let client = who.split(' ').next().filter(|client| (1..=255).contains(&client.len()))?;
    let (request, rest) = quoted(rest)?;
    let mut numbers = rest.splitn(3, ' ');
    let status = numbers.next()?.parse().ok()?;
    let bytes = match numbers.next()? {
        "-" => 0,
        bytes => bytes.parse().ok()?,
    };
    // The common format ends here.
    let agent = numbers.next().and_then(quoted).and_then(|(_, rest)| quoted(rest));
    let mut words = request.split(' ');
    // Clients send anything, such as the first bytes of TLS.
    let (method, path) = match (words.next(), words.next()) {
        (Some(method), Some(path)) => (method, path),
        _ => ("-", request),
    };
    Some(Entry {
        at: timestamp(at)?,
        client: client.to_owned(),
        what: What::Request {
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            bytes,
            agent: agent.map(|(agent, _)| agent.to_owned()),
        },
    })
}

/// What stands between quotation marks at the start, and what comes after it and a blank.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let rest = &text[end + 1..];
    Some((&text[..end], rest.strip_prefix(' ').unwrap_or(rest)))
}

/// `17/May/2015:10:05:03 +0000`
fn timestamp(text: &str) -> Option<i64> {
    let (local, offset) = text.split_once(' ')?;
    let (date, time) = local.split_once(':')?;
    let mut date = date.split('/');
    let day = date.next()?.parse().ok()?;
    let month = date::month(date.next()?)?;
    let year = date.next()?.parse().ok()?;
    let at = date::from_civil([year, month, day], date::time_of_day(time)?)?;
    Some(at - date::offset(offset)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NINE: i64 = 1_772_442_000 * date::SECOND;

    fn request(line: &str) -> (String, String, i32, i64, Option<String>) {
        match parse(line).unwrap().what {
            What::Request { method, path, status, bytes, agent } => {
                (method, path, status, bytes, agent)
            }
            What::FailedLogin { .. } => panic!(),
        }
    }

    #[test]
    fn combined() {
        let line = r#"192.0.2.7 - anna [02/Mar/2026:10:00:00 +0100] "GET /a?b=c HTTP/1.1" 200 512 "-" "Mozilla/5.0 \"x\" (a)""#;
        let entry = parse(line).unwrap();
        assert_eq!((entry.at, entry.client.as_str()), (NINE, "192.0.2.7"));
        let agent = Some(r#"Mozilla/5.0 \"x\" (a)"#.to_owned());
        assert_eq!(request(line), ("GET".into(), "/a?b=c".into(), 200, 512, agent));
    }

    #[test]
    fn common() {
        let line = r#"host.example - - [02/Mar/2026:09:00:00 +0000] "HEAD / HTTP/1.0" 304 -"#;
        assert_eq!(request(line), ("HEAD".into(), "/".into(), 304, 0, None));
    }

    #[test]
    fn a_request_may_be_anything() {
        let line = r#"::1 - - [02/Mar/2026:09:00:00 +0000] "\x16\x03\x01" 400 226 "-" "-""#;
        let agent = Some("-".to_owned());
        assert_eq!(request(line), ("-".into(), r"\x16\x03\x01".into(), 400, 226, agent));
    }

    #[test]
    fn malformed() {
        for line in [
            "",
            "192.0.2.7 - - [02/Mar/2026:09:00:00 +0000]",
            r#"192.0.2.7 - - [02/Mon/2026:09:00:00 +0000] "GET /" 200 1"#,
            r#"192.0.2.7 - - [02/Mar/2026:09:00:00 +0000] "GET / 200 1"#,
            r#"192.0.2.7 - - [02/Mar/2026:09:00:00 +0000] "GET /" ok 1"#,
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
