//! The server that is measured, with everything in it that the measurements use.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use testbed::postgres::Client;
use testbed::{Server, Stop, Tree};

use crate::contender::{Contender, Keys};

/// How many keys the table of keys has.
pub const KEYS: u64 = 1_000_000;
/// How many keys the hand-written upsert inside a backend gets: it takes so much longer.
pub const FEW_KEYS: u64 = 50_000;
/// How many keys a durable limiter gets.
pub const SOME_KEYS: u64 = 5_000;
/// The hot key; one of the keys of the table.
pub const HOT: u64 = 1;
/// So much is left to no key that was used at all, and no key ever uses so much: with this cost a call is denied.
pub const TOO_MUCH: u64 = 1_000_000_000_000;
/// How many keys the extension has room for: a million live ones are nine tenths of it.
const MAX_KEYS: u64 = 1_112_000;

/// What differs from PostgreSQL's own defaults, some of which the testbed changes.
const SETTINGS: &[(&str, &str)] = &[
    ("ratelimit.max_keys", "1112000"),
    ("shared_buffers", "128MB"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
];

/// One token of `api` comes back in 2.4 hours, so a key that was used once stays live. Statistics have room for 1,024 limiters: `uncounted` comes
/// when it is full.
const OBJECTS: &str = "
    CREATE EXTENSION ratelimit;
    SELECT rl_create_limiter('api', '10 per day burst 1000000000000');
    SELECT rl_create_limiter('refund', '10 per day burst 1000000000000', on_rollback => 'refund');
    SELECT rl_create_limiter('durable', '10 per day burst 1000000000000', storage => 'durable');
    SELECT rl_create_limiter('fixed_window', '1000000000000 per hour', 'fixed_window');
    SELECT rl_create_limiter('sliding_window', '1000000000000 per hour', 'sliding_window');
    SELECT rl_create_limiter('sliding_log', '100 per hour', 'sliding_log');
    SELECT rl_create_limiter('two_rules', '1000000000 per hour; 1000000000000 per day');
    SELECT rl_create_limiter('listed', '10 per day burst 1000000000000');
    INSERT INTO rl_overrides (limiter, key, action, quota)
        SELECT 'listed', 'vip:' || n, 'limit', 1000 FROM generate_series(1, 100000) AS n;
    SELECT rl_ban('listed', 'banned:' || n, NULL) FROM generate_series(1, 1000) AS n;
    SELECT rl_peek(limiter, '', 0) FROM unnest('{api,refund,durable,fixed_window,sliding_window,sliding_log,two_rules,listed}'::text[]) AS l (limiter);
    SELECT rl_peek(rl_create_limiter('crowd:' || n, '1 per day'), '', 0) FROM generate_series(1, 1024) AS n;
    SELECT rl_create_limiter('uncounted', '10 per day burst 1000000000000');

    CREATE UNLOGGED TABLE keys AS
        SELECT 'user:' || n AS key FROM generate_series(1, 1000000) AS n ORDER BY random();
    CREATE UNLOGGED TABLE few_keys AS SELECT key FROM keys LIMIT 50000;
    VACUUM ANALYZE keys, few_keys;

    CREATE TABLE logged (k text, win timestamptz, n bigint NOT NULL, PRIMARY KEY (k, win));
    CREATE UNLOGGED TABLE unlogged (LIKE logged INCLUDING ALL);
";

/// The running server.
pub struct Lab {
    client: Client,
    backend: u32,
    server: Server,
}

impl Lab {
    /// Starts the server and makes what is measured in it.
    pub fn new(tree: &Tree) -> Result<Self> {
        let builder =
            SETTINGS.iter().fold(Server::builder(tree), |b, (name, value)| b.setting(name, value));
        let server = builder.start()?;
        let (mut client, backend) = connect(&server)?;
        // One by one: VACUUM cannot share a transaction.
        for statement in OBJECTS.split(";\n") {
            client.batch_execute(statement)?;
        }
        let library = compile(&server)?;
        client.batch_execute(&format!(
            "CREATE FUNCTION bench_empty(limiter text, key text, cost bigint DEFAULT 1) RETURNS boolean
             LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS '{}'",
            library.display()
        ))?;
        Ok(Lab { client, backend, server })
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The one session that measurements inside a backend use.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The process of that session.
    pub fn backend(&self) -> u32 {
        self.backend
    }

    /// Writes the script for pgbench, over the last one.
    pub fn script(&self, contender: Contender, keys: Keys) -> Result<PathBuf> {
        self.write_script(&contender.script(keys))
    }

    pub fn write_script(&self, text: &str) -> Result<PathBuf> {
        let path = PathBuf::from(self.server.host()).join("script.sql");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Ends the sessions and the server.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop(Stop::Fast)
    }

    /// Starts the server again, with a new session.
    pub fn start(&mut self) -> Result<()> {
        self.server.start_again()?;
        (self.client, self.backend) = connect(&self.server)?;
        Ok(())
    }

    /// Changes a setting of the running server, or gives it up where there is no value. Sessions hear of it in a moment.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        set(&mut self.client, name, value)
    }

    /// Makes sure that `api` and `listed` have statistics, and `uncounted` has none.
    pub fn check_statistics(&mut self) -> Result<()> {
        let sql = "SELECT array_agg(limiter ORDER BY limiter) FROM rl_stat_limiters
                    WHERE limiter IN ('api', 'listed', 'uncounted') AND allowed > 0";
        let counted: Vec<String> = self.client.query_one(sql, &[])?.get(0);
        ensure!(counted == ["api", "listed"], "statistics of {counted:?}");
        Ok(())
    }

    /// How many keys of shared memory are live.
    pub fn live_keys(&mut self) -> Result<u64> {
        let keys: i64 = self.client.query_one("SELECT keys FROM rl_info()", &[])?.get(0);
        Ok(keys.unsigned_abs())
    }

    pub fn version(&mut self) -> Result<String> {
        Ok(self.client.query_one("SELECT version()", &[])?.get(0))
    }

    /// What the extension asked of shared memory.
    pub fn memory(&mut self) -> Result<Memory> {
        let sql = "SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'ratelimit'";
        let size: i64 = self.client.query_one(sql, &[])?.get(0);
        Ok(Memory { bytes: size.unsigned_abs(), keys: MAX_KEYS })
    }

    /// Makes all keys of the table live ones.
    pub fn use_all_keys(&mut self) -> Result<()> {
        let sql = "SELECT count(*) FROM keys WHERE rl_try_acquire('api', key)";
        let count: i64 = self.client.query_one(sql, &[])?.get(0);
        ensure!(count.unsigned_abs() == KEYS, "only {count} of {KEYS} keys were allowed");
        let live = self.live_keys()?;
        ensure!(live >= KEYS, "only {live} keys are live");
        Ok(())
    }
}

/// Shared memory of the extension.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The size of its allocation.
    pub bytes: u64,
    /// For how many keys.
    pub keys: u64,
}

