//! How SQL calls Rust: version-1 functions with their arguments read in place.
//!
//! `#[pg_extern]` would copy and check every text argument, which takes longer than a decision.

use pgrx::{pg_sys, varlena};

use crate::error::{Error, Report, Result};

/// Defines the C function `$name`, which SQL declares as `LANGUAGE c`. The body gets a [`Call`] and answers `Result<Datum>`.
macro_rules! pg_function {
    ($(#[$doc:meta])* fn $name:ident($call:ident) $body:block) => {
        $(#[$doc])*
        #[no_mangle]
        pub unsafe extern "C-unwind" fn $name(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            fn run($call: &$crate::function::Call) -> $crate::error::Result<::pgrx::pg_sys::Datum> $body
            // SAFETY: PostgreSQL calls this with a valid fcinfo; this frame holds nothing that would need to be dropped.
            unsafe { $crate::function::enter(fcinfo, run) }
        }
        ::paste::paste! {
            /// Tells PostgreSQL how to call the function of this name.
            #[no_mangle]
            pub extern "C" fn [<pg_finfo_ $name>]() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
                &::pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
            }
        }
    };
}
pub(crate) use pg_function;

/// Runs a function with one guard around it: panics and PostgreSQL's own errors end there. Our errors are raised outside it.
///
/// # Safety
/// `fcinfo` is the one PostgreSQL called with, and the caller's frame has nothing to drop.
#[inline]
pub unsafe fn enter(
    fcinfo: pg_sys::FunctionCallInfo,
    run: fn(&Call) -> Result<pg_sys::Datum>,
) -> pg_sys::Datum {
    // Beside the result rather than in it: a datum then comes back in a register.
    let mut report = None;
    // SAFETY: the caller's promise is the one that the guard asks for.
    let datum = unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| match run(&Call(fcinfo)) {
            Ok(datum) => datum,
            Err(error) => {
                report = Some(Report::from(error));
                pg_sys::Datum::null()
            }
        })
    };
    match report {
        None => datum,
        // SAFETY: a Report has nothing to drop, and the guard has been left.
        Some(report) => unsafe { crate::error::raise(report) },
    }
}

/// The arguments of a call.
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    pub fn info(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    /// The answer null.
    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: fcinfo is valid for the whole call.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::null()
    }

    /// The function that was called: its schema is the extension's.
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: fcinfo is valid for the whole call, and flinfo is set for calls from SQL and for triggers.
        unsafe { (*(*self.0).flinfo).fn_oid }
    }

    /// Argument `n`, unless it is null.
    #[inline(always)]
    pub fn optional(&self, n: usize) -> Option<pg_sys::Datum> {
        // SAFETY: SQL declares the functions with as many arguments as their bodies read.
        let argument = unsafe { *(*self.0).args.as_ptr().add(n) };
        (!argument.isnull).then_some(argument.value)
    }

    #[inline(always)]
    pub fn required(&self, n: usize, name: &str) -> Result<pg_sys::Datum> {
        self.optional(n).ok_or_else(|| Error::null(name))
    }

    #[inline(always)]
    pub fn text(&self, n: usize, name: &str) -> Result<&[u8]> {
        // SAFETY: SQL declares the argument as text.
        Ok(unsafe { text(self.required(n, name)?) })
    }

    #[inline(always)]
    pub fn bigint(&self, n: usize, name: &str) -> Result<i64> {
        Ok(self.required(n, name)?.value() as i64)
    }

    /// A cost, which must not be negative.
    #[inline(always)]
    pub fn cost(&self, n: usize, name: &str) -> Result<u64> {
        match self.bigint(n, name)? {
            cost @ 0.. => Ok(cost.unsigned_abs()),
            cost => Err(Error::negative(name, cost)),
        }
    }
}

/// The bytes of a text, in place where it is stored plainly.
///
/// # Safety
/// `datum` is a text, varchar or name-like varlena that lives as long as the result is used.
#[inline(always)]
pub unsafe fn text<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the caller says that it is a varlena; only plain ones are read in place.
    unsafe {
        if varlena::varatt_is_4b_u(pointer) {
            let length = varlena::varsize_4b(pointer) - pg_sys::VARHDRSZ;
            std::slice::from_raw_parts(varlena::vardata_4b(pointer).cast::<u8>(), length)
        } else {
            short_or_toasted(pointer)
        }
    }
}

/// # Safety
/// As for [`text`].
unsafe fn short_or_toasted<'a>(pointer: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: a short varlena is read in place; any other is fetched or unpacked into memory of the current context.
    unsafe {
        let short = varlena::varatt_is_1b(pointer) && !varlena::varatt_is_1b_e(pointer);
        let pointer = if short { pointer } else { pg_sys::pg_detoast_datum_packed(pointer) };
        let length = varlena::varsize_any_exhdr(pointer);
        std::slice::from_raw_parts(varlena::vardata_any(pointer).cast::<u8>(), length)
    }
}
