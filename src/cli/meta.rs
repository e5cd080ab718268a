//! `impound completions` and `impound man`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;

use super::Exit;
use super::context::{Stdout, write_new};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionArgs, mut command: Command) -> Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "impound", &mut text);
    Stdout::lock().write_all(&text)?;
    Ok(Exit::Complete)
}

pub(super) fn man(args: &ManArgs, mut command: Command) -> Result<Exit> {
    command.build();
    let Some(dir) = &args.output else {
        Stdout::lock().write_all(&page(command)?)?;
        return Ok(Exit::Complete);
    };
    fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    let mut left = vec![("impound".to_owned(), command)];
    while let Some((name, command)) = left.pop() {
        let below = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        left.extend(below.map(|sub| (format!("{name}-{}", sub.get_name()), sub.clone())));
        write_new(&dir.join(format!("{name}.1")), &page(command.name(name.clone()))?)?;
    }
    Ok(Exit::Complete)
}

fn page(command: Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    Ok(text)
}
