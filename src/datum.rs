//! Answers as PostgreSQL wants them: rows, texts and arrays.

use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::{self, Datum};
use ratelimit_core::{Decision, Micros, Now, Reason};

use crate::error::{Error, Result};
use crate::function::Call;
use crate::interval;

/// From 1970, where our times begin, to 2000, where PostgreSQL's do: in microseconds.
pub const EPOCHS: i64 = 10_957 * ratelimit_core::DAY;

/// The last microsecond of PostgreSQL's time, in the year 294276.
pub const LATEST: i64 = 9_223_371_331_200_000_000 - 1;

/// `infinity` as a timestamp: for what lasts longer than there is time.
const INFINITY: i64 = i64::MAX;

/// A moment of the steady time line as a timestamp.
pub fn time(steady: Micros, clock: Now) -> Datum {
    let since = steady.saturating_sub(clock.steady);
    Datum::from(match steady {
        Micros::MAX => INFINITY,
        _ => clock.wall.saturating_add(since).saturating_sub(EPOCHS).min(LATEST),
    })
}

/// The moment of the steady time line that a timestamp stands for.
pub fn moment(time: Datum, clock: Now) -> Micros {
    match time.value() as i64 {
        INFINITY => Micros::MAX,
        time => time.saturating_add(EPOCHS - clock.wall).saturating_add(clock.steady),
    }
}

/// A value of a row, or null.
pub type Field = Option<Datum>;

/// A text.
pub fn text(bytes: &[u8]) -> Datum {
    // SAFETY: copies so many bytes into the current memory context.
    unsafe {
        Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32))
    }
}

/// A uuid.
pub fn uuid(bytes: [u8; 16]) -> Datum {
    // SAFETY: palloc answers memory of this size, or raises an error.
    unsafe {
        let uuid = pg_sys::palloc(bytes.len()).cast::<[u8; 16]>();
        uuid.write(bytes);
        Datum::from(uuid)
    }
}

pub fn boolean(value: bool) -> Datum {
    Datum::from(value)
}

/// A count as bigint. Where nothing limits there is no number: null.
pub fn count(value: u64) -> Field {
    i64::try_from(value).ok().map(Datum::from)
}

/// The six fields of a decision, in the order of the contract.
pub fn decision(decision: &Decision) -> [Field; 6] {
    let known = match decision.reason {
        // When somebody gives a slot back is not known.
        Some(Reason::Concurrency) => false,
        // There may be no end.
        Some(Reason::Ban | Reason::DenyList) => decision.retry_after.is_some(),
        _ => true,
    };
    [
        Some(boolean(decision.allowed)),
        count(decision.quota),
        count(decision.remaining),
        decision.retry_after.map(interval::datum),
        known.then(|| interval::datum(decision.reset_after)),
        decision.reason.map(|reason| text(reason.as_str().as_bytes())),
    ]
}

/// The row type of a decision, built once in each process.
static DECISION: AtomicPtr<pg_sys::TupleDescData> = AtomicPtr::new(std::ptr::null_mut());

fn decision_type() -> pg_sys::TupleDesc {
    let known = DECISION.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    let columns = [
        (c"allowed", pg_sys::BOOLOID),
        (c"quota", pg_sys::INT8OID),
        (c"remaining", pg_sys::INT8OID),
        (c"retry_after", pg_sys::INTERVALOID),
        (c"reset_after", pg_sys::INTERVALOID),
        (c"reason", pg_sys::TEXTOID),
    ];
    // SAFETY: the descriptor is made in memory that lives as long as the process, with as many columns as are set.
    unsafe {
        let outer = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let descriptor = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
        for (n, (name, oid)) in (1..).zip(columns) {
            pg_sys::TupleDescInitEntry(descriptor, n, name.as_ptr(), oid, -1, 0);
        }
        let descriptor = pg_sys::BlessTupleDesc(descriptor);
        pg_sys::MemoryContextSwitchTo(outer);
        DECISION.store(descriptor, Ordering::Relaxed);
        descriptor
    }
}

/// A decision as a row.
pub fn decision_row(answer: &Decision) -> Datum {
    // SAFETY: the fields are those of the descriptor.
    unsafe { row_of(decision_type(), &decision(answer)) }
}

/// A row of the type that the called function was declared with.
pub fn row(call: &Call, fields: &[Field]) -> Datum {
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: fcinfo is valid, and SQL declares the function with the OUT parameters that the caller gives fields for.
    unsafe {
        pg_sys::get_call_result_type(call.info(), std::ptr::null_mut(), &mut descriptor);
        row_of(pg_sys::BlessTupleDesc(descriptor), fields)
    }
}

