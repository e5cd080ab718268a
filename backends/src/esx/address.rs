//! Addresses of hosts: `//root@esx1?patience=60&files=https&cert=…`.

use std::time::Duration;

use crate::wire::http::Fingerprint;
use crate::wire::ssh::Destination;
use crate::{BackendError, Uri};

/// How long a snapshot or a change of power may take unless said: an hour holds a terabyte of memory on a slow datastore.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What an address says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Where the shell is.
    pub(super) to: Destination,
    /// How long a snapshot or a change of power may take.
    pub(super) patience: Duration,
    /// Files come by HTTPS, and how.
    pub(super) https: Option<Https>,
}

/// How the pages of a host are reached, where that is not as it is by SSH.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Https {
    /// Name or address, as the certificate has it.
    pub(super) host: Option<String>,
    /// Port, 443 unless said.
    pub(super) port: Option<u16>,
    /// The only certificate that is taken.
    pub(super) pin: Option<Fingerprint>,
}

/// Reads an address. Behind the question mark: `patience=SECONDS`, `files=ssh` or `files=https`, and for the latter
/// `https-host=NAME`, `https-port=PORT` and `cert=SHA256`.
pub(super) fn read(uri: &Uri) -> Result<Address, BackendError> {
    let refuse = |why: String| {
        BackendError::caller("read the address of a host", uri.to_string(), why)
            .advise("it looks like esx+ssh://root@esx1#web01")
    };
    let (rest, query) = uri.rest.split_once('?').unwrap_or((&uri.rest, ""));
    let (to, path) = Destination::parse(rest)?;
    if !matches!(path, "" | "/") {
        return Err(refuse(format!("a host has no path {path:?}")));
    }
    let (mut patience, mut by_https) = (PATIENCE, false);
    let mut https = Https::default();
    for word in query.split('&').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let wrong = |expected: &str| refuse(format!("{word:?} is no {name}={expected}"));
        match name {
            "patience" => patience = Duration::from_secs(value.parse().map_err(|_| wrong("SECONDS"))?),
            "files" if matches!(value, "https" | "ssh") => by_https = value == "https",
            "files" => return Err(wrong("https and no files=ssh")),
            "https-host" => https.host = Some(Destination::of(value).map_err(|_| wrong("NAME"))?.host),
            "https-port" => https.port = Some(value.parse().map_err(|_| wrong("PORT"))?),
            "cert" => https.pin = Some(value.parse().map_err(refuse)?),
            _ => return Err(refuse(format!("{word:?} is not known"))),
        }
    }
    if !by_https && https != Https::default() {
        return Err(refuse("https-host, https-port and cert say how files come by HTTPS".to_owned())
            .advise("add files=https, or leave them away"));
    }
    Ok(Address { to, patience, https: by_https.then_some(https) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_host_and_perhaps_how_long_to_wait() {
        let read = |text: &str| read(&text.parse().unwrap()).map(|read| (read.to.to_string(), read.patience.as_secs()));
        assert_eq!(read("esx+ssh://root@esx1#web 01").unwrap(), ("root@esx1".to_owned(), 3600));
        assert_eq!(read("esx+ssh://esx1:2222?patience=5#12").unwrap(), ("esx1:2222".to_owned(), 5));
        for bad in [
            "esx+ssh:esx1",
            "esx+ssh://esx1/vmfs",
            "esx+ssh://esx1?patience=x",
            "esx+ssh://esx1?wait=5",
            "esx+ssh://-o",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_says_how_files_come() {
        let https = |query: &str| read(&format!("esx+ssh://esx1?{query}").parse().unwrap()).map(|read| read.https);
        assert_eq!(https("files=ssh").unwrap(), None);
        assert_eq!(https("files=https").unwrap(), Some(Https::default()));
        let pin = "ab".repeat(32);
        let full = https(&format!("cert={pin}&https-port=8443&https-host=esx1.corp&files=https")).unwrap().unwrap();
        assert_eq!((full.host.as_deref(), full.port, full.pin), (Some("esx1.corp"), Some(8443), pin.parse().ok()));
        let pinned = format!("cert={pin}");
        for bad in [
            "files=ftp",
            "files",
            &pinned,
            "files=https&cert=abc",
            "files=https&https-port=x",
            "files=https&https-host=",
        ] {
            assert!(https(bad).is_err(), "{bad}");
        }
    }
}
