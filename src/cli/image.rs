//! `impound image FILE`: what wraps it, layer by layer. `impound image map FILE`: what of it is there.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use impound_backends::Why;

use super::Exit;
use super::context::{Context, raw_stdout, write_zeros};
use super::units;
use crate::image::{self, Image, Kind, Layer, Options, ReadError, digest, map, stream};
use crate::report::{Absent, Cell, Column, human_bytes, printable};

/// The arguments.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// An image, or the folder of an exhibit
    #[arg(required = true)]
    file: Option<PathBuf>,
    #[command(flatten)]
    how: OpenArgs,
    /// Read all of it and compare with the digests that it carries
    #[arg(long)]
    verify: bool,
}

const AFTER_HELP: &str = "\
Compares with: img_stat, ewfinfo, ewfverify, qemu-img info, qemu-img map.

Other files of an image (backing files, extents, segments) are looked for in its own folder, whatever the image says; \
--follow allows any place. What a guest wrote into its disk is never taken for a format.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List what is stored, what is zero, and what is missing
    Map {
        /// An image, or the folder of an exhibit
        file: PathBuf,
        #[command(flatten)]
        how: OpenArgs,
    },
    /// Digests of the content, as a raw file would have them; what is missing counts as zeros
    Hash {
        /// An image, or the folder of an exhibit
        file: PathBuf,
        #[command(flatten)]
        how: OpenArgs,
        /// Digest to compute; may be given several times
        #[arg(long = "digest", value_name = "NAME", default_values = ["sha256"], value_parser = ["sha256", "sha1", "md5"])]
        digests: Vec<String>,
    },
    /// Write the content to stdout; stops where something is missing
    Cat {
        /// An image, or the folder of an exhibit
        file: PathBuf,
        #[command(flatten)]
        how: OpenArgs,
        /// Write zeros for what is missing (exit code 3 says that it was)
        #[arg(long)]
        zeros: bool,
    },
    /// List the formats that can be opened
    Formats,
}

/// How an image is opened, for every verb that opens one.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct OpenArgs {
    /// Open backing files and extents wherever the image says they are, not only in its folder
    #[arg(long)]
    follow: bool,
    /// Longest disk or memory that a header may claim
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    max_size: Option<u64>,
    /// Take the file for this format instead of looking; raw for none (formats: impound image formats)
    #[arg(long, value_name = "FORMAT")]
    wrapping: Option<String>,
    /// Read the disk as it was in this internal snapshot (qcow2), by name or number
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
}

impl OpenArgs {
    /// Opens the image.
    pub(super) fn open(&self, path: &Path) -> Result<Image, ReadError> {
        image::open(path, &self.options())
    }

