//! The servers that tests run in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use anyhow::{anyhow, Context, Result};
use postgres::Client;
use testbed::{Builder, Cluster, Server, Tree};

/// Gives each test a database of its own in a server for all, or a server of its own.
pub struct Bed {
    tree: Tree,
    shared: [OnceLock<Result<Server, String>>; 4],
    /// How many databases they have.
    databases: AtomicUsize,
    /// What every server begins with.
    cluster: Cluster,
}

impl Bed {
    pub fn new(tree: Tree) -> Result<Self> {
        let shared = [const { OnceLock::new() }; 4];
        Ok(Self { cluster: Cluster::new(&tree)?, tree, shared, databases: AtomicUsize::new(0) })
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A server for one test alone, such as one that stops the server or needs other settings.
    pub fn private(&self) -> Builder {
        // A statement that hangs is to be a failure.
        Server::builder(&self.tree).copy_of(&self.cluster).setting("statement_timeout", "5min")
    }

    /// A server that tests share.
    pub fn shared(&self) -> Result<&Server> {
        self.nth_shared(0)
    }

    fn nth_shared(&self, n: usize) -> Result<&Server> {
        let start = || self.private().start().map_err(crate::report);
        let server = self.shared.get(n).context("too many databases")?.get_or_init(start).as_ref();
        server.map_err(|error| anyhow!("no shared server: {error}"))
    }

    /// A new database with the extension, in a server that tests share. No more than 256 of one can have durable limiters.
    pub fn database(&self, name: &str) -> Result<Database<'_>> {
        const EACH: usize = 200;
        let n = self.databases.fetch_add(1, Ordering::Relaxed);
        Database::new(self.nth_shared(n / EACH)?, name)
    }
}

/// A database in which the extension was created.
pub struct Database<'a> {
    server: &'a Server,
    name: String,
}

impl<'a> Database<'a> {
    pub fn new(server: &'a Server, name: &str) -> Result<Self> {
        Self::with(server, name, "CREATE EXTENSION ratelimit")
    }

    /// One with the extension as a release created it, for the library of today.
    pub fn of_release(server: &'a Server, name: &str, release: &str) -> Result<Self> {
        Self::with(server, name, &format!("CREATE EXTENSION ratelimit VERSION '{release}'"))
    }

    fn with(server: &'a Server, name: &str, create: &str) -> Result<Self> {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let mut client = server.connect()?;
        client
            .batch_execute(&format!("CREATE DATABASE {quoted}"))
            .with_context(|| format!("cannot create the database {name}"))?;
        let database = Self { server, name: name.to_owned() };
        database.connect()?.batch_execute(create).context("cannot create the extension")?;
        Ok(database)
    }

    pub fn server(&self) -> &'a Server {
        self.server
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a session as superuser.
    pub fn connect(&self) -> Result<Client> {
        self.connect_as("postgres")
    }

    /// Opens a session as the role `user`.
    pub fn connect_as(&self, user: &str) -> Result<Client> {
        self.server.connect_to(&self.name, user)
    }
}
