//! Signatures by the stock `ssh-keygen -Y`, namespace `impound` (the format is SSHSIG, OpenSSH's PROTOCOL.sshsig).
//!
//! Key material never enters this process: `ssh-keygen` reads the key file, asks the agent or the hardware token, and
//! asks for a passphrase on the terminal itself. So every type of key works that OpenSSH knows, and the one who verifies
//! uses the same program. What is handed to it is only the text to sign, in a file of our own.
//!
//! A signature says who signed, never when.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::CaseError;
use super::disk::{open_plain, read_bounded};
use super::names::plain;

/// The namespace: a signature made for mail or for git is none for evidence.
pub const NAMESPACE: &str = "impound";
/// How long a person may take to type a passphrase or touch a token.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long checking may take.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);
/// Longest key or signature file, in bytes.
const KEY_LIMIT: u64 = 64 << 10;

/// Someone who signs: the path of a private key, or of a public key whose private half an agent or token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    key: PathBuf,
    public: String,
    fingerprint: String,
}

impl Signer {
    /// Looks the key up. May ask for its passphrase on the terminal, if no `.pub` lies beside it.
    pub fn new(key: impl Into<PathBuf>) -> Result<Self, CaseError> {
        let key = key.into();
        let public = public_key(&key)?;
        let mut file = tempfile::NamedTempFile::new().map_err(CaseError::io("write the public key to a file", &key))?;
        file.write_all(public.as_bytes()).map_err(CaseError::io("write the public key to a file", &key))?;
        let said = keygen(&["-l".as_ref(), "-f".as_ref(), file.path().as_ref()], Stdio::null(), CHECK_PATIENCE)?;
        let fingerprint = said.out.split(' ').find(|word| word.starts_with("SHA256:")).map(str::to_owned);
        let fingerprint = fingerprint.ok_or_else(|| said.refuse("find the fingerprint of the key", &key))?;
        Ok(Self { key, public, fingerprint })
    }

    /// `SHA256:…`, as OpenSSH writes it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The line for an `allowed_signers` file (ssh-keygen(1)) that binds this key to a name.
    pub fn allowed_line(&self, name: &str) -> String {
        format!("{} namespaces=\"{NAMESPACE}\" {}\n", super::names::safe(name), self.public)
    }

    /// Signs, and checks that the signature is by the key that [`Signer::fingerprint`] names.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CaseError> {
        let broke = |error| CaseError::io("hand the text to ssh-keygen", &self.key)(error);
        let dir = tempfile::tempdir().map_err(broke)?;
        let (text, signature) = (dir.path().join("text"), dir.path().join("text.sig"));
        std::fs::write(&text, message).map_err(broke)?;
        // The text is given as a file: without a terminal ssh-keygen would read a passphrase from its standard input.
        let args = [
            "-Y".as_ref(),
            "sign".as_ref(),
            "-f".as_ref(),
            self.key.as_os_str(),
            "-n".as_ref(),
            NAMESPACE.as_ref(),
            text.as_os_str(),
        ];
        let said = keygen(&args, Stdio::null(), PATIENCE)?;
        if !said.good {
            return Err(said.refuse("sign", &self.key));
        }
        match look(&text, &signature)? {
            Seen::Good(by) if by == self.fingerprint => {
                read_bounded(&signature, KEY_LIMIT).map_err(CaseError::io("read the signature", &signature))
            }
            _ => Err(CaseError::caller("sign", &self.key, "the key does not fit the .pub file beside it")),
        }
    }
}

/// What a signature is worth, before it is asked whether its key is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// By the key with this fingerprint.
    Good(String),
    /// It does not fit, and this is what `ssh-keygen` says.
    Bad(String),
}

/// Does the signature fit the file, whoever made it?
pub(crate) fn look(file: &Path, signature: &Path) -> Result<Seen, CaseError> {
    let args = [
        "-Y".as_ref(),
        "check-novalidate".as_ref(),
        "-n".as_ref(),
        NAMESPACE.as_ref(),
        "-s".as_ref(),
        signature.as_os_str(),
    ];
    let said = keygen(&args, input(file)?, CHECK_PATIENCE)?;
    let fingerprint = said.out.rsplit(' ').next().map(str::trim).filter(|word| word.starts_with("SHA256:"));
    Ok(match fingerprint {
        Some(fingerprint) if said.good => Seen::Good(fingerprint.to_owned()),
        _ => Seen::Bad(said.why()),
    })
}

