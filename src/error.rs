//! Every error a user can see, with its SQLSTATE: the only place that has one.
//!
//! Errors are raised here and not by pgrx, whose closed list of SQLSTATEs has no `PT429` (the code that PostgREST answers with
//! "429 Too Many Requests").

use std::ffi::{c_char, c_int, CString};

use pgrx::pg_sys;
use ratelimit_config::Mistake;
use ratelimit_core::slots::Wanted;
use ratelimit_core::{Decision, Micros, RateError, Reason, RuleError};

use crate::encoding;

/// An error for the user.
#[derive(Debug)]
pub struct Error {
    sqlstate: &'static [u8; 5],
    message: String,
    detail: Option<String>,
    hint: Option<&'static str>,
}

pub type Result<T> = std::result::Result<T, Error>;

const INVALID_PARAMETER: &[u8; 5] = b"22023";
const NULL_NOT_ALLOWED: &[u8; 5] = b"22004";
const UNDEFINED_OBJECT: &[u8; 5] = b"42704";
const NOT_SUPPORTED: &[u8; 5] = b"0A000";
const NOT_IN_PREREQUISITE_STATE: &[u8; 5] = b"55000";
const READ_ONLY: &[u8; 5] = b"25006";
const INSUFFICIENT_RESOURCES: &[u8; 5] = b"53000";
const CONFIGURATION_LIMIT_EXCEEDED: &[u8; 5] = b"53400";
const DEADLOCK_DETECTED: &[u8; 5] = b"40P01";
const LOCK_NOT_AVAILABLE: &[u8; 5] = b"55P03";
const INTERNAL_ERROR: &[u8; 5] = b"XX000";
const OUT_OF_MEMORY: &[u8; 5] = b"53200";
const PROGRAM_LIMIT_EXCEEDED: &[u8; 5] = b"54000";
const TRIGGER_PROTOCOL_VIOLATED: &[u8; 5] = b"39P01";
const TOO_MANY_REQUESTS: &[u8; 5] = b"PT429";

