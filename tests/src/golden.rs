//! Files whose output must be what it was, run by the test runners that come with PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use testbed::{Server, Tree};

use crate::bed::{Bed, Database};

/// The test runners choose settings of their own, such as a time zone with daylight saving. Those
/// a user would see are easier to read.
const LAUNCHER: &str = "env PGTZ=UTC PGDATESTYLE='ISO, MDY' PGOPTIONS='-c intervalstyle=postgres'";

/// One kind of files.
pub struct Suite {
    pub name: &'static str,
    pub runner: fn(&Tree) -> Option<PathBuf>,
    folder: &'static str,
    inputs: &'static str,
    extension: &'static str,
    comment: &'static str,
}

pub const REGRESS: Suite = Suite {
    name: "regress",
    runner: Tree::pg_regress,
    folder: "pg_regress",
    inputs: "sql",
    extension: "sql",
    comment: "--",
};

pub const ISOLATION: Suite = Suite {
    name: "isolation",
    runner: Tree::pg_isolation_regress,
    folder: "isolation",
    inputs: "specs",
    extension: "spec",
    comment: "#",
};

impl Suite {
    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder)
    }

    fn input(&self, name: &str) -> PathBuf {
        self.folder().join(self.inputs).join(name).with_extension(self.extension)
    }

    fn expected(&self, name: &str) -> PathBuf {
        self.folder().join("expected").join(name).with_extension("out")
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let inputs = self.folder().join(self.inputs);
        if !inputs.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&inputs).with_context(|| inputs.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == self.extension) {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The settings that the head of a file asks for, as in `-- setting: work_mem = 8MB`.
    fn settings(&self, name: &str) -> Result<Vec<(String, String)>> {
        let path = self.input(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let head = text.lines().map_while(|line| line.strip_prefix(self.comment));
        let settings = head.filter_map(|line| line.trim().strip_prefix("setting:"));
        settings
            .map(|setting| {
                let (name, value) = setting.split_once('=').context("a setting without =")?;
                Ok((name.trim().to_owned(), value.trim().to_owned()))
            })
            .collect()
    }

    /// The files about answers: they are the same for durable limiters.
    pub fn twins(&self) -> &'static [&'static str] {
        match self.name {
            "regress" => &["calls", "leases", "several"],
            _ => &[],
        }
    }

    /// The files about what all releases can do: their SQL answers as that of today does.
    pub fn lasting(&self) -> &'static [&'static str] {
        match self.name {
            "regress" => &[
                "calls",
                "leases",
                "limiters",
                "several",
                "simulate",
                "slot_errors",
                "slots",
                "slots_and_rates",
                "triggers",
                "waiting",
            ],
            _ => &[],
        }
    }

    /// Runs a file with the SQL of a release, against the same answers.
    pub fn run_release(&self, bed: &Bed, runner: &Path, name: &str, release: &str) -> Result<()> {
        let twin = format!("{name}_{release}");
        let title = format!("{}_{twin}", self.name);
        let database = Database::of_release(bed.shared()?, &title, release)?;
        self.run_twin(&database, runner, name, &twin, str::to_owned)
    }

    /// Runs a file with durable limiters, against the same answers.
    pub fn run_durable(&self, bed: &Bed, runner: &Path, name: &str) -> Result<()> {
        let twin = format!("{name}_durable");
        let database = bed.database(&format!("{}_{twin}", self.name))?;
        self.run_twin(&database, runner, name, &twin, durable)
    }

    /// Runs a changed copy of a file, against answers that are changed likewise.
    fn run_twin(
        &self,
        database: &Database,
        runner: &Path,
        name: &str,
        twin: &str,
        change: fn(&str) -> String,
    ) -> Result<()> {
        let folder = output_folder(database, self, &format!("{twin}_files"))?;
        for (from, to) in [
            (self.input(name), Path::new(self.inputs).join(format!("{twin}.{}", self.extension))),
            (self.expected(name), Path::new("expected").join(format!("{twin}.out"))),
        ] {
            let text = fs::read_to_string(&from).with_context(|| from.display().to_string())?;
            let to = folder.join(to);
            fs::create_dir_all(to.with_file_name(""))?;
            fs::write(to, change(&text))?;
        }
        self.run_in(database, runner, twin, &folder)
    }

    /// Runs one file: in a server of its own if it asks for settings, else in the shared one.
    pub fn run(&self, bed: &Bed, runner: &Path, name: &str) -> Result<()> {
        let database = format!("{}_{name}", self.name);
        let settings = self.settings(name)?;
        if settings.is_empty() {
            return self.run_in(&bed.database(&database)?, runner, name, &self.folder());
        }
        let mut builder = bed.private();
        for (name, value) in &settings {
            builder = builder.setting(name, value);
        }
        let server: Server = builder.start()?;
        self.run_in(&Database::new(&server, &database)?, runner, name, &self.folder())
    }

    fn run_in(&self, database: &Database, runner: &Path, name: &str, files: &Path) -> Result<()> {
        let server = database.server();
        let tree = server.tree();
        let output = output_folder(database, self, name)?;

        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut command = server.command_at(runner);
        command
            .current_dir(&output)
            .args(["--use-existing", "--user=postgres"])
            .arg(format!("--host={}", server.host()))
            .arg(format!("--port={}", server.port()))
            .arg(format!("--dbname={}", database.name()))
            .arg(format!("--launcher={LAUNCHER}"))
            .arg(option("bindir", &tree.bindir))
            .arg(option("dlpath", &tree.pkglibdir))
            .arg(option("inputdir", files))
            .arg(option("outputdir", &output));
        if tree.major >= 16 {
            command.arg(option("expecteddir", files));
        }
        let ran = command.arg(name).output().context("cannot run the test runner")?;

        let own = files == self.folder();
        if own && std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
            return self.accept(&output, name);
        }
        if ran.status.success() {
            return Ok(());
        }
        let expected = self.expected(name);
        if own && !expected.exists() {
            bail!("there is no {}; UPDATE_EXPECTED=1 makes it", expected.display());
        }
        match fs::read_to_string(output.join("regression.diffs")) {
            Ok(diffs) if !diffs.is_empty() => bail!("the output differs:\n{diffs}"),
            _ => bail!(
                "{}\n{}{}",
                ran.status,
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            ),
        }
    }

    /// Makes the output of a run the expected one.
    fn accept(&self, output: &Path, name: &str) -> Result<()> {
        let result = output.join("results").join(name).with_extension("out");
        let expected = self.expected(name);
        fs::create_dir_all(expected.with_file_name(""))?;
        fs::copy(&result, &expected).with_context(|| format!("no new {}", expected.display()))?;
        Ok(())
    }
}

/// A new folder for what a file's run leaves behind.
fn output_folder(database: &Database, suite: &Suite, name: &str) -> Result<PathBuf> {
    let major = database.server().tree().major;
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pg{major}/{}/{name}", suite.name));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// SQL, or what it prints, with durable limiters, and without what is said to be only so in memory.
fn durable(text: &str) -> String {
    let mut in_memory = false;
    let mut result = String::new();
    for line in text.lines() {
        in_memory = match line {
            "-- Only in memory:" => true,
            "-- In any storage:" => false,
            _ => in_memory,
        };
        if in_memory {
            continue;
        }
        let durable = line
            .strip_prefix("SELECT rl_create_limiter(")
            .and_then(|rest| rest.strip_suffix(");"))
            .map(|arguments| {
                format!("SELECT rl_create_limiter({arguments}, storage => 'durable');")
            });
        result.push_str(durable.as_deref().unwrap_or(line));
        result.push('\n');
    }
    result
}
