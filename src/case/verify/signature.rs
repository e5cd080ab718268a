//! Is a file signed, by whom, and is that who it should be?

use std::path::{Path, PathBuf};

use super::Finding;
use crate::case::CaseError;
use crate::case::sign::ALLOWED_SIGNERS;
use crate::case::sign::{Seen, look, trusted};

/// Which keys are trusted.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Those in a file that the verifier brought.
    Given(PathBuf),
    /// Those in the case's own list.
    Own(PathBuf),
    /// There is no list.
    Nobody,
}

impl Trust {
    pub(super) fn of(options: &super::Options, case: Option<&Path>) -> Self {
        let own = case.map(|dir| dir.join(ALLOWED_SIGNERS)).filter(|path| path.is_file());
        match (&options.signers, own) {
            (Some(given), _) => Self::Given(given.clone()),
            (None, Some(own)) => Self::Own(own),
            (None, None) => Self::Nobody,
        }
    }

    fn list(&self) -> Option<&Path> {
        match self {
            Self::Given(path) | Self::Own(path) => Some(path),
            Self::Nobody => None,
        }
    }
}

/// What a signature said.
#[derive(Debug, Default)]
pub(super) struct Signed {
    /// By whom, as the list names them, or the fingerprint if there is no list.
    pub(super) by: Option<String>,
    /// What is wrong with it.
    pub(super) finding: Option<Finding>,
}

/// Checks the signature of `root/file`. `logged` is the fingerprint that the custody log names for it.
pub(super) fn check(root: &Path, file: &Path, trust: &Trust, logged: Option<&str>) -> Result<Signed, CaseError> {
    let found = |finding| Ok(Signed { by: None, finding: Some(finding) });
    let mut beside = root.join(file).into_os_string();
    beside.push(".sig");
    let signature = PathBuf::from(beside);
    if !signature.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        let expected = match (logged, trust) {
            (Some(logged), _) => logged.to_owned(),
            (None, Trust::Given(_)) => "a trusted key".to_owned(),
            (None, _) => return Ok(Signed::default()),
        };
        return found(Finding::SignatureMissing { file: file.to_owned(), signer: expected });
    }
    let signer = match look(&root.join(file), &signature)? {
        Seen::Bad(why) => return found(Finding::BadSignature { file: file.to_owned(), why }),
        Seen::Good(signer) => signer,
    };
    let wrong = |why| Finding::WrongSigner { file: file.to_owned(), signer: signer.clone(), why };
    if logged.is_some_and(|logged| logged != signer) {
        return found(wrong("not by the key that the custody log names"));
    }
    let Some(list) = trust.list() else { return Ok(Signed { by: Some(signer), finding: None }) };
    match trusted(&root.join(file), &signature, list)? {
        Some(name) => Ok(Signed { by: Some(name), finding: None }),
        None => found(wrong("a key that is not trusted")),
    }
}