impl Error {
    fn new(sqlstate: &'static [u8; 5], message: impl Into<String>) -> Self {
        Error { sqlstate, message: message.into(), detail: None, hint: None }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn null(what: &str) -> Self {
        Error::new(NULL_NOT_ALLOWED, format!("{what} must not be null"))
    }

    pub fn null_element(array: &str) -> Self {
        Error::new(NULL_NOT_ALLOWED, format!("{array} must not contain nulls"))
            .hint("Filter with array_remove or WHERE ... IS NOT NULL.")
    }

    pub fn negative(what: &str, value: i64) -> Self {
        let error = Error::new(INVALID_PARAMETER, format!("{what} must not be negative"))
            .detail(format!("It is {value}."));
        match what {
            "cost" => error.hint("To give back what was taken, use rl_refund."),
            _ => error,
        }
    }

    pub fn unknown_limiter(name: &[u8]) -> Self {
        Error::new(UNDEFINED_OBJECT, format!("limiter \"{}\" does not exist", shown(name)))
            .hint("Create it with rl_create_limiter.")
    }

    pub fn no_rules(name: &str) -> Self {
        Error::new(NOT_IN_PREREQUISITE_STATE, format!("limiter \"{name}\" has no rules"))
            .hint("Add a row to rl_rules, or create the limiter with rl_create_limiter.")
    }

    pub fn not_preloaded() -> Self {
        Error::new(NOT_IN_PREREQUISITE_STATE, "ratelimit is not loaded in shared memory")
            .detail("Limits with storage \"memory\" count in shared memory. Before PostgreSQL 17, a library gets it only when the server starts.")
            .hint("Add ratelimit to shared_preload_libraries and restart the server.")
    }

    pub fn durable_keep(limiter: &str) -> Self {
        Error::new(
            INVALID_PARAMETER,
            format!(
                "durable limiter \"{limiter}\" cannot keep what a transaction took that rolls back"
            ),
        )
        .detail("What is durable is written with the transaction, and undone with it.")
        .hint("Leave on_rollback out, or set it to refund.")
    }

    pub fn read_only(limiter: &str) -> Self {
        Error::new(READ_ONLY, format!("cannot use durable limiter \"{limiter}\" in a read-only transaction"))
            .detail("Limits with storage \"durable\" are written to tables.")
            .hint("Use a limiter with storage \"memory\", which also works in read-only transactions and on standbys.")
    }

    pub fn read_only_lease() -> Self {
        Error::new(READ_ONLY, "cannot change a lease of a durable limiter in a read-only transaction")
            .detail("Leases of limiters with storage \"durable\" are written to tables.")
            .hint("Use a limiter with storage \"memory\", which also works in read-only transactions and on standbys.")
    }

    /// What was to be given back or forgotten has no place in memory.
    pub fn full() -> Self {
        Error::new(INSUFFICIENT_RESOURCES, "shared memory of ratelimit is full")
            .detail("It holds ratelimit.max_keys keys that are in use.")
            .hint("Raise ratelimit.max_keys and restart the server.")
    }

    pub fn too_many_databases(most: usize) -> Self {
        Error::new(INSUFFICIENT_RESOURCES, "too many databases use durable limiters")
            .detail(format!("At most {most} databases of a server can."))
            .hint("Use limiters with storage \"memory\".")
    }

    pub fn busy_ledger() -> Self {
        Error::new(LOCK_NOT_AVAILABLE, "could not lock a ledger of ratelimit")
            .detail("Another session has it open.")
            .hint("Try again, or end transactions that read tables of ratelimit.")
    }

    pub fn ledger_with_triggers() -> Self {
        Error::new(NOT_IN_PREREQUISITE_STATE, "a ledger of ratelimit has triggers")
            .hint("Drop them: house-keeping runs nothing that is not its own.")
    }

    pub fn internal(detail: &str) -> Self {
        Error::new(INTERNAL_ERROR, "internal error of ratelimit").detail(detail)
    }

    pub fn prepare() -> Self {
        Error::new(NOT_SUPPORTED, "cannot PREPARE a transaction that took from a limiter with on_rollback \"refund\"")
            .detail("What it took could not be given back if the transaction were rolled back in another session.")
            .hint("Use COMMIT, or a limiter with on_rollback \"keep\".")
    }

    pub fn prepare_with_slots() -> Self {
        Error::new(NOT_SUPPORTED, "cannot PREPARE a transaction that holds concurrency slots")
            .detail(
                "A slot of a transaction is given back when it ends in the session that began it.",
            )
            .hint("Use COMMIT, or a lease.")
    }

    pub fn reserve_with_slots(limiter: &str) -> Self {
        Error::new(
            NOT_SUPPORTED,
            format!("cannot reserve a turn of limiter \"{limiter}\", which has max_concurrent"),
        )
        .detail("Nobody can know when a concurrency slot will be free.")
        .hint("Use rl_acquire, which waits for both, or a limiter without max_concurrent.")
    }

    pub fn prepare_with_lists() -> Self {
        Error::new(
            NOT_SUPPORTED,
            "cannot PREPARE a transaction that changed overrides or bans of ratelimit",
        )
        .detail("Sessions are told of the change by the session that commits it.")
        .hint("Use COMMIT.")
    }

    pub fn prepare_with_leases() -> Self {
        Error::new(NOT_SUPPORTED, "cannot PREPARE a transaction that changed leases of a durable limiter")
            .detail("What it did could not be undone if the transaction were rolled back in another session.")
            .hint("Use COMMIT, or a limiter with storage \"memory\".")
    }

    pub fn no_slots(limiter: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("limiter \"{limiter}\" has no max_concurrent"))
            .detail("Only a limiter that bounds how many may go on at once has slots.")
            .hint("Create it with rl_create_limiter(..., max_concurrent => 5), or set the column in rl_limiters.")
    }

