//! The results as a table for people.

mod durable;

use std::fmt::{self, Write};

use serde_json::Value;

use crate::clients::{Cell, Clients};
use crate::contender::{Contender, Keys};
use crate::inside::{Inside, Row};
use crate::slots::Slots;
use crate::stats::Spread;
use crate::target::{Bound, Target};
use crate::Results;

/// All tables.
pub fn text(about: &Value, results: &Results, targets: &[Target]) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = head(&mut text, about, &results.clients)
        .and_then(|()| inside_table(&mut text, &results.inside))
        .and_then(|()| slots_table(&mut text, &results.slots))
        .and_then(|()| clients_table(&mut text, &results.clients))
        .and_then(|()| durable::tables(&mut text, results))
        .and_then(|()| targets_table(&mut text, targets));
    text
}

fn head(out: &mut String, about: &Value, clients: &Clients) -> fmt::Result {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let before = &about["before"];
    let load = clients.other_load();
    writeln!(out, "{}", text(&about["postgresql"]))?;
    writeln!(
        out,
        "{} x {}, Linux {}, data on {}, {}, {} s",
        before["cores"],
        text(&before["processor"]),
        text(&before["kernel"]),
        text(&about["file_system"]),
        text(&before["date"]),
        about["seconds"],
    )?;
    writeln!(
        out,
        "load before {}, after {}; processors that others used during pgbench: {:.2} ({:.2} to {:.2})",
        text(&before["load"]),
        text(&about["load_after"]),
        load.median,
        load.min,
        load.max
    )?;
    writeln!(out, "Figures are medians, with the lowest and the highest in parentheses.")
}

fn inside_table(out: &mut String, inside: &Inside) -> fmt::Result {
    for (million, title) in [(false, "one hot key"), (true, "a million live keys")] {
        writeln!(out, "\nInside one backend, {title}: ns a call")?;
        writeln!(out, "{:<38}{:>30}{:>30}{:>10}", "", "CPU over the empty one", "CPU", "wall")?;
        for row in inside.rows.iter().filter(|row| row.million == million) {
            inside_row(out, row)?;
        }
    }
    writeln!(out, "CPU is without making the rows, wall with it. rl_check is called as (rl_check(...)).allowed.")
}

fn inside_row(out: &mut String, row: &Row) -> fmt::Result {
    let over = if matches!(row.name, "rows alone" | "empty function") {
        String::new()
    } else {
        spread(row.over_empty, 0)
    };
    let precision = usize::from(row.net.median < 20.0);
    let cpu = spread(row.net, precision);
    writeln!(out, "{:<38}{over:>30}{cpu:>30}{:>10.0}", row.name, row.wall.median)
}

fn slots_table(out: &mut String, slots: &Slots) -> fmt::Result {
    writeln!(out, "\nConcurrency slots inside one backend: ns of CPU, each given back at once")?;
    for (name, figure) in slots.rows() {
        writeln!(out, "{name:<38}{:>30}", spread(figure, 0))?;
    }
    writeln!(
        out,
        "Functions, locks and slots are less the transaction; a lease is less two empty functions."
    )
}

fn clients_table(out: &mut String, clients: &Clients) -> fmt::Result {
    writeln!(out, "\npgbench -M prepared: ratios are to the empty function in the same round")?;
    writeln!(
        out,
        "{:<8}{:<8}{:<26}{:>9}{:>24}{:>24}{:>11}{:>11}",
        "clients", "keys", "", "tps", "tps ratio", "CPU ratio", "server us", "client us"
    )?;
    let mut clients_before = 0;
    let mut sorted: Vec<&Cell> = clients.cells.iter().collect();
    sorted.sort_by_key(|cell| (cell.clients, cell.keys == Keys::Spread));
    for cell in sorted {
        if cell.clients != clients_before && clients_before != 0 {
            writeln!(out)?;
        }
        clients_before = cell.clients;
        clients_row(out, clients, cell)?;
    }
    writeln!(out, "us: CPU of a transaction. One client and its backend share one processor.")
}

fn clients_row(out: &mut String, clients: &Clients, cell: &Cell) -> fmt::Result {
    let empty = clients.find(Contender::Empty, cell.keys, cell.clients);
    let (tps, cpu) = match empty {
        Some(empty) if cell.contender != Contender::Empty => (
            ratio(clients.ratio(cell, empty, |slice| slice.tps)),
            ratio(clients.ratio(cell, empty, |slice| 1.0 / slice.cpu())),
        ),
        _ => Default::default(),
    };
    writeln!(
        out,
        "{:<8}{:<8}{:<26}{:>9.0}{tps:>24}{cpu:>24}{:>11.1}{:>11.1}",
        cell.clients,
        cell.keys.name(),
        cell.contender.name(),
        cell.tps().median,
        cell.server_cpu().median,
        cell.client_cpu().median,
    )
}

fn targets_table(out: &mut String, targets: &[Target]) -> fmt::Result {
    writeln!(out, "\n{:<76}{:>24}{:>9}  {:<8}CPU ratio", "Targets", "", "", "")?;
    for target in targets {
        let (text, bound) = match target.bound {
            Bound::AtMost(bound) => (format!("<= {bound}"), bound),
            Bound::AtLeast(bound) => (format!(">= {bound}"), bound),
        };
        let figure = target.figure.map(|figure| spread(figure, digits(figure, bound)));
        let figure = figure.unwrap_or_default();
        let verdict = match target.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let cpu = target.cpu_ratio.map(ratio).unwrap_or_default();
        writeln!(out, "{:<76}{figure:>24}{text:>9}  {verdict:<8}{cpu}", target.name)?;
    }
    Ok(())
}

/// As many digits as it takes to see on which side of the bound a figure is.
fn digits(figure: Spread, bound: f64) -> usize {
    let least = match bound {
        ..=10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let distance = (figure.median - bound).abs();
    (least..4)
        .find(|digits| distance == 0.0 || distance * 10f64.powi(*digits as i32) > 0.5)
        .unwrap_or(4)
}

/// Small ratios need more digits to be told apart.
fn ratio(figures: Spread) -> String {
    spread(figures, if figures.median < 0.1 { 3 } else { 2 })
}

fn spread(figures: Spread, precision: usize) -> String {
    let Spread { median, min, max } = figures;
    if min == max {
        return format!("{median:.precision$}");
    }
    format!("{median:.precision$} ({min:.precision$} to {max:.precision$})")
}
