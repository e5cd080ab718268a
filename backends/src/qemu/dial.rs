//! The ways to a monitor, kept so that one that broke can be gone again.

use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "ssh")]
use super::libvirt::Daemon;
use super::machine::Machine;
#[cfg(feature = "ssh")]
use super::machine::There;
#[cfg(feature = "ssh")]
use crate::Access;
use crate::wire::qmp::Qmp;
#[cfg(feature = "ssh")]
use crate::wire::ssh::{Destination, Ssh};
use crate::{BackendError, WireLog};

/// One way to a monitor.
#[derive(Clone)]
pub(super) enum Dial {
    /// A socket of this machine.
    Socket { path: PathBuf, wire: Arc<dyn WireLog> },
    /// A socket of another machine.
    #[cfg(feature = "ssh")]
    Ssh { to: Destination, path: String, access: Access },
    /// libvirt's monitor of a domain, given by its UUID.
    #[cfg(feature = "ssh")]
    Libvirt { daemon: Daemon, domain: String },
}

/// A monitor, and the machine that QEMU runs on where descriptors cannot be passed to it.
pub(super) struct Dialled {
    pub(super) qmp: Qmp,
    pub(super) machine: Option<Machine>,
}

impl Dial {
    /// Connects.
    pub(super) async fn dial(&self) -> Result<Dialled, BackendError> {
        match self {
            Self::Socket { path, wire } => {
                Ok(Dialled { qmp: Qmp::connect(path, Arc::clone(wire)).await?, machine: None })
            }
            #[cfg(feature = "ssh")]
            Self::Ssh { to, path, access } => {
                let control = Ssh::connect(to, &Access { rate: None, ..access.clone() }).await?;
                let stream = control.socket(path).await?;
                let name = format!("{path} of {}", control.name());
                let qmp = Qmp::over(stream, name, Arc::clone(&access.wire)).await?;
                // Memory and disks come at the same time, and by a connection each.
                let access = Access { rate: access.rate.map(|rate| rate / 2), ..access.clone() };
                let bulk = Ssh::connect(to, &access).await?;
                let there = There { control, bulk, to: to.clone(), access };
                Ok(Dialled { qmp, machine: Some(Machine::There(there)) })
            }
            #[cfg(feature = "ssh")]
            Self::Libvirt { daemon, domain } => daemon.monitor(domain).await,
        }
    }

    /// By what somebody over there could speak to QEMU.
    #[cfg(feature = "ssh")]
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Socket { .. } | Self::Ssh { .. } => "socket",
            Self::Libvirt { .. } => "libvirt",
        }
    }

    /// A monitor of libvirt's tells no events.
    pub(super) fn is_mute(&self) -> bool {
        #[cfg(feature = "ssh")]
        if let Self::Libvirt { .. } = self {
            return true;
        }
        false
    }

    /// A broken network may heal, and the other end of a broken connection may hold the monitor for a while.
    pub(super) fn is_far(&self) -> bool {
        !matches!(self, Self::Socket { .. })
    }
}
