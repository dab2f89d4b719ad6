//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

pub const HELP: &str = "\
Replays a log through a limiter in a private server, and shows what happens.

make demo                                    traffic made up for this demo
make demo LOG=access.log                     an access log, in common or combined format
make demo LOG=auth.log                       the failed logins of an OpenSSH server
make demo ARGS='--limit \"60 per minute\"'     with options:

  --log FILE         what LOG says
  --limit RATES      the limit to replay with [20 per minute; failed logins: 5 per 5 minutes]
  --seconds N        how long the replay may take [15]
  --keep             leave the server running
  --pg-config PATH   the pg_config of a PostgreSQL with the extension
";

pub enum Command {
    Help,
    Run(Args),
}

pub struct Args {
    pub pg_config: PathBuf,
    pub log: Option<PathBuf>,
    pub limit: Option<String>,
    pub seconds: Duration,
    pub keep: bool,
}

impl Args {
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command> {
        let mut args = args;
        let mut pg_config = None;
        let mut run = Self {
            pg_config: PathBuf::new(),
            log: None,
            limit: None,
            seconds: Duration::from_secs(15),
            keep: false,
        };
        while let Some(option) = args.next() {
            let option = option.to_string_lossy().into_owned();
            let mut value =
                || args.next().with_context(|| format!("{option} needs a value; see --help"));
            match option.as_str() {
                "--help" | "-h" => return Ok(Command::Help),
                "--keep" => run.keep = true,
                "--pg-config" => pg_config = Some(value()?.into()),
                "--log" => run.log = Some(value()?.into()),
                "--limit" => run.limit = Some(value()?.to_string_lossy().into_owned()),
                "--seconds" => {
                    let seconds: u64 = value()?.to_string_lossy().parse().unwrap_or(0);
                    ensure!((1..=3600).contains(&seconds), "--seconds takes 1 to 3600");
                    run.seconds = Duration::from_secs(seconds);
                }
                _ => bail!("unknown option {option}; see --help"),
            }
        }
        run.pg_config = pg_config.context("--pg-config is missing; see --help")?;
        Ok(Command::Run(run))
    }
}
