//! Talks to hypervisors and clouds. One contract, one file or folder for each of them, and no knowledge of cases,
//! images or analyzers.
//!
//! A [`Backend`] connects to a [`Host`]; a host opens a [`Target`]; a target fixes one instant for the [`Item`]s asked
//! for and hands out one [`Capture`] each, a stream of [`Piece`]s. Abilities a target may lack ([`Freeze`], [`Live`]) are `None`,
//! known before work starts, never a panic on the way.

mod access;
#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
mod capture;
#[cfg(feature = "cloud")]
mod cloud;
mod error;
#[cfg(feature = "esx")]
pub mod esx;
pub mod fake;
pub mod file;
#[cfg(feature = "gcp")]
pub mod gcp;
mod journal;
mod live;
#[cfg(feature = "openstack")]
pub mod openstack;
#[cfg(any(feature = "aws", feature = "azure"))]
mod program;
#[cfg(feature = "qemu")]
pub mod qemu;
mod target;
mod uri;
pub mod wire;
#[cfg(feature = "xen")]
pub mod xen;

pub use access::{Access, Ask, Nobody, Secret};
pub use capture::{Capture, Consistency, GRAIN, Piece, PieceStream, Region, Why};
pub use error::{BackendError, Kind};
pub use journal::{ActId, Forgetful, Journal, Undo};
pub use live::{Live, LiveError, LiveMemory, LiveSpan};
pub use target::{
    Backend, Check, Clocks, Facts, Finding, Finished, Freeze, Host, HostFile, How, Item, ItemKind, Method, Pause, Plan,
    PlannedItem, Quiesced, Since, Stall, Target, TargetSummary, Witness,
};
pub use uri::Uri;
pub use wire::{HttpAnswer, NoLog, WireEntry, WireLog};

/// Every backend there is. The scheme of an address chooses; the order is that of the help text.
pub static ALL: &[&dyn Backend] = &[
    #[cfg(feature = "qemu")]
    &qemu::Qemu,
    #[cfg(all(feature = "qemu", feature = "ssh"))]
    &qemu::QemuSsh,
    #[cfg(all(feature = "qemu", feature = "ssh"))]
    &qemu::Libvirt,
    #[cfg(feature = "xen")]
    &xen::Xen,
    #[cfg(feature = "xen")]
    &xen::XenSsh,
    #[cfg(feature = "esx")]
    &esx::Esx,
    #[cfg(feature = "aws")]
    &aws::Aws,
    #[cfg(feature = "azure")]
    &azure::Azure,
    #[cfg(feature = "gcp")]
    &gcp::Gcp,
    #[cfg(feature = "openstack")]
    &openstack::Openstack,
    &file::File,
    &fake::Fake,
];

/// The backend for an address.
pub fn for_uri(uri: &Uri) -> Result<&'static dyn Backend, BackendError> {
    ALL.iter().copied().find(|backend| backend.answers_to(&uri.scheme)).ok_or_else(|| {
        let known: Vec<_> = ALL.iter().map(|backend| backend.scheme()).collect();
        BackendError::caller("choose a backend", uri.to_string(), format!("no backend is called `{}`", uri.scheme))
            .advise(format!("known schemes: {}", known.join(", ")))
    })
}
