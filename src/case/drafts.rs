//! What a run may do with drafts besides sealing them.

use std::fs;

use super::exhibit::INTENT;
use super::{Case, CaseError, Draft, recover};

impl Case {
    /// Names of the drafts that are not sealed: those of live runs, of runs that are to be resumed, and of killed ones.
    pub fn unfinished(&self) -> Result<Vec<String>, CaseError> {
        recover::partials(self)
    }
}

impl Draft {
    /// Takes away a draft into which nothing was written. One that holds anything is left, and is an error.
    pub fn discard(self) -> Result<(), CaseError> {
        let dir = self.dir().to_owned();
        match fs::remove_file(dir.join(INTENT)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CaseError::io("take away the draft", &dir)(error));
            }
            _ => {}
        }
        match fs::remove_dir(dir.join("data")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CaseError::io("take away the draft", &dir)(error));
            }
            _ => {}
        }
        fs::remove_dir(&dir).map_err(CaseError::io("take away the draft", &dir))
    }
}
