//! Who and where: `user@host:port`, as it stands in an address, and what `ssh_config` makes of it.

use std::fmt;

use crate::BackendError;

/// A login on another machine, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Who to log in as.
    pub user: Option<String>,
    /// Name or address, or an alias of `ssh_config`.
    pub host: String,
    /// Port.
    pub port: Option<u16>,
}

impl Destination {
    /// Takes `//user@host:port/path` apart, or the same without a path, which is then empty.
    pub fn parse(rest: &str) -> Result<(Self, &str), BackendError> {
        let authority = rest.strip_prefix("//").ok_or_else(|| wrong(rest, "two slashes stand in front of the host"))?;
        let end = authority.find('/').unwrap_or(authority.len());
        let (authority, path) = authority.split_at(end);
        Ok((Self::of(authority)?, path))
    }

    /// Takes `user@host:port` apart, as in an address or in `ProxyJump`.
    pub fn of(text: &str) -> Result<Self, BackendError> {
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, text),
        };
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| wrong(text, "a bracket is not closed"))?;
                (host, port.strip_prefix(':').or((!port.is_empty()).then_some(port)))
            }
            // An IPv6 address without brackets has no port.
            None if host.matches(':').count() > 1 => (host, None),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| wrong(text, "the port is no number"))).transpose()?;
        // What begins with a dash would be an option to whatever reads it next; control codes have no place in a name.
        let odd =
            |word: &str| word.is_empty() || word.starts_with('-') || word.chars().any(|c| c.is_control() || c == ' ');
        if odd(host) || user.as_deref().is_some_and(odd) {
            return Err(wrong(text, "the name of the host or of the user is empty or has characters that no name has"));
        }
        Ok(Self { user, host: host.to_owned(), port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn wrong(text: &str, why: &str) -> BackendError {
    BackendError::caller("read the address of a machine", text, why)
        .advise("it looks like //root@kvm1.example.org:22/path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nonsense_is_refused() {
        let of = |text: &str| Destination::of(text).map(|d| (d.user, d.host, d.port));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("root@kvm1:2222").unwrap(), (some("root"), "kvm1".into(), Some(2222)));
        assert_eq!(of("kvm1").unwrap(), (None, "kvm1".into(), None));
        assert_eq!(of("a@b@kvm1").unwrap(), (some("a@b"), "kvm1".into(), None));
        assert_eq!(of("[fe80::1]:22").unwrap(), (None, "fe80::1".into(), Some(22)));
        assert_eq!(of("fe80::1").unwrap(), (None, "fe80::1".into(), None));
        let (destination, path) = Destination::parse("//root@kvm1/run/web 01.qmp").unwrap();
        assert_eq!((destination.to_string().as_str(), path), ("root@kvm1", "/run/web 01.qmp"));
        for bad in ["", "@kvm1", "root@", "-oProxyCommand=x", "root@kvm1:x", "[::1", "a b", "kvm1:99999", "[::1]x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(Destination::parse("/run/web01.qmp").is_err());
    }
}
