//! Runs the tests of the extension in private servers, with the options of `cargo test`.
//!
//! - `regress::NAME`: the SQL file `pg_regress/sql/NAME.sql`
//! - `regress::NAME_durable`: the same, with durable limiters
//! - `regress::NAME_VERSION`: the same, with the SQL of a release
//! - `isolation::NAME`: the specification `isolation/specs/NAME.spec`
//! - `sessions::NAME`: a function of the module [`sessions`]
//!
//! The environment variable `RATELIMIT_PG_CONFIG` tells which PostgreSQL to use; the extension must
//! be installed there. With `UPDATE_EXPECTED=1` what a file prints becomes what it has to print.

mod bed;
mod golden;
mod releases;
mod sessions;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

use bed::Bed;

/// Runs a file with the runner at this path.
type FileRun = Box<dyn Fn(&Bed, &Path) -> Result<()> + Send>;

fn trials(bed: &Arc<Bed>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    let releases = releases::all()?;
    for suite in [&golden::REGRESS, &golden::ISOLATION] {
        let runner = (suite.runner)(bed.tree());
        let mut add = |name: String, run: FileRun| {
            let (bed, runner) = (Arc::clone(bed), runner.clone());
            let missing = runner.is_none();
            let run = move || match &runner {
                Some(runner) => Ok(run(&bed, runner).map_err(report)?),
                None => Err("the runner is not installed".into()),
            };
            let title = format!("{}::{name}", suite.name);
            trials.push(Trial::test(title, run).with_ignored_flag(missing));
        };
        for name in suite.names()? {
            add(name.clone(), Box::new(move |bed, runner| suite.run(bed, runner, &name)));
        }
        for name in suite.twins() {
            let run = |bed: &Bed, runner: &Path| suite.run_durable(bed, runner, name);
            add(format!("{name}_durable"), Box::new(run));
        }
        for release in &releases {
            for name in suite.lasting() {
                let title = format!("{name}_{release}");
                let release = release.clone();
                let run =
                    move |bed: &Bed, runner: &Path| suite.run_release(bed, runner, name, &release);
                add(title, Box::new(run));
            }
        }
    }
    for (name, test) in sessions::tests() {
        let bed = Arc::clone(bed);
        let run = move || Ok(test(&bed).map_err(report)?);
        trials.push(Trial::test(format!("sessions::{name}"), run));
    }
    for (name, test) in sessions::POOLED {
        let bed = Arc::clone(bed);
        let run = move || Ok(test(&bed).map_err(report)?);
        let missing = testbed::Pooler::program().is_none();
        trials.push(Trial::test(format!("sessions::{name}"), run).with_ignored_flag(missing));
    }
    Ok(trials)
}

/// The error with its causes, for a person to read.
fn report(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let bed = Arc::new(Bed::new(testbed::Tree::from_env()?)?);
    let conclusion = libtest_mimic::run(&arguments, trials(&bed)?);
    // This was the last user of the shared server, which ends here.
    drop(bed);
    Ok(conclusion.exit_code())
}
