//! What `ratelimit` decides, and nothing else: no PostgreSQL, no clock, no `unsafe`, integers only.
//!
//! A [`Rule`] says what is allowed; a [`State`] holds what one key has used of it; the host brings the time as [`Now`].
//! [`decide`] puts them together for one or several rules, all or nothing. The [`table`] keeps the states of many keys in
//! one slice that many processes share; [`lists`] say which keys are to be treated otherwise, a [`ban_filter`] which are banned. [`slots`] say how many may do something at
//! the same time, and [`stats`] what came of it all.
//!
//! ```
//! use ratelimit_core::{decide, parse_rates, Algorithm, Limit, MemoryState, Now, Operation};
//!
//! let spec = &parse_rates("2 per minute", Algorithm::TokenBucket).unwrap()[0];
//! let rule = spec.rule().unwrap();
//! let mut key = MemoryState::default();
//! let mut now = Now::at(1_000_000);
//! let mut take = |now| decide(&mut [Limit::new(&rule, &mut key, 1)], now, Operation::Take);
//!
//! assert!(take(now).allowed);
//! assert!(take(now).allowed);
//! let denied = take(now);
//! assert!(!denied.allowed);
//! // Waiting exactly this long passes; a microsecond less would not.
//! now = now.plus(denied.retry_after.unwrap());
//! assert!(take(now).allowed);
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::float_arithmetic)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test says what it expects by panicking"
    )
)]

extern crate alloc;

pub mod ban_filter;
mod booking;
pub mod calendar;
mod count;
mod decide;
mod decision;
mod fixed_window;
mod interval;
mod interval_bucket;
mod key;
pub mod lists;
mod meter;
mod period;
mod rate;
mod receipt;
mod rule;
mod sliding_log;
mod sliding_window;
pub mod slots;
mod spec;
mod state;
pub mod stats;
mod stored;
pub mod table;
mod time;
mod token_bucket;

pub use booking::{reserve, Booking};
pub use calendar::Calendar;
pub use decide::{decide, take_at_most, Limit, Operation};
pub use decision::{Brief, Decision, Reason};
pub use fixed_window::FixedWindow;
pub use interval::Interval;
pub use interval_bucket::IntervalBucket;
pub use key::{KeyHasher, Secret};
pub use period::Period;
pub use rate::{parse_rates, print_rate, RateError};
pub use receipt::{Receipt, Receipts};
pub use rule::Rule;
pub use sliding_log::SlidingLog;
pub use sliding_window::SlidingWindow;
pub use spec::{
    check_together, Algorithm, Anchor, RateSpec, Refill, RuleError, MAX_LOG, MAX_PERIOD, MAX_QUOTA,
};
pub use state::{MemoryState, State, Words};
pub use stored::{Event, Stored};
pub use time::{Micros, Now, DAY, HOUR, MILLISECOND, MINUTE, SECOND};
pub use token_bucket::TokenBucket;
