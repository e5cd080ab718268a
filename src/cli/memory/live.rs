//! A running guest in the place of an image: its memory is read where it is.

use std::path::Path;

use anyhow::Result;
use impound_backends::{BackendError, Uri, for_uri};

use crate::cli::access::AccessArgs;
use crate::cli::context::{self, Context, block_on};
use crate::image::Image;
use crate::report::printable;

/// The address of a guest, if the argument is one and no file is called so.
pub(super) fn target(image: &Path) -> Option<Uri> {
    let text = image.to_str().filter(|_| !image.exists())?;
    context::uri(text).ok()
}

/// Opens the memory of a guest without stopping it. The monitor is free again once it is open.
pub(super) fn open(uri: &Uri, access: &AccessArgs, context: &Context) -> Result<Image> {
    let (facts, memory) = block_on(async {
        let mut host = for_uri(uri)?.connect(uri, &access.access()).await?;
        let mut target = host.open(uri.vm.as_deref()).await?;
        let facts = target.describe().await?;
        let Some(live) = target.live() else {
            let why = "memory can be read in place only of a QEMU on this machine, by its QMP socket";
            return Err(BackendError::unsupported("read the guest's memory in place", uri.to_string(), why)
                .advise("capture it (impound acquire --memory) and ask the exhibit"));
        };
        Ok((facts, live.memory().await?))
    })??;
    let (name, source) = (printable(&facts.name), printable(memory.source()));
    context.say(&format!(
        "live: {name} ({}) is read in place ({source}) and is not stopped: rows are of no single instant",
        facts.state
    ));
    Ok(Image::live(memory))
}
