//! Private throw-away PostgreSQL servers, for the demo, the benchmark and the tests.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let tree = testbed::Tree::from_env()?;
//! let server = testbed::Server::builder(&tree).setting("work_mem", "8MB").start()?;
//! server.connect()?.batch_execute("CREATE EXTENSION ratelimit")?;
//! # Ok(())
//! # }
//! ```
//!
//! A server listens only on a Unix socket in its own temporary folder. Server and folder go away
//! when the [`Server`] is dropped, and also when the process that started it dies.

mod account;
mod cluster;
mod pooler;
mod scratch;
mod server;
mod tree;

pub use cluster::Cluster;
pub use pooler::Pooler;
/// The client library whose types are part of this interface.
pub use postgres;
pub use server::{Builder, Server, Stop};
pub use tree::Tree;
