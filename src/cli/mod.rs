//! The program around the library: parse, run, exit code. One file a verb; the only place with anyhow and indicatif.
//!
//! Tables go to stdout, everything else to stderr.

mod access;
mod acquire;
mod aside;
mod case;
mod context;
mod disk;
mod doctor;
mod exit;
mod export;
mod image;
mod memory;
mod meta;
mod progress;
mod several;
mod show;
mod targets;
mod units;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::report::{Format, printable};
use context::Context;
pub use exit::Exit;

/// Take memory and disks of a suspect VM through its hypervisor, and seal them as evidence anyone can check
#[derive(Debug, Parser)]
#[command(name = "impound", version, long_version = long_version(), after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    /// How tables are printed
    #[arg(long, value_enum, default_value_t, global = true, env = "IMPOUND_FORMAT")]
    format: Format,
    /// How progress is shown: bars on a terminal and lines otherwise, unless said
    #[arg(long, value_enum, default_value_t, global = true)]
    progress: progress::Style,
    /// Say more on stderr
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the VMs behind a connection
    Targets(targets::Args),
    /// Tell what a VM is, and what can be captured of it, how, and with what pause
    Show(show::Args),
    /// Take memory and disks of one instant into a case
    Acquire(Box<acquire::Args>),
    /// Check that a case or an exhibit is whole, unchanged, and that nothing was added
    Verify(verify::Args),
    /// Open a case, look at it, write into its log, mend it after a killed run
    Case(case::Args),
    /// Tell what an image is, layer by layer, and what of it is there
    Image(image::Args),
    /// Tell what is on a disk: volumes, files, also deleted ones; read them
    Disk(disk::Args),
    /// Ask what a guest's memory holds: its kernel, processes, files, sockets, and what hides there
    Memory(memory::Args),
    /// Copy an exhibit or an image into another format, and prove that it holds the same
    Export(export::Args),
    /// Tell what is missing on this machine or that host, and the command that mends it
    Doctor(doctor::Args),
    /// Let the guest go if the run that stopped it dies; started by acquire
    #[command(hide = true)]
    Guardian(case::GuardianArgs),
    /// Print completions for a shell
    Completions(meta::CompletionArgs),
    /// Print the manual page, or write one for each command
    Man(meta::ManArgs),
}

const AFTER_HELP: &str = "\
Exit codes: 0 complete · 1 error · 2 usage · 3 partial evidence · 4 guest may still be stopped · 5 verification failed · \
130 interrupted

First steps:
  impound doctor qmp:/run/web01.qmp
  impound show qmp:/run/web01.qmp
  impound acquire qmp:/run/web01.qmp --case CASE-2026-1
  impound verify CASE-2026-1";

fn long_version() -> String {
    format!("{}\n{}", env!("CARGO_PKG_VERSION"), context::build())
}

/// Runs the program on the process's own arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context::new(cli.format, cli.progress, cli.verbose);
    let outcome = match cli.verb {
        Verb::Targets(args) => targets::run(&args, &context),
        Verb::Show(args) => show::run(&args, &context),
        Verb::Acquire(args) => acquire::run(&args, &context),
        Verb::Verify(args) => verify::run(&args, &context),
        Verb::Case(args) => case::run(args, &context),
        Verb::Image(args) => image::run(&args, &context),
        Verb::Disk(args) => disk::run(&args, &context),
        Verb::Memory(args) => memory::run(&args, &context),
        Verb::Export(args) => export::run(&args, &context),
        Verb::Doctor(args) => doctor::run(&args, &context),
        Verb::Guardian(args) => case::stand_guard(&args, &context),
        Verb::Completions(args) => meta::completions(&args, Cli::command()),
        Verb::Man(args) => meta::man(&args, Cli::command()),
    };
    match outcome {
        Ok(exit) => exit.into(),
        // Whoever read our output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            context.say(&format!("error: {}", printable(&chain(&error))));
            exit::of(&error).into()
        }
    }
}

/// All causes in one line; a cause that its effect already tells is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