    fn options(&self) -> Options {
        Options {
            follow: self.follow,
            max_size: self.max_size.unwrap_or(image::MAX_SIZE),
            wrapping: self.wrapping.clone(),
            snapshot: self.snapshot.clone(),
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit> {
    match (&args.verb, &args.file) {
        (Some(Verb::Map { file, how }), _) => print_map(file, how, context),
        (Some(Verb::Hash { file, how, digests }), _) => print_hashes(file, how, digests, context),
        (Some(Verb::Cat { file, how, zeros }), _) => cat(file, how, *zeros, context),
        (Some(Verb::Formats), _) => print_formats(context),
        (None, Some(file)) => print_layers(file, args, context),
        (None, None) => Ok(Exit::Usage),
    }
}

const LAYERS: &[Column] = &[Column("layer"), Column("wrapping"), Column("property"), Column("value")];

fn print_layers(file: &Path, args: &Args, context: &Context) -> Result<Exit> {
    let image = args.how.open(file)?;
    let mut rows = context.table(LAYERS);
    for (number, layer) in (1_i64..).zip(image.layers()) {
        for (property, value) in properties(layer) {
            rows.row(vec![Cell::Int(number), Cell::text(layer.wrapping), Cell::text(property), value])?;
        }
    }
    let totals = map::Totals::of(image.bytes().as_ref())?;
    let (last, name) = (image.layers().len(), image.layers().last().map_or("", |layer| layer.wrapping));
    let last = i64::try_from(last).unwrap_or(i64::MAX);
    let sums =
        [("data", totals.data), ("zero", totals.zero), ("absent", totals.absent), ("unreadable", totals.unreadable)];
    for (property, bytes) in sums {
        rows.row(vec![Cell::Int(last), Cell::text(name), Cell::text(property), Cell::Bytes(bytes)])?;
    }
    for cpu in image.machine().iter().flat_map(|machine| &machine.cpus).take(1) {
        let cr3 = Cell::or_absent(cpu.cr3, Absent::Unknown, Cell::Address);
        rows.row(vec![Cell::Int(last), Cell::text(name), Cell::text("cr3 of cpu 0"), cr3])?;
    }
    rows.end()?;
    drop(rows);
    let missing = totals.unreadable > 0;
    if missing {
        context.say(&format!("{} are missing; impound image map names the ranges", human_bytes(totals.unreadable)));
    }
    let verified = if args.verify { verify(&image, context)? } else { Exit::Complete };
    Ok(if verified == Exit::Complete && missing { Exit::Partial } else { verified })
}

fn properties(layer: &Layer) -> Vec<(&'static str, Cell)> {
    let mut list = vec![
        ("content", Cell::text(layer.content.name())),
        ("size", Cell::Bytes(layer.len)),
        ("stored", Cell::Bytes(layer.stored)),
    ];
    list.extend(layer.facts.iter().map(|(name, value)| (*name, Cell::text(value))));
    list.extend(layer.files.iter().map(|(what, name)| (*what, Cell::text(name))));
    list.extend(layer.digests.iter().map(|digest| (digest.algorithm, Cell::text(&digest.hex))));
    list.extend(layer.odd.iter().map(|odd| ("odd", Cell::text(odd))));
    list
}

const MAP: &[Column] = &[Column("at"), Column("size"), Column("kind"), Column("why")];

fn print_map(file: &Path, how: &OpenArgs, context: &Context) -> Result<Exit> {
    let image = how.open(file)?;
    let bytes = image.bytes();
    let mut rows = context.table(MAP);
    let mut missing = false;
    for extent in map::walk(bytes.as_ref(), 0..bytes.len()) {
        let extent = extent?;
        let (kind, why) = match &extent.kind {
            Kind::Data => ("data", None),
            Kind::Zero => ("zero", None),
            Kind::Gap(why @ Why::Unreadable(_)) => ("unreadable", Some(why)),
            Kind::Gap(why) => ("absent", Some(why)),
        };
        missing |= kind == "unreadable";
        let why = Cell::or_absent(why, Absent::NotApplicable, |why| Cell::text(image::reason(why)));
        rows.row(vec![Cell::Address(extent.at), Cell::Bytes(extent.len), Cell::text(kind), why])?;
    }
    rows.end()?;
    Ok(if missing { Exit::Partial } else { Exit::Complete })
}

const HASHES: &[Column] = &[Column("digest"), Column("hex"), Column("bytes"), Column("missing")];

fn print_hashes(file: &Path, how: &OpenArgs, digests: &[String], context: &Context) -> Result<Exit> {
    let image = how.open(file)?;
    let bytes = image.bytes();
    let totals = map::Totals::of(bytes.as_ref())?;
    let task = context.progress().begin("hash", Some(bytes.len()));
    let wanted: Vec<_> = digests.iter().map(String::as_str).collect();
    let found = digest::of_content(bytes.as_ref(), bytes.len(), &wanted, task.as_ref())?;
    drop(task);
    let mut rows = context.table(HASHES);
    for digest in found {
        let (len, missing) = (Cell::Bytes(bytes.len()), Cell::Bytes(totals.absent + totals.unreadable));
        rows.row(vec![Cell::text(digest.algorithm), Cell::text(digest.hex), len, missing])?;
    }
    rows.end()?;
    Ok(if totals.unreadable > 0 { Exit::Partial } else { Exit::Complete })
}

fn cat(file: &Path, how: &OpenArgs, zeros: bool, context: &Context) -> Result<Exit> {
    let image = how.open(file)?;
    let bytes = image.bytes();
    let mut out = raw_stdout()?;
    let task = context.progress().begin("cat", Some(bytes.len()));
    let mut missing = false;
    stream::in_order::<anyhow::Error>(bytes.as_ref(), 0..bytes.len(), |chunk| {
        match chunk {
            stream::Chunk::Data { bytes, .. } => {
                out.write_all(bytes)?;
                task.add(bytes.len() as u64);
            }
            stream::Chunk::Hole(extent) => {
                if let Kind::Gap(why) = extent.kind {
                    missing |= matches!(why, Why::Unreadable(_));
                    if !zeros {
                        let gap = ReadError::Gap { at: extent.at, len: extent.len, why };
                        return Err(
                            anyhow::Error::from(gap).context("stopped; --zeros writes zeros for what is missing")
                        );
                    }
                }
                write_zeros(&mut out, extent.len)?;
                task.add(extent.len);
            }
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(if missing { Exit::Partial } else { Exit::Complete })
}

const FORMATS: &[Column] = &[Column("wrapping"), Column("about"), Column("tested_against")];

fn print_formats(context: &Context) -> Result<Exit> {
    let mut rows = context.table(FORMATS);
    for wrapping in image::ALL {
        rows.row([wrapping.name, wrapping.about, wrapping.tested_against].map(Cell::text).into())?;
    }
    rows.end()?;
    Ok(Exit::Complete)
}

fn verify(image: &Image, context: &Context) -> Result<Exit> {
    let Some(layer) = image.layers().iter().find(|layer| !layer.digests.is_empty()) else {
        context.say("it carries no digest to compare with");
        return Ok(Exit::Complete);
    };
    let wanted: Vec<_> = layer.digests.iter().map(|digest| digest.algorithm).collect();
    let bytes = image.bytes();
    let task = context.progress().begin("verify", Some(bytes.len()));
    let found = digest::of_content(bytes.as_ref(), bytes.len(), &wanted, task.as_ref())?;
    drop(task);
    let mut same = true;
    for carried in &layer.digests {
        let hex = found.iter().find(|found| found.algorithm == carried.algorithm).map_or("", |found| &found.hex);
        same &= hex == carried.hex;
        let verdict = if hex == carried.hex { "VERIFIED" } else { "DIFFERS" };
        let line =
            format!("{verdict}: {} of the content is {hex}, the image carries {}", carried.algorithm, carried.hex);
        context.say(&printable(&line));
    }
    Ok(if same { Exit::Complete } else { Exit::NotVerified })
}