impl Memory {
    /// For each key, with its share of what is there once.
    pub fn bytes_per_key(self) -> f64 {
        self.bytes as f64 / self.keys as f64
    }

    pub fn to_json(self) -> Value {
        json!({ "bytes": self.bytes, "max_keys": self.keys })
    }
}

/// A session, and its process.
fn connect(server: &Server) -> Result<(Client, u32)> {
    let mut client = server.connect()?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    Ok((client, pid.unsigned_abs()))
}

/// See [`Lab::set`].
pub fn set(client: &mut Client, name: &str, value: Option<&str>) -> Result<()> {
    let value = value.map_or("DEFAULT".to_owned(), |value| format!("'{value}'"));
    client.batch_execute(&format!("ALTER SYSTEM SET {name} = {value}"))?;
    client.batch_execute("SELECT pg_reload_conf()")?;
    Ok(())
}

pub fn settings_json() -> Value {
    SETTINGS.iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect()
}

/// Compiles the empty function into the server's own folder, from where it can load it.
fn compile(server: &Server) -> Result<PathBuf> {
    let ask = Command::new(&server.tree().pg_config).arg("--includedir-server").output()?;
    let headers = String::from_utf8(ask.stdout)?;
    let source = PathBuf::from(server.host()).join("empty.c");
    let library = source.with_extension("so");
    std::fs::write(&source, include_str!("../empty.c"))?;
    let status = Command::new("cc")
        .args(["-O2", "-fPIC", "-shared", "-I"])
        .arg(headers.trim())
        .arg("-o")
        .arg(&library)
        .arg(&source)
        .status()
        .context("cannot run cc")?;
    ensure!(status.success(), "cannot compile the empty function");
    Ok(library)
}
