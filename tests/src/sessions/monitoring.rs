//! What `monitoring/` has for Prometheus and Grafana fits the extension, and each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use postgres::types::Type;
use serde::Deserialize;
use serde_json::Value;

use super::ask::Ask;
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("monitoring_queries_run", queries_run),
    ("monitoring_dashboard_shows_what_is_collected", dashboard_shows_what_is_collected),
];

/// A collector, as sql_exporter reads it: it refuses what it does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Collector {
    collector_name: String,
    metrics: Vec<Metric>,
    queries: Vec<Query>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    metric_name: String,
    r#type: Kind,
    help: String,
    #[serde(default)]
    key_labels: Vec<String>,
    value_label: Option<String>,
    values: Vec<String>,
    query_ref: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    query_name: String,
    query: String,
}

fn file(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn collector() -> Result<Collector> {
    Ok(serde_saphyr::from_str(&file("ratelimit.collector.yml")?)?)
}

/// Each query runs as a role that may read statistics and nothing else, and has the columns that the metrics ask for.
fn queries_run(bed: &Bed) -> Result<()> {
    let database = bed.database("monitoring")?;
    let mut admin = database.connect()?;
    admin.limiter("api", 1)?;
    admin.batch_execute(
        "SELECT rl_try_acquire('api', 'key'), rl_try_acquire('api', 'key');
         SELECT rl_create_limiter('slots', max_concurrent => 1);
         SELECT rl_try_lease('slots', 'key', '1 hour'), rl_ban('api', 'key', '1 hour');
         CREATE ROLE monitoring_reader LOGIN IN ROLE pg_monitor",
    )?;
    let mut reader = database.connect_as("monitoring_reader")?;
    let collector = collector()?;
    ensure!(collector.collector_name == "ratelimit");
    let mut columns: BTreeMap<&str, BTreeMap<String, Type>> = BTreeMap::new();
    for query in &collector.queries {
        let rows = reader.query(&query.query, &[]).with_context(|| query.query_name.clone())?;
        let row = rows.first().with_context(|| format!("{}: no row", query.query_name))?;
        let found = row.columns().iter().map(|c| (c.name().to_owned(), c.type_().clone()));
        columns.insert(&query.query_name, found.collect());
    }
    for metric in &collector.metrics {
        let name = &metric.metric_name;
        let columns = columns.get(&*metric.query_ref).with_context(|| format!("{name}: query"))?;
        for label in &metric.key_labels {
            ensure!(columns.get(label) == Some(&Type::TEXT), "{name}: label {label}");
            ensure!(label != "key", "{name}: keys are no labels");
        }
        for value in &metric.values {
            let numbers = [Type::INT4, Type::INT8, Type::FLOAT8];
            ensure!(columns.get(value).is_some_and(|t| numbers.contains(t)), "{name}: {value}");
        }
        ensure!((metric.values.len() > 1) == metric.value_label.is_some(), "{name}: value_label");
        ensure!((metric.r#type == Kind::Counter) == name.ends_with("_total"), "{name}: its kind");
        ensure!(!metric.help.is_empty(), "{name}: help");
    }
    admin.batch_execute("DROP ROLE monitoring_reader").map_err(Into::into)
}

/// All strings under fields of one of these names.
fn strings<'a>(value: &'a Value, names: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if names.contains(&&**name) => found.push(text),
                    other => strings(other, names, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, names, found)),
        _ => {}
    }
}

fn dashboard_shows_what_is_collected(_: &Bed) -> Result<()> {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")?)?;
    let mut expressions = Vec::new();
    strings(&dashboard, &["expr", "query"], &mut expressions);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expressions.iter().flat_map(|text| text.split(|c| !is_part(c)));
    let shown: BTreeSet<&str> = words.filter(|word| word.starts_with("ratelimit_")).collect();
    let collector = collector()?;
    let collected: BTreeSet<&str> = collector.metrics.iter().map(|m| &*m.metric_name).collect();
    ensure!(shown == collected, "shown: {shown:?}\ncollected: {collected:?}");
    for text in &expressions {
        for metric in &collector.metrics {
            for (at, found) in text.match_indices(&format!("{}{{", metric.metric_name)) {
                let matchers = text[at + found.len()..].split('}').next().unwrap_or_default();
                for matcher in matchers.split(',') {
                    metric.check(matcher.trim()).with_context(|| (*text).to_owned())?;
                }
            }
        }
    }
    Ok(())
}

impl Metric {
    /// A matcher of a dashboard names a label that the metric has, and a value that it can have.
    fn check(&self, matcher: &str) -> Result<()> {
        let (label, value) = matcher.split_once('=').context("no matcher")?;
        // Prometheus adds the job.
        let known = label == "job" || self.key_labels.iter().any(|key| key == label);
        let is_value = || self.values.iter().any(|known| value == format!("{known:?}"));
        let one_of_ours = self.value_label.as_deref() == Some(label) && is_value();
        ensure!(known || one_of_ours, "{}: {matcher}", self.metric_name);
        Ok(())
    }
}
