//! What fired a trigger, and the values of the row it fired for.

mod row;
mod statement;
mod template;

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use pgrx::pg_sys::{self, Datum};

use crate::encoding;
use crate::error::Error;
use crate::function::Call;

const OPERATION: u32 = 0x3;
const DELETE: u32 = 0x1;
const UPDATE: u32 = 0x2;
const TRUNCATE: u32 = 0x3;
const FOR_EACH_ROW: u32 = 0x4;
const TIMING: u32 = 0x18;
const BEFORE: u32 = 0x8;

/// The call of a trigger function by the trigger manager.
pub struct Fired<'a> {
    data: &'a pg_sys::TriggerData,
}

impl<'a> Fired<'a> {
    pub fn new(call: &'a Call, function: &str) -> Result<Self, Error> {
        // SAFETY: fcinfo is valid; a context, where there is one, is a node, which begins with its tag.
        let data = unsafe {
            let context = (*call.info()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Error::not_a_trigger(function));
            }
            &*context.cast::<pg_sys::TriggerData>()
        };
        Ok(Fired { data })
    }

    fn trigger(&self) -> &'a pg_sys::Trigger {
        // SAFETY: the trigger manager sets it, for as long as the call lasts.
        unsafe { &*self.data.tg_trigger }
    }

    /// The name of the trigger.
    pub fn name(&self) -> Cow<'a, str> {
        // SAFETY: a terminated string of the server's.
        encoding::decode(unsafe { CStr::from_ptr(self.trigger().tgname) }.to_bytes())
    }

    /// The arguments that CREATE TRIGGER gave.
    pub fn arguments(&self) -> Vec<&'a [u8]> {
        let count = usize::try_from(self.trigger().tgnargs).unwrap_or(0);
        // SAFETY: tgargs has tgnargs terminated strings.
        (0..count)
            .map(|n| unsafe { CStr::from_ptr(*self.trigger().tgargs.add(n)) }.to_bytes())
            .collect()
    }

    fn is(&self, mask: u32, event: u32) -> bool {
        self.data.tg_event & mask == event
    }

    /// Whether it was fired for a row, and not for a statement.
    pub fn is_for_row(&self) -> bool {
        self.is(FOR_EACH_ROW, FOR_EACH_ROW)
    }

    pub fn is_truncate(&self) -> bool {
        self.is(OPERATION, TRUNCATE)
    }

    /// The table that the trigger is on.
    pub fn table(&self) -> pg_sys::Oid {
        // SAFETY: the trigger manager sets the relation, which is open for as long as the call lasts.
        unsafe { (*self.data.tg_relation).rd_id }
    }

    fn is_delete(&self) -> bool {
        self.is(OPERATION, DELETE)
    }

    /// The row that is about to be there; on DELETE the one that is.
    fn tuple(&self) -> pg_sys::HeapTuple {
        if self.is(OPERATION, UPDATE) {
            self.data.tg_newtuple
        } else {
            self.data.tg_trigtuple
        }
    }

    /// The values of that row.
    pub fn row(&self) -> Row {
        let complete = self.is_delete() || !self.is(TIMING, BEFORE);
        Row { tuple: self.tuple(), descriptor: self.descriptor(), complete }
    }

    /// All versions of the row, as it was and as it is, after it was written.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let old = self.data.tg_trigtuple;
        let new = if self.is(OPERATION, UPDATE) { self.data.tg_newtuple } else { old };
        let descriptor = self.descriptor();
        let versions = if old == new { vec![old] } else { vec![old, new] };
        versions.into_iter().map(move |tuple| Row { tuple, descriptor, complete: true })
    }

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the trigger manager sets the relation, which is open for as long as the call lasts.
        unsafe { (*self.data.tg_relation).rd_att }
    }
}

/// The values of a row, as text.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    /// Whether generated columns are computed: before the row is written they are not.
    complete: bool,
}

impl Row {
    /// The number of a column; the error is a sentence.
    pub fn number(&self, name: &[u8]) -> Result<i32, String> {
        let shown = encoding::decode(name);
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: a valid descriptor and a terminated string.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor, c_name.as_ptr()) };
        if number <= 0 {
            return Err(format!("The table has no column \"{shown}\"."));
        }
        // SAFETY: a valid descriptor, which outlives this look at it.
        let columns = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(self.descriptor) };
        let generated = columns.get(number as usize - 1).map_or(0, |column| column.attgenerated);
        const VIRTUAL: std::ffi::c_char = b'v' as std::ffi::c_char;
        if generated == VIRTUAL {
            return Err(format!("Column \"{shown}\" is virtual: no trigger sees its values."));
        }
        if generated != 0 && !self.complete {
            return Err(format!(
                "Column \"{shown}\" is generated, after BEFORE triggers have run."
            ));
        }
        Ok(number)
    }

    /// What a column's type prints; `None` for null.
    pub fn column(&self, number: i32) -> Option<Cow<'_, [u8]>> {
        let mut null = false;
        // SAFETY: the tuple fits the descriptor, which has this column: `number` said so, or the table's definition.
        let (value, oid) = unsafe {
            (
                pg_sys::SPI_getbinval(self.tuple, self.descriptor, number, &mut null),
                pg_sys::SPI_gettypeid(self.descriptor, number),
            )
        };
        if null {
            return None;
        }
        Some(match oid {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                // SAFETY: these types are stored as text.
                Cow::Borrowed(unsafe { crate::function::text(value) })
            }
            pg_sys::INT8OID => Cow::Owned((value.value() as i64).to_string().into_bytes()),
            pg_sys::INT4OID => Cow::Owned((value.value() as i32).to_string().into_bytes()),
            _ => Cow::Owned(print(value, oid)),
        })
    }
}

/// What a type's output function prints.
fn print(value: Datum, oid: pg_sys::Oid) -> Vec<u8> {
    let (mut output, mut variable_length) = (pg_sys::Oid::INVALID, false);
    // SAFETY: the value is of this type; the output function answers a terminated string.
    unsafe {
        pg_sys::getTypeOutputInfo(oid, &mut output, &mut variable_length);
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, value)).to_bytes().to_vec()
    }
}
