//! `make demo`: replays a log through limits in a private server and shows what happens.

mod args;
mod bans;
mod log;
mod plan;
mod replay;
mod report;
mod scene;
mod screen;
mod seen;
mod speed;
mod stage;
mod traffic;

use std::io::{BufRead, ErrorKind, IsTerminal};
use std::process::ExitCode;

use anyhow::Result;
use testbed::Tree;

use args::{Args, Command};
use log::Log;
use screen::{number, say, tell, Screen};
use stage::Stage;

fn main() -> ExitCode {
    let result = Args::parse(std::env::args_os().skip(1)).and_then(|command| match command {
        Command::Help => Screen::new().write(args::HELP),
        Command::Run(args) => run(&args, &mut Screen::new()),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads this has seen enough, as in "make demo | head".
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn run(args: &Args, screen: &mut Screen) -> Result<()> {
    let log = match &args.log {
        Some(path) => Log::read(path)?,
        None => traffic::generate()?,
    };
    describe(args, &log, screen)?;
    let stage = Stage::build(&Tree::new(&args.pg_config)?, log.kind, args.limit.as_deref())?;
    let mut client = stage.server.connect()?;
    screen.heading(&format!("A private server: {}", stage.version(&mut client)?))?;
    screen.sql(&stage.shown())?;

    let plan = plan::Plan::new(log.entries, &stage.limit, args.seconds);
    screen.heading("The replay")?;
    plan.describe(&stage.limit, screen)?;
    stage.hasten(&mut client, &plan, screen)?;
    let outcome = replay::run(&stage, &plan, screen)?;
    outcome.describe(screen)?;
    report::clients(&stage, &mut client, screen)?;
    report::over_time(&stage, &mut client, screen)?;
    seen::limiters(&stage, &mut client, screen)?;
    seen::keys(&stage, &mut client, screen)?;
    bans::replayed(&stage, &mut client, screen)?;

    stage.slow_down(&mut client)?;
    bans::live(&stage, &mut client, screen)?;
    report::candidates(&stage, &mut client, screen)?;
    report::cross_check(&stage, &mut client, &outcome, screen)?;
    speed::measure(&mut client, screen)?;
    drop(client);
    see_for_yourself(args, stage, screen)
}

fn describe(args: &Args, log: &Log, screen: &mut Screen) -> Result<()> {
    let source = match &args.log {
        Some(path) => path.display().to_string(),
        None => "Traffic made up for this demo (make demo LOG=file takes yours)".to_owned(),
    };
    screen.heading(&source)?;
    let clients: std::collections::HashSet<_> = log.entries.iter().map(|e| &e.client).collect();
    tell!(
        screen,
        "{} lines: {} {} of {} {}; {} lines {}",
        number(log.lines),
        number(log.entries.len()),
        log.kind.entries,
        number(clients.len()),
        log.kind.clients,
        number(log.skipped),
        log.kind.skipped,
    )?;
    if log.repeated > 0 {
        say!(
            screen,
            "({} of them from lines which say \"message repeated N times\")",
            number(log.repeated)
        )?;
    }
    Ok(())
}

fn see_for_yourself(args: &Args, stage: Stage, screen: &mut Screen) -> Result<()> {
    let psql = stage.psql();
    let kind = stage.kind;
    let stays = args.keep || std::io::stdin().is_terminal();
    screen.heading("See for yourself")?;
    if stays {
        screen.strong(&psql)?;
        say!(screen, "The limiters are back at the log's pace. For example:")?;
        screen.sql(&kind.try_out())?;
        say!(screen)?;
    }
    if args.keep {
        let stop = stage.detach()?;
        say!(screen, "The server keeps running. To stop it and remove its files:")?;
        screen.strong(&stop)
    } else if stays {
        say!(screen, "The server runs until you press Enter.")?;
        std::io::stdin().lock().read_line(&mut String::new())?;
        Ok(())
    } else {
        say!(screen, "In a terminal, the server would now wait for you to look at it with psql.")?;
        say!(
            screen,
            "Here it has ended, and left nothing behind. ARGS=--keep would leave it running."
        )
    }
}
