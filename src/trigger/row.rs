//! `rl_limit_row`: a limit on the rows of a table, whoever writes them.

use pgrx::pg_sys::Datum;

use super::template::Template;
use super::{Fired, Row, BEFORE, FOR_EACH_ROW, TIMING};
use crate::encoding;
use crate::error::{Error, Result};
use crate::function::pg_function;
use crate::store::Store;

pg_function! {
    /// `BEFORE INSERT OR UPDATE OR DELETE ... FOR EACH ROW`: takes from a limiter for each row, and refuses the row if it may not.
    fn rl_limit_row(call) {
        let fired = Fired::new(call, "rl_limit_row")?;
        if !fired.is(FOR_EACH_ROW | TIMING, FOR_EACH_ROW | BEFORE) {
            return Err(Error::trigger_kind(&fired.name(), "rl_limit_row", "BEFORE and FOR EACH ROW"));
        }
        let arguments = fired.arguments();
        let (limiter, template, action, cost_column) = match arguments[..] {
            [limiter, template] => (limiter, template, &b"raise"[..], None),
            [limiter, template, action] => (limiter, template, action, None),
            [limiter, template, action, cost] => (limiter, template, action, Some(cost)),
            _ => return Err(argument_count(&fired, arguments.len())),
        };
        let skip = match action {
            b"raise" => false,
            b"skip" => true,
            other => {
                let detail = format!("The third argument is \"{}\".", encoding::decode(other));
                return Err(Error::trigger_argument(&fired.name(), "3", detail));
            }
        };
        let row = fired.row();
        let key = key(&fired, &parse(&fired, template)?, &row)?;
        let cost = cost_column.map_or(Ok(1), |column| cost(&fired, &row, column))?;

        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        if skip {
            let taken = store.try_take(&limiter, &key, cost)?;
            return Ok(if taken { Datum::from(fired.tuple()) } else { Datum::null() });
        }
        match store.raising().refusal(&limiter, &key, cost)? {
            None => Ok(Datum::from(fired.tuple())),
            Some(decision) => Err(Error::denied(&limiter.name, Some(&decision))),
        }
    }
}

pub fn argument_count(fired: &Fired, count: usize) -> Error {
    Error::trigger_argument(&fired.name(), "list", format!("There are {count} arguments."))
}

/// The template that the second argument is.
pub fn parse<'a>(fired: &Fired, text: &'a [u8]) -> Result<(Template, &'a [u8])> {
    let template = Template::parse(text).map_err(|detail| wrong_template(fired, text, detail))?;
    Ok((template, text))
}

/// The key of a row.
pub fn key(fired: &Fired, (template, text): &(Template, &[u8]), row: &Row) -> Result<Vec<u8>> {
    template.key(row).map_err(|detail| wrong_template(fired, text, detail))
}

fn wrong_template(fired: &Fired, text: &[u8], detail: String) -> Error {
    let argument = format!("2, the key template \"{}\"", encoding::decode(text));
    Error::trigger_argument(&fired.name(), &argument, detail)
}

fn cost(fired: &Fired, row: &Row, column: &[u8]) -> Result<u64> {
    let name = encoding::decode(column);
    let number = row
        .number(column)
        .map_err(|detail| Error::trigger_argument(&fired.name(), "4, the cost column", detail))?;
    let null = || Error::trigger_null_cost(&fired.name(), &name);
    let value = row.column(number).ok_or_else(null)?;
    let text = encoding::decode(&value);
    text.parse::<i64>().ok().and_then(|cost| u64::try_from(cost).ok()).ok_or_else(|| {
        let detail = format!("It is {text}; a cost is a whole number, not negative.");
        Error::trigger_cost(&fired.name(), &name, detail)
    })
}
