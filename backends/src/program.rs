//! Programs that give out secrets, as some clouds have them: the Azure CLI, `credential_process` of AWS.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::{BackendError, Kind};

/// How long one may take: some ask a server first.
const WITHIN: Duration = Duration::from_secs(120);

/// What a program prints that gives out secrets; no shell reads its line. What it wrote gets into no error, not even its complaint.
pub(crate) async fn secrets_of(
    purpose: &'static str,
    program: &str,
    arguments: Vec<String>,
) -> Result<Vec<u8>, BackendError> {
    said_within(WITHIN, purpose, program, arguments).await
}

async fn said_within(
    within: Duration,
    purpose: &'static str,
    program: &str,
    arguments: Vec<String>,
) -> Result<Vec<u8>, BackendError> {
    let mut command = Command::new(program);
    // It may wait for somebody at a terminal who is not there: then it is ended.
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| BackendError::new(Kind::Io, purpose, program, why);
    let output = timeout(within, command.output()).await;
    let output = output.map_err(|_| failed(format!("it said nothing within {} s and was ended", within.as_secs())))?;
    let output = output.map_err(|error| BackendError::io(purpose, program, &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(format!("it ended with {}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(within: u64, line: &str) -> Result<Vec<u8>, String> {
        let arguments = vec!["-c".to_owned(), line.to_owned()];
        let said = said_within(Duration::from_secs(within), "ask for a token", "sh", arguments).await;
        said.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_program_is_heard_or_ended_and_its_complaint_is_not_repeated() {
        assert_eq!(said(600, "echo token").await.unwrap(), b"token\n");
        let refused = said(600, "echo hunter2; echo hunter2 >&2; exit 7").await.unwrap_err();
        assert!(refused.contains("exit status: 7") && !refused.contains("hunter2"), "{refused}");
        let silent = said(0, "exec sleep 100000").await.unwrap_err();
        assert!(silent.contains("said nothing within"), "{silent}");
    }
}
