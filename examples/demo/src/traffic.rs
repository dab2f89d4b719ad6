//! Traffic made up for the demo: two hours of a small shop, always the same.
//!
//! It is written as an access log, and read as one. All addresses are of the ranges that are kept
//! for documentation.

use std::fmt::Write as _;

use anyhow::Result;

use crate::log::Log;

const LENGTH: f64 = 7200.0;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 \
                      (KHTML, like Gecko) Version/18.2 Mobile/15E148 Safari/604.1";
const CRAWLER: &str = "ExampleBot/2.1 (+https://bot.example/about)";
const SCRAPER: &str = "python-requests/2.32.3";
const GUESSER: &str = "Mozilla/5.0 (Windows NT 6.1) Hydra";
const MONITOR: &str = "uptime-check/1.4";

const ASSETS: &[&str] = &[
    "/static/site.css",
    "/static/app.js",
    "/static/logo.svg",
    "/static/fonts/inter.woff2",
    "/favicon.ico",
    "/api/v1/cart",
];

pub fn generate() -> Result<Log> {
    let mut traffic = Traffic { requests: Vec::new(), random: 20_260_302 };
    traffic.visitors();
    traffic.office();
    traffic.machines();
    traffic.attackers();
    Log::parse(traffic.into_log().as_bytes())
}

struct Request {
    at: f64,
    client: String,
    request: String,
    status: u16,
    bytes: u64,
    agent: &'static str,
}

struct Traffic {
    requests: Vec<Request>,
    random: u64,
}

impl Traffic {
    /// People: many come once, a few come often and stay.
    fn visitors(&mut self) {
        for n in 0..64 {
            let client = match n % 4 {
                0 => format!("2001:db8:{:x}::{:x}", 16 + n, 1 + n * 7),
                _ => format!("192.0.2.{}", 3 + n * 3),
            };
            let agent = if n % 3 == 0 { SAFARI } else { FIREFOX };
            let visits = (1.0 / self.uniform().powf(0.7)).min(8.0) as usize;
            for _ in 0..visits {
                let start = self.uniform() * (LENGTH - 300.0);
                self.visit(&client, agent, start);
            }
        }
    }

    /// Many people behind one address, all of them there after a newsletter.
    fn office(&mut self) {
        for n in 0..26 {
            let start = if n < 16 { 3300.0 } else { 600.0 } + self.uniform() * 900.0;
            self.visit("198.51.100.20", FIREFOX, start);
        }
    }

    fn visit(&mut self, client: &str, agent: &'static str, start: f64) {
        let mut at = start;
        for _ in 0..=self.below(9) {
            if at >= LENGTH {
                return;
            }
            let page = match self.below(5) {
                0 => "/".to_owned(),
                1 => format!("/search?q=lamp+{}", self.below(40)),
                _ => format!("/products/{}", self.below(400)),
            };
            self.get(at, client, &page, agent);
            for asset in 0..=self.below(ASSETS.len()) {
                let after = 0.2 + 1.5 * self.uniform();
                self.get(at + after, client, ASSETS[asset % ASSETS.len()], agent);
            }
            // The time to read a page.
            at += 4.0 - 25.0 * self.uniform().ln();
        }
    }

    /// Clients that ask by the clock: phones, a monitor, and a crawler which speeds up for a while.
    fn machines(&mut self) {
        for n in 0..4 {
            let (client, mut at) = (format!("198.51.100.{}", 130 + n), self.uniform() * 20.0);
            while at < LENGTH {
                self.get(at, &client, "/api/v1/feed", SAFARI);
                at += f64::from(16 + 7 * n) + 4.0 * self.uniform();
            }
        }
        for n in 0..120 {
            self.push(60.0 * f64::from(n) + 1.0, "198.51.100.9", "HEAD /health", 200, 0, MONITOR);
        }
        let mut at = 5.0;
        while at < LENGTH {
            let page = format!("/products/{}", self.below(4000));
            self.get(at, "198.51.100.66", &page, CRAWLER);
            let hurry = (4200.0..4900.0).contains(&at);
            at += if hurry { 1.1 } else { 4.0 } * (0.6 + 0.8 * self.uniform());
        }
    }

    /// A scraper that comes three times, and one who guesses passwords, fast and then slowly.
    fn attackers(&mut self) {
        let mut page = 0;
        for (start, length) in [(1500.0, 80.0), (3100.0, 110.0), (6000.0, 90.0)] {
            let mut at = start;
            while at < start + length {
                page += 1;
                self.get(at, "203.0.113.99", &format!("/products?page={page}"), SCRAPER);
                at += 0.5 * self.uniform();
            }
        }
        let mut at = 2400.0;
        while at < 5400.0 {
            self.push(at, "203.0.113.7", "POST /login", 401, 312, GUESSER);
            let step = if at < 2800.0 { 1.2 } else { 6.0 };
            at += step * self.uniform();
        }
    }

    fn get(&mut self, at: f64, client: &str, path: &str, agent: &'static str) {
        let (status, bytes) = match self.below(40) {
            0 => (404, 512),
            1..=4 => (304, 0),
            _ => (200, 800 + self.below(30_000) as u64),
        };
        self.push(at, client, &format!("GET {path}"), status, bytes, agent);
    }

    fn push(
        &mut self,
        at: f64,
        client: &str,
        request: &str,
        status: u16,
        bytes: u64,
        agent: &'static str,
    ) {
        let (client, request) = (client.to_owned(), format!("{request} HTTP/1.1"));
        self.requests.push(Request { at, client, request, status, bytes, agent });
    }

    fn into_log(mut self) -> String {
        self.requests.retain(|request| request.at < LENGTH);
        self.requests.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mut log = String::new();
        for Request { at, client, request, status, bytes, agent } in &self.requests {
            let at = *at as u32;
            let (hour, minute, second) = (9 + at / 3600, at / 60 % 60, at % 60);
            let _ = writeln!(
                log,
                "{client} - - [02/Mar/2026:{hour:02}:{minute:02}:{second:02} +0000] \"{request}\" \
                 {status} {bytes} \"-\" \"{agent}\""
            );
        }
        log
    }

    /// A number above 0 and at most 1.
    fn uniform(&mut self) -> f64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// A number from 0 to `most` without it.
    fn below(&mut self, most: usize) -> usize {
        ((self.uniform() * most as f64) as usize).min(most - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_and_always_the_same() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.entries, two.entries);
        assert_eq!(one.skipped, 0);
        assert!((4000..10_000).contains(&one.entries.len()), "{}", one.entries.len());
    }
}