    pub fn too_many_slots(most: usize) -> Self {
        Error::new(CONFIGURATION_LIMIT_EXCEEDED, "too many concurrency slots are held")
            .detail(format!("At most {most} can be held on this server, of all limiters and keys."))
            .hint("Raise ratelimit.max_slots, and max_locks_per_transaction with it, and restart the server.")
    }

    /// Each waits for the next one, and the last for the first.
    pub fn deadlock(cycle: &[(i32, Wanted)]) -> Self {
        let next = cycle.iter().cycle().skip(1);
        let lines: Vec<_> = cycle
            .iter()
            .zip(next)
            .map(|((pid, wanted), (blocker, _))| {
                let wanted = match wanted {
                    Wanted::Lock => "lock",
                    Wanted::Slot => "concurrency slot",
                };
                format!("Process {pid} waits for a {wanted}; blocked by process {blocker}.")
            })
            .collect();
        Error::new(DEADLOCK_DETECTED, "deadlock detected")
            .detail(lines.join("\n"))
            .hint("Take slots and locks in the same order everywhere.")
    }

    pub fn ttl() -> Self {
        Error::new(INVALID_PARAMETER, "ttl must be positive").hint(
            "Give the time that the work takes at most, and renew the lease if it takes longer.",
        )
    }

    pub fn duration() -> Self {
        Error::new(INVALID_PARAMETER, "duration must be positive")
            .hint("To ban for ever, give null. To end a ban, use rl_unban.")
    }