/// # Safety
/// The fields have the number and types of the descriptor.
unsafe fn row_of(descriptor: pg_sys::TupleDesc, fields: &[Field]) -> Datum {
    let (mut values, mut nulls) = split::<16>(fields);
    // SAFETY: both arrays have at least as many elements as the descriptor has columns.
    unsafe {
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

fn split<const N: usize>(fields: &[Field]) -> ([Datum; N], [bool; N]) {
    let (mut values, mut nulls) = ([Datum::null(); N], [true; N]);
    for ((field, value), null) in fields.iter().zip(&mut values).zip(&mut nulls) {
        (*value, *null) = (field.unwrap_or(Datum::null()), field.is_none());
    }
    (values, nulls)
}

/// The rows of a function that returns a set.
pub struct Rows(*mut pg_sys::ReturnSetInfo);

impl Rows {
    pub fn new(call: &Call) -> Self {
        // SAFETY: SQL declares the function as returning a set, so resultinfo is a ReturnSetInfo; InitMaterializedSRF raises an
        // error where it is not.
        unsafe {
            pg_sys::InitMaterializedSRF(call.info(), 0);
            Rows((*call.info()).resultinfo.cast())
        }
    }

    pub fn push(&mut self, fields: &[Field]) {
        let (values, nulls) = split::<16>(fields);
        // SAFETY: InitMaterializedSRF has set both; the fields are those that SQL declares.
        unsafe {
            let (store, descriptor) = ((*self.0).setResult, (*self.0).setDesc);
            // Pointers to const from PostgreSQL 16 on.
            let (values, nulls) = (values.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
            pg_sys::tuplestore_putvalues(store, descriptor, values, nulls);
        }
    }
}

/// How the elements of an array are stored.
struct Storage {
    oid: pg_sys::Oid,
    length: i32,
    by_value: bool,
    align: u8,
}

const TEXT: Storage = Storage { oid: pg_sys::TEXTOID, length: -1, by_value: false, align: b'i' };
const BIGINT: Storage = Storage { oid: pg_sys::INT8OID, length: 8, by_value: true, align: b'd' };
const TIME: Storage =
    Storage { oid: pg_sys::TIMESTAMPTZOID, length: 8, by_value: true, align: b'd' };
const BOOLEAN: Storage = Storage { oid: pg_sys::BOOLOID, length: 1, by_value: true, align: b'c' };

/// # Safety
/// `array` is an array of elements that are stored so.
unsafe fn elements(array: Datum, storage: &Storage, name: &str) -> Result<Vec<Datum>> {
    // SAFETY: the caller says what it is; deconstruct_array allocates both results.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        if (*array).ndim > 1 {
            return Err(Error::array_dimensions(name));
        }
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            storage.oid,
            storage.length,
            storage.by_value,
            storage.align as std::ffi::c_char,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let count = count as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        if std::slice::from_raw_parts(nulls, count).contains(&true) {
            return Err(Error::null_element(name));
        }
        Ok(std::slice::from_raw_parts(values, count).to_vec())
    }
}

impl Call {
    /// An array of texts without nulls.
    pub fn texts(&self, n: usize, name: &str) -> Result<Vec<&[u8]>> {
        // SAFETY: SQL declares the argument as text[].
        let elements = unsafe { elements(self.required(n, name)?, &TEXT, name)? };
        // SAFETY: so these are texts.
        Ok(elements.into_iter().map(|datum| unsafe { crate::function::text(datum) }).collect())
    }

    /// An array of costs; where the argument is null, a cost of 1 for each of `count` calls.
    pub fn costs(&self, n: usize, name: &str, others: &str, count: usize) -> Result<Vec<u64>> {
        let Some(array) = self.optional(n) else {
            return Ok(vec![1; count]);
        };
        // SAFETY: SQL declares the argument as bigint[].
        let elements = unsafe { elements(array, &BIGINT, name)? };
        if elements.len() != count {
            return Err(Error::array_lengths(others, count, name, elements.len()));
        }
        let cost = |datum: Datum| {
            let cost = datum.value() as i64;
            u64::try_from(cost).map_err(|_| Error::negative("cost", cost))
        };
        elements.into_iter().map(cost).collect()
    }

    /// An array of times, in microseconds from 2000-01-01 as PostgreSQL counts.
    pub fn times(&self, n: usize, name: &str) -> Result<Vec<i64>> {
        // SAFETY: SQL declares the argument as timestamptz[].
        let elements = unsafe { elements(self.required(n, name)?, &TIME, name)? };
        Ok(elements.into_iter().map(|datum| datum.value() as i64).collect())
    }
}

/// An array of booleans.
pub fn booleans(values: &[bool]) -> Datum {
    let mut elements: Vec<Datum> = values.iter().map(|value| boolean(*value)).collect();
    let Storage { oid, length, by_value, align } = BOOLEAN;
    // SAFETY: as many elements as are said, stored as booleans are; construct_array copies them.
    unsafe {
        let count = elements.len() as i32;
        let align = align as std::ffi::c_char;
        Datum::from(pg_sys::construct_array(
            elements.as_mut_ptr(),
            count,
            oid,
            length,
            by_value,
            align,
        ))
    }
}
