//! `impound disk IMAGE[:LABEL[@SUB]][:/path|:#inode] VERB`: what is on a disk, as The Sleuth Kit would be asked, without offsets.

mod blocks;
mod body;
mod files;
mod journal;
mod list;
mod open;
mod take;
mod time;
mod tree;

use std::ffi::OsString;

use anyhow::Result;

use super::Exit;
use super::context::Context;
use super::image::OpenArgs;
use super::units;
use open::Disk;

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// An image or the folder of an exhibit; `:p2` or `:vg0-root` for a volume, `:p2@home` for a subvolume in it,
    /// `:p2:/etc/passwd` or `:p2:#12` for a file
    address: OsString,
    #[command(flatten)]
    how: OpenArgs,
    #[command(flatten)]
    beside: open::BesideArgs,
    /// Show the bytes as they are, without replaying the journal of a file system in memory
    #[arg(long)]
    no_journal: bool,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Compares with: mmls (parts), fsstat (fs), fls (ls), istat (stat), icat and fcat (cat), ffind and ifind (find), \
blkls, blkstat and ifind -d (blocks), jls and usnjls (journal), hashdeep (hash), fls -m with mactime (timeline), tsk_recover (recover, extract).

Without a volume, ls, find, hash and timeline go through all of them: partitions, logical volumes, arrays, subvolumes. Names are bytes: JSON carries them whole. Exit code 3 \
says that something that was asked for could not be read.

Of a deleted file, \"whole\" means that nobody has its blocks now. Whether somebody had them in between and gave them back, \
no file system tells; \"taken_by\" in the manifest of recover names who has them today.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List volumes, partition tables, and gaps between them (mmls)
    Parts,
    /// Tell what the file systems say of themselves (fsstat)
    Fs,
    /// List a directory (fls)
    Ls {
        /// Subdirectories too
        #[arg(short, long)]
        recursive: bool,
        /// Deleted names and files too, also from the journal
        #[arg(long)]
        deleted: bool,
    },
    /// Tell all of one file (istat)
    Stat,
    /// Write the content of a file to stdout (icat, fcat)
    Cat {
        /// Only what stands behind its end in its last block
        #[arg(long, conflicts_with = "stream")]
        slack: bool,
        /// This stream beside the content (alternate data stream)
        #[arg(long, value_name = "NAME")]
        stream: Option<OsString>,
    },
    /// Find files by name, inode or block (ffind, ifind)
    Find(list::FindArgs),
    /// List ranges of blocks, write them out, or tell whose they are (blkls, blkstat, ifind)
    Blocks(blocks::BlockArgs),
    /// Tell what the journal knows of changes (jls, usnjls)
    Journal(journal::JournalArgs),
    /// Digest of every file (hashdeep)
    Hash(files::HashArgs),
    /// What happened when, sorted (fls -m, mactime)
    Timeline(time::TimeArgs),
    /// Write deleted files into a new folder (tsk_recover)
    Recover(take::TakeArgs),
    /// Write a file or a tree into a new folder (tsk_recover -a)
    Extract(take::TakeArgs),
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    let disk = Disk::open(&args.address, &args.how, &args.beside, args.no_journal)?;
    match &args.verb {
        Verb::Parts => list::parts(&disk, context),
        Verb::Fs => list::facts(&disk, context),
        Verb::Ls { recursive, deleted } => list::ls(&disk, *recursive, *deleted, context),
        Verb::Stat => files::stat(&disk, context),
        Verb::Cat { slack, stream } => files::cat(&disk, *slack, stream.as_deref(), context),
        Verb::Find(args) => list::find(&disk, args, context),
        Verb::Blocks(args) => blocks::blocks(&disk, args, context),
        Verb::Journal(args) => journal::journal(&disk, args, context),
        Verb::Hash(args) => files::hash(&disk, args, context),
        Verb::Timeline(args) => time::timeline(&disk, args, context),
        Verb::Recover(args) => take::recover(&disk, args, context),
        Verb::Extract(args) => take::extract(&disk, args, context),
    }
}

/// For arguments of verbs.
fn size(text: &str) -> Result<u64, String> {
    units::bytes(text)
}