    pub fn negative_span(what: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("{what} must not be negative"))
    }

    pub fn sizes_of_session() -> Self {
        Error::new(NOT_IN_PREREQUISITE_STATE, "ratelimit.max_keys and ratelimit.partitions cannot be set for a session")
            .detail("They size shared memory, which this session would have to make.")
            .hint("Set them in postgresql.conf, and not in connection options, for a role or for a database.")
    }

    pub fn no_shared_memory(detail: &str) -> Self {
        Error::new(OUT_OF_MEMORY, "ratelimit could not get shared memory").detail(detail).hint(
            "Lower ratelimit.max_keys, or add ratelimit to shared_preload_libraries and restart the server.",
        )
    }

    pub fn foreign_table(name: &str) -> Self {
        Error::new(
            NOT_IN_PREREQUISITE_STATE,
            format!("table \"{name}\" is not the one that ratelimit created"),
        )
        .hint("It must belong to the extension, and to the extension's owner.")
    }

    pub fn outdated(what: &str) -> Self {
        Error::new(NOT_SUPPORTED, format!("{what} needs a newer version of the extension"))
            .detail("The library is newer than the extension in this database.")
            .hint("Run ALTER EXTENSION ratelimit UPDATE.")
    }

    pub fn parallel_worker() -> Self {
        Error::new(NOT_SUPPORTED, "limits cannot be used in a parallel worker")
            .hint("Do not mark functions that call them PARALLEL SAFE.")
    }

    pub fn rate(text: &[u8], error: &RateError) -> Self {
        Error::new(
            INVALID_PARAMETER,
            format!("invalid rate \"{}\" at character {}", shown(text), error.position),
        )
        .detail(error.detail.clone())
        .hint("Write rates like \"100 per minute\" or \"10/second burst 20, 1000/hour\".")
    }

    /// All that is wrong with a document, the first place in the message.
    pub fn document(mistakes: &[Mistake]) -> Self {
        const MOST: usize = 20;
        let place = |mistake: &Mistake| match mistake.path.as_str() {
            "" => "the document".to_owned(),
            path => path.to_owned(),
        };
        let line = |mistake: &Mistake| format!("{}: {}", place(mistake), mistake.detail);
        let mut lines: Vec<_> = mistakes.iter().take(MOST).map(line).collect();
        if mistakes.len() > MOST {
            lines.push(format!("There are {} more.", mistakes.len() - MOST));
        }
        let first = mistakes.first().map_or_else(String::new, place);
        Error::new(INVALID_PARAMETER, format!("invalid configuration at {first}"))
            .detail(lines.join("\n"))
            .hint("Correct it and apply it again: nothing was changed.")
    }

    /// The tables say what no limiter can be.
    pub fn rows(limiter: &str, detail: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("invalid definition of limiter \"{limiter}\""))
            .detail(detail)
            .hint("Correct its rows in rl_limiters, rl_rules and rl_overrides, or drop it.")
    }

    pub fn rule(limiter: &str, position: i32, error: RuleError) -> Self {
        Error::new(INVALID_PARAMETER, format!("invalid rule {position} of limiter \"{limiter}\""))
            .detail(error.to_string())
    }

    pub fn ban_policy(limiter: &str, error: RuleError) -> Self {
        let error = match error {
            RuleError::Log => "ban_after is at most 1000.".to_owned(),
            other => other.to_string(),
        };
        Error::new(
            INVALID_PARAMETER,
            format!("invalid ban_after or ban_within of limiter \"{limiter}\""),
        )
        .detail(error)
    }

    pub fn policy(error: RuleError) -> Self {
        Error::new(INVALID_PARAMETER, "invalid limit").detail(error.to_string())
    }

    pub fn period(what: &str, detail: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("invalid {what}")).detail(detail)
    }

    pub fn name(name: &[u8], detail: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("invalid limiter name \"{}\"", shown(name)))
            .detail(detail)
    }

    pub fn time_zone(name: &str) -> Self {
        Error::new(
            INVALID_PARAMETER,
            format!("time zone \"{}\" not recognized", shown(&encoding::encode(name))),
        )
        .hint("See the view pg_timezone_names for the names.")
    }

    pub fn enum_value(what: &str, value: &[u8]) -> Self {
        Error::new(INVALID_PARAMETER, format!("invalid {what} \"{}\"", shown(value)))
    }

    pub fn array_lengths(one: &str, ones: usize, other: &str, others: usize) -> Self {
        Error::new(INVALID_PARAMETER, format!("{one} and {other} have different lengths"))
            .detail(format!("The length of {one} is {ones}, that of {other} is {others}."))
            .hint("Give one element for each call.")
    }

    pub fn array_dimensions(array: &str) -> Self {
        Error::new(INVALID_PARAMETER, format!("{array} must have one dimension"))
    }

    pub fn too_many(what: &str, most: usize) -> Self {
        Error::new(PROGRAM_LIMIT_EXCEEDED, format!("too many {what}"))
            .detail(format!("One call decides on at most {most} together."))
            .hint("Split the call.")
    }

    pub fn decreasing_times(position: usize) -> Self {
        Error::new(INVALID_PARAMETER, "times must not decrease")
            .detail(format!("Element {position} is earlier than the one before it."))
            .hint("Collect them with array_agg(... ORDER BY ...), costs in the same order.")
    }

    pub fn infinite_time(position: usize) -> Self {
        Error::new(INVALID_PARAMETER, "times must be finite")
            .detail(format!("Element {position} is infinite."))
    }

    pub fn not_a_trigger(function: &str) -> Self {
        Error::new(
            TRIGGER_PROTOCOL_VIOLATED,
            format!("function \"{function}\" was not called by trigger manager"),
        )
        .hint("Name it in CREATE TRIGGER ... EXECUTE FUNCTION.")
    }

    pub fn trigger_kind(trigger: &str, function: &str, kind: &str) -> Self {
        Error::new(
            TRIGGER_PROTOCOL_VIOLATED,
            format!("trigger \"{trigger}\": {function} must be fired {kind}"),
        )
    }

    pub fn trigger_argument(trigger: &str, argument: &str, detail: impl Into<String>) -> Self {
        Error::new(INVALID_PARAMETER, format!("trigger \"{trigger}\": invalid argument {argument}"))
            .detail(detail)
            .hint("The arguments are: limiter, key template [, 'raise' or 'skip' [, cost column]].")
    }

    pub fn trigger_cost(trigger: &str, column: &str, detail: impl Into<String>) -> Self {
        Error::new(
            INVALID_PARAMETER,
            format!("trigger \"{trigger}\": invalid cost in column \"{column}\""),
        )
        .detail(detail)
    }

    pub fn trigger_null_cost(trigger: &str, column: &str) -> Self {
        Error::new(
            NULL_NOT_ALLOWED,
            format!("trigger \"{trigger}\": cost in column \"{column}\" must not be null"),
        )
        .hint("Make the column NOT NULL, or give it a default.")
    }

    /// The answer "no" as an error. The message becomes the HTTP reason phrase, so it is short, ASCII and without the key.
    pub fn denied(limiter: &str, decision: Option<&Decision>) -> Self {
        if let Some(Decision { quota, reason: Some(Reason::Concurrency), .. }) = decision {
            return Error::new(TOO_MANY_REQUESTS, "concurrency limit exceeded")
                .detail(format!("Limiter \"{limiter}\", all {quota} slots are taken."))
                .hint("Call again when one of their holders has finished.");
        }
        let (message, help) = match decision.and_then(|decision| decision.reason) {
            Some(Reason::Ban) => ("banned", "End the ban with rl_unban."),
            Some(Reason::DenyList) => ("on the deny list", "Change rl_overrides."),
            _ => ("rate limit exceeded", "Ask for less at once, or raise the limit."),
        };
        let error = Error::new(TOO_MANY_REQUESTS, message);
        match decision.and_then(|decision| decision.retry_after) {
            Some(wait) => error
                .detail(format!("Limiter \"{limiter}\", retry_after {}.", seconds(wait)))
                .hint("Wait that long and call again."),
            None => error.detail(format!("Limiter \"{limiter}\", retry_after never.")).hint(help),
        }
    }
}

