//! The releases whose install scripts are kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the scripts of all releases are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql/releases")
}

/// The names of all scripts, sorted.
pub fn scripts() -> Result<Vec<String>> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(folder()).context("no releases")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        scripts.extend(name.ends_with(".sql").then_some(name));
    }
    scripts.sort();
    Ok(scripts)
}

/// The versions of all releases.
pub fn all() -> Result<Vec<String>> {
    let version = |script: &String| {
        let version = script.strip_prefix("ratelimit--")?.strip_suffix(".sql")?;
        (!version.contains("--")).then(|| version.to_owned())
    };
    Ok(scripts()?.iter().filter_map(version).collect())
}