/// The name under which an `allowed_signers` file trusts the key of a signature, if it does and the signature fits.
pub(crate) fn trusted(file: &Path, signature: &Path, signers: &Path) -> Result<Option<String>, CaseError> {
    let args = [
        "-Y".as_ref(),
        "find-principals".as_ref(),
        "-s".as_ref(),
        signature.as_os_str(),
        "-f".as_ref(),
        signers.as_os_str(),
    ];
    let found = keygen(&args, Stdio::null(), CHECK_PATIENCE)?;
    let Some(name) = found.out.lines().next().filter(|name| found.good && !name.is_empty()) else { return Ok(None) };
    let args = [
        "-Y".as_ref(),
        "verify".as_ref(),
        "-f".as_ref(),
        signers.as_os_str(),
        "-I".as_ref(),
        name.as_ref(),
        "-n".as_ref(),
        NAMESPACE.as_ref(),
        "-s".as_ref(),
        signature.as_os_str(),
    ];
    let said = keygen(&args, input(file)?, CHECK_PATIENCE)?;
    Ok(said.good.then(|| plain(name)))
}

fn input(file: &Path) -> Result<Stdio, CaseError> {
    open_plain(file).map(Stdio::from).map_err(CaseError::io("read what is signed", file))
}

/// The public half, as one line of an `authorized_keys` file without its comment.
fn public_key(key: &Path) -> Result<String, CaseError> {
    let is_public = |text: &String| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| text.starts_with(kind));
    let mut beside = key.as_os_str().to_owned();
    beside.push(".pub");
    let text = read_key(key).map_err(CaseError::io("read the key", key))?;
    let text = Some(text).filter(is_public).or_else(|| read_key(Path::new(&beside)).ok().filter(is_public));
    let text = if let Some(text) = text {
        text
    } else {
        let said = keygen(&["-y".as_ref(), "-f".as_ref(), key.as_os_str()], Stdio::null(), PATIENCE)?;
        if !said.good {
            return Err(said.refuse("read the key", key));
        }
        said.out
    };
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split(' ').take(2).collect();
    Ok(words.join(" "))
}

fn read_key(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(KEY_LIMIT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What `ssh-keygen` answered.
struct Said {
    good: bool,
    out: String,
    err: String,
}

impl Said {
    fn why(&self) -> String {
        let line = self.err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("ssh-keygen gave no reason");
        plain(line.trim())
    }

    fn refuse(&self, attempted: &str, key: &Path) -> CaseError {
        let advice = [
            ("incorrect passphrase", "the passphrase is wrong, or there is no terminal to ask for it: use ssh-agent"),
            ("No private key found", "no agent holds this key: `ssh-add` it"),
            ("agent refused", "the agent refused: was the use of the key confirmed?"),
            ("No such file", "there is no such key"),
            ("invalid format", "this is no OpenSSH key"),
            ("bad permissions", "others may read the key: `chmod 600` it"),
        ];
        let advice = advice.iter().find(|(sign, _)| self.err.contains(sign)).map(|(_, advice)| format!("; {advice}"));
        CaseError::caller(attempted, key, format!("{}{}", self.why(), advice.unwrap_or_default()))
    }
}

/// Runs `ssh-keygen` within a bounded time. Its answers are short; a pipe holds them.
fn keygen(args: &[&std::ffi::OsStr], input: Stdio, patience: Duration) -> Result<Said, CaseError> {
    let program = Path::new("ssh-keygen");
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CaseError::Unsupported {
            attempted: "sign or check a signature".to_owned(),
            on: program.to_owned(),
            why: "it is not installed: `apt install openssh-client`".to_owned(),
        },
        _ => CaseError::io("run it", program)(error),
    })?;
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(CaseError::io("wait for it", program))? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(3)),
            None => {
                // Best effort: the error below is what counts.
                let _ = child.kill().and_then(|()| child.wait());
                let why = format!("no answer within {} s", patience.as_secs());
                return Err(CaseError::caller("sign or check a signature", program, why));
            }
        }
    };
    let text = |pipe: Option<&mut dyn Read>| {
        let mut bytes = Vec::new();
        // What cannot be read is reported as no reason given.
        let _ = pipe.map(|pipe| pipe.take(KEY_LIMIT).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let out = text(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read));
    let err = text(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read));
    Ok(Said { good: status.success(), out, err })
}