/// A span as `12.345678 s`.
fn seconds(span: Micros) -> String {
    format!("{}.{:06} s", span / 1_000_000, span % 1_000_000)
}

/// User text as an error shows it: at most 63 characters of it.
fn shown(text: &[u8]) -> String {
    let start = encoding::first(text, 63);
    let more = if start.len() < text.len() { "..." } else { "" };
    encoding::decode(start).into_owned() + more
}

/// An error in memory of PostgreSQL, which frees it when it handles the error: nothing of Rust is left to drop.
#[derive(Clone, Copy)]
pub struct Report {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
}

impl From<Error> for Report {
    fn from(error: Error) -> Self {
        let copy = |text: Option<&str>| {
            let text = text.map(|text| CString::new(&*encoding::encode(&text.replace('\0', ""))));
            match text {
                // SAFETY: pstrdup copies a terminated string into the current memory context.
                Some(Ok(text)) => unsafe { pg_sys::pstrdup(text.as_ptr()).cast_const() },
                _ => std::ptr::null(),
            }
        };
        // Six bits a character: MAKE_SQLSTATE of elog.h.
        let character =
            |shift: i32, byte: &u8| shift << 6 | i32::from(byte.wrapping_sub(b'0') & 0x3f);
        Report {
            sqlstate: error.sqlstate.iter().rev().fold(0, character),
            message: copy(Some(&error.message)),
            detail: copy(error.detail.as_deref()),
            hint: copy(error.hint),
        }
    }
}

extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlstate: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Raises the error: control goes to PostgreSQL by `longjmp` and does not come back.
///
/// # Safety
/// No frame between PostgreSQL's call and this one may have anything left to drop, and none may be a pgrx guard.
pub unsafe fn raise(report: Report) -> ! {
    // SAFETY: the calls that ereport() expands to, with formats that take one string each; the strings are terminated and
    // were made by `Report::from`.
    unsafe {
        if errstart(pgrx::PgLogLevel::ERROR as c_int, std::ptr::null()) {
            errcode(report.sqlstate);
            errmsg(c"%s".as_ptr(), report.message);
            if !report.detail.is_null() {
                errdetail(c"%s".as_ptr(), report.detail);
            }
            if !report.hint.is_null() {
                errhint(c"%s".as_ptr(), report.hint);
            }
            errfinish(c"ratelimit".as_ptr(), 0, c"raise".as_ptr());
        }
    }
    unreachable!("errfinish does not return for an ERROR")
}
