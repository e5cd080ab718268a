//! The address of a hypervisor and, behind `#`, of one VM on it: `qmp:/run/web01.qmp`, `xen+ssh://root@dom0#web01`.

use std::fmt;
use std::str::FromStr;

use crate::BackendError;

/// `scheme:rest#vm`. The rest is the backend's own to read; nothing is percent-decoded, so that any path can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// What chooses the backend, as `qmp`.
    pub scheme: String,
    /// Everything between the first `:` and the `#`, with leading slashes kept.
    pub rest: String,
    /// The VM, for backends where one connection reaches several.
    pub vm: Option<String>,
}

impl FromStr for Uri {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        let refuse = |why: &str| {
            Err(BackendError::caller("read the target's address", text, why)
                .advise("a target looks like qmp:/run/web01.qmp or file:/evidence/disk.img"))
        };
        let Some((scheme, rest)) = text.split_once(':') else { return refuse("there is no `scheme:` in front") };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(plain) {
            return refuse("the scheme has characters that no scheme has");
        }
        // The last `#` divides, and only where no slash follows: a path may hold one, a VM's name holds no slash.
        let (rest, vm) = match rest.rsplit_once('#') {
            Some((rest, vm)) if !vm.contains('/') => (rest, Some(vm.to_owned())),
            _ => (rest, None),
        };
        if rest.is_empty() {
            return refuse("nothing follows the scheme");
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), rest: rest.to_owned(), vm: vm.filter(|v| !v.is_empty()) })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.rest)?;
        self.vm.as_ref().map_or(Ok(()), |vm| write!(f, "#{vm}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_splits_into_scheme_rest_and_vm() {
        let uri: Uri = "xen+ssh://root@dom0#web01".parse().unwrap();
        assert_eq!(
            (uri.scheme.as_str(), uri.rest.as_str(), uri.vm.as_deref()),
            ("xen+ssh", "//root@dom0", Some("web01"))
        );
        assert_eq!(uri.to_string(), "xen+ssh://root@dom0#web01");
        let path: Uri = "qmp:/run/a#b/c.qmp".parse().unwrap();
        assert_eq!((path.rest.as_str(), path.vm), ("/run/a#b/c.qmp", None));
    }

    #[test]
    fn an_address_without_scheme_or_rest_is_refused_with_an_example() {
        for bad in ["/run/web01.qmp", "qmp:", ":x", "q p:/x", "qmp:#vm"] {
            let error = bad.parse::<Uri>().unwrap_err();
            assert!(error.to_string().contains("qmp:/run/web01.qmp"), "{bad}: {error}");
        }
    }
}
