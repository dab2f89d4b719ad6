//! The SQL functions, as `sql/calls.sql` declares them.

mod acquire;
mod admin;
mod bans;
mod batch;
mod documents;
mod headers;
mod policy;
mod rates;
mod simulate;
mod slots;
mod stats;
mod wait;
