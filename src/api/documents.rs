//! Definitions as a document, and back. `ratelimit-config` knows the document; SQL reads and writes the rows.

use pgrx::pg_sys::{self, Datum};
use ratelimit_config::{Flaw, Moment, Server};

use crate::catalog;
use crate::compat;
use crate::datum;
use crate::encoding;
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::shmem;
use crate::zone;

/// What a document needs to know of this server.
struct Here;

impl Server for Here {
    fn has_memory(&self) -> bool {
        shmem::is_possible()
    }

    fn now(&self) -> Moment {
        // SAFETY: a variable of this process, set when the transaction began.
        Moment(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() })
    }

    fn has_infinite_intervals(&self) -> bool {
        compat::HAS_INFINITE_INTERVALS
    }

    fn knows_time_zone(&self, name: &str) -> bool {
        zone::calendar(name).is_ok()
    }

    fn name_flaw(&self, name: &str) -> Option<&'static str> {
        catalog::name_flaw(&encoding::encode(name))
    }
}

/// A result as JSON.
fn json(result: std::result::Result<String, Flaw>) -> Result<Datum> {
    let json = result.map_err(|flaw| match flaw {
        Flaw::Document(mistakes) => Error::document(&mistakes),
        Flaw::Rows { limiter, detail } => Error::rows(&limiter, &detail),
    })?;
    Ok(datum::text(&encoding::encode(&json)))
}

pg_function! {
    /// What is to be done to make the tables equal to a document.
    fn _rl_plan_config(call) {
        let (config, definitions) = (call.text(0, "config")?, call.text(1, "definitions")?);
        let (config, definitions) = (encoding::decode(config), encoding::decode(definitions));
        let prune = call.required(2, "prune")?.value() != 0;
        let plan = ratelimit_config::plan(&config, &definitions, prune, &Here);
        json(plan.map(|steps| serde_json::json!(steps).to_string()))
    }
}

pg_function! {
    /// The tables as a document.
    fn _rl_write_config(call) {
        let definitions = call.text(0, "definitions")?;
        let document = ratelimit_config::export(&encoding::decode(definitions), &Here);
        json(document.map(|document| document.to_string()))
    }
}
