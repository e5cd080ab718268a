//! Files of a host by its datastore browser: `https://esx1/folder/web/web.vmx?dcPath=ha-datacenter&dsName=datastore1`, with the user's
//! password (vSphere Web Services SDK Programming Guide, "HTTP Access to vSphere Server Files").
//!
//! Only bytes of files come this way; what is asked of the host, and done to a VM, goes by its shell. A host locks a user who
//! gives a wrong password a few times in a row, so one refusal ends it, and login, certificate and parts are tried before
//! anything is done to a VM.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value as Json, json};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::address::Https;
use super::files::volume_of;
use super::listing::{Volume, short};
use super::shell::Shell;
use crate::wire::http::{Answer, Call, Gate, Http, Method, Part, Request, Rules, Trust, Unsigned, Verdict};
use crate::wire::ssh;
use crate::{Access, BackendError, Kind, Secret};

/// Where the password may stand.
const PASSWORD: &str = "IMPOUND_ESX_PASSWORD";
/// Where the name of a file may stand, whose first line it is.
const PASSWORD_FILE: &str = "IMPOUND_ESX_PASSWORD_FILE";
/// Longest such file, in bytes.
const PASSWORD_MAX: u64 = 4096;
/// What a host by itself calls its only datacenter.
const DATACENTER: &str = "ha-datacenter";
/// How often a request is made whose connection breaks, with a pause that doubles from this on: half a minute in all.
const BREAKS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(125);
/// How often a part is asked for that the host cannot read.
const REFUSALS: u32 = 2;
/// Requests under way: at first, and at most. A host serves few at once, and says 503 when there are too many.
const AT_ONCE: (u32, u32) = (2, 4);

/// What came of asking for a part.
pub(super) enum Came {
    /// All of it.
    Bytes(Bytes),
    /// The host cannot read it, with its words.
    Unreadable(String),
}

/// See the module.
pub(super) struct Browser {
    http: Http,
    trust: Trust,
    gate: Gate,
    origin: String,
    user: String,
    login: Secret,
    volumes: Vec<Volume>,
}

impl Browser {
    /// The pages of the host that `shell` is of. Asks for the password; nothing is said to the host yet.
    pub(super) async fn of(shell: &Shell, how: &Https, volumes: &[Volume]) -> Result<Self, BackendError> {
        let (to, access) = shell.reached();
        let place = ssh::place(to, access)?;
        if place.by_way && how.host.is_none() {
            let why = "its shell is reached by way of another machine, which HTTPS does not take";
            return Err(BackendError::unsupported("read files by HTTPS", to.to_string(), why)
                .advise("leave files=https away, or say under which name it is reached from here: https-host=NAME"));
        }
        let host = how.host.as_ref().unwrap_or(&place.host);
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let origin = how.port.map_or_else(|| format!("https://{host}"), |port| format!("https://{host}:{port}"));
        let trust = Trust::new(how.pin)?;
        // The host is no further than its shell, which needs no proxy. How long a part takes depends on --rate.
        let rules = Rules { direct: true, within: Duration::from_secs(3600), ..Rules::default() };
        let http = Http::trusting(access.wire.clone(), rules, &trust)?.at_most(access.rate);
        let password = password(&place.user, &origin, access).await?;
        let pair = Zeroizing::new(format!("{}:{}", place.user, password.reveal()));
        let login = Secret::new(format!("Basic {}", *Zeroizing::new(STANDARD.encode(pair.as_bytes()))));
        let gate = Gate::new(AT_ONCE.0, AT_ONCE.1);
        Ok(Self { http, trust, gate, origin, user: place.user, login, volumes: volumes.to_vec() })
    }

    /// Logs in, and sees that a part of this file can be had: before anything is done to a VM.
    pub(super) async fn check(&self, path: &str) -> Result<(), BackendError> {
        match self.part(path, 0, 1).await? {
            Came::Bytes(_) => Ok(()),
            Came::Unreadable(why) => Err(BackendError::unsupported("read a file by HTTPS", short(path), why)),
        }
    }

    /// Logs in, and no more.
    pub(super) async fn hello(&self) -> Result<(), BackendError> {
        let answer = self.send(self.request("log in by HTTPS", "/folder"), &|_| Verdict::Done).await?;
        if answer.status == 200 { Ok(()) } else { Err(self.refused("log in by HTTPS", "/folder", &answer)) }
    }

    /// Whose pages they are, and by which certificate they are known: for the manifest.
    pub(super) fn told(&self) -> Json {
        let by = if self.trust.pin().is_some() { "pin" } else { "the system's roots" };
        let certificate = self.trust.taken().map(|taken| taken.to_string());
        json!({ "by": "https", "from": format!("{}/folder", self.origin), "user": self.user,
            "certificate_sha256": certificate, "trusted_by": by })
    }

    /// `len` bytes of a file from `first` on. Asked for again when the connection broke, or once more if the host cannot read them.
    pub(super) async fn part(&self, path: &str, first: u64, len: u64) -> Result<Came, BackendError> {
        let request = self.file(path)?;
        let part = Part::new(first, len)
            .ok_or_else(|| BackendError::caller("read a file by HTTPS", short(path), "an empty part was asked for"))?;
        let request = request.part(part);
        let judge = |answer: &Answer| judge(part, first.saturating_add(len), answer);
        let (mut breaks, mut refusals, mut pause) = (0, 0, FIRST_PAUSE);
        loop {
            let why = match self.send(request.clone(), &judge).await {
                Ok(answer) if answer.status == 206 => return Ok(Came::Bytes(answer.body)),
                Ok(answer) if answer.status == 500 => {
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return Ok(Came::Unreadable(format!("HTTP 500: {}", words(&answer))));
                    }
                    continue;
                }
                Ok(answer) if answer.status > 500 => self.refused(request.purpose, path, &answer),
                Ok(answer) => return Err(self.refused(request.purpose, path, &answer)),
                Err(error) if error.kind == Kind::Io => error,
                Err(error) => return Err(error),
            };
            breaks += 1;
            if breaks > BREAKS {
                return Err(why);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// One request, once. A certificate that is not taken is told.
    async fn send(
        &self,
        request: Request,
        judge: &(dyn Fn(&Answer) -> Verdict + Sync),
    ) -> Result<Answer, BackendError> {
        let call = Call { request, sign: &Unsigned, judge, gate: Some(&self.gate), once: true };
        self.http.send(call).await.map_err(|error| self.distrusted().unwrap_or(error))
    }

    fn distrusted(&self) -> Option<BackendError> {
        let refused = self.trust.refused()?;
        let why = format!("{}; the SHA-256 of the certificate it shows is {}", refused.why, refused.certificate);
        let advice = "compare that with what the host itself says (openssl x509 -noout -fingerprint -sha256 -in \
                      /etc/vmware/ssl/rui.crt); only if they are equal, say so in the address";
        let advice = format!("{advice}: ?files=https&cert={}", refused.certificate);
        Some(BackendError::unsupported("trust the host's certificate", &self.origin, why).advise(advice))
    }

    fn request(&self, purpose: &'static str, path: &str) -> Request {
        Request::new(purpose, Method::Get, &self.origin, path).header("authorization", self.login.clone())
    }

    /// Asks for a file by the name of its datastore and the path below.
    fn file(&self, path: &str) -> Result<Request, BackendError> {
        let volume = volume_of(&self.volumes, path).filter(|volume| !volume.name.is_empty());
        let below = volume.and_then(|volume| path.strip_prefix(volume.mount.as_str()));
        let (Some(volume), Some(below)) = (volume, below) else {
            let why = "it is on no datastore that has a name";
            return Err(BackendError::unsupported("read a file by HTTPS", short(path), why));
        };
        let request = self.request("read a file by HTTPS", &format!("/folder{below}"));
        Ok(request.query("dcPath", DATACENTER).query("dsName", volume.name.as_str()))
    }

    /// What a status means here.
    fn refused(&self, purpose: &str, on: &str, answer: &Answer) -> BackendError {
        let status = answer.status;
        let refuse = |why: String| BackendError::unsupported(purpose, short(on), why);
        match status {
            401 => BackendError::unsupported("log in by HTTPS", format!("{} at {}", self.user, self.origin), {
                "the host takes neither this user nor this password (HTTP 401)"
            })
            .advise(format!(
                "set {PASSWORD} or {PASSWORD_FILE}; after some wrong ones a host locks the user for minutes"
            )),
            403 => refuse(format!("{} may not browse its datastores (HTTP 403)", self.user)),
            404 => refuse("its datastore browser has no such file (HTTP 404)".to_owned()),
            416 => refuse("the file ends before that (HTTP 416)".to_owned()).advise("it shrank while it was read"),
            501.. => BackendError::new(Kind::Io, purpose, short(on), format!("HTTP {status}: {}", words(answer))),
            _ => refuse(format!("HTTP {status}: {}", words(answer))),
        }
    }
}

/// A part is what it says, or it is none. Being asked to come later is nobody's failure.
fn judge(part: Part, end: u64, answer: &Answer) -> Verdict {
    match answer.status {
        200 => Verdict::Bad("all of the file (HTTP 200): the host gives no parts of it".to_owned()),
        206 => match part.check(answer.header("content-range"), answer.body.len() as u64, end) {
            Ok(()) => Verdict::Done,
            Err(why) => Verdict::Bad(why),
        },
        429 | 503 => Verdict::Throttled,
        _ => Verdict::Done,
    }
}

/// The first words of a page, which is HTML and whose text the host wrote.
fn words(answer: &Answer) -> String {
    let page = String::from_utf8_lossy(answer.body.get(..answer.body.len().min(4096)).unwrap_or_default()).into_owned();
    // What follows a `<` is a tag up to its `>`.
    let behind = page
        .split('<')
        .enumerate()
        .map(|(n, part)| if n == 0 { part } else { part.split_once('>').map_or("", |(_, text)| text) });
    let text = behind.collect::<Vec<_>>().join(" ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it gives no reason".to_owned() } else { short(&text) }
}

/// The user's password: from the environment, from a file that it names, or by asking. Never from an argument, which all may read.
async fn password(user: &str, origin: &str, access: &Access) -> Result<Secret, BackendError> {
    if let Some(password) = std::env::var(PASSWORD).ok().filter(|password| !password.is_empty()) {
        return Ok(Secret::new(password));
    }
    if let Some(file) = std::env::var_os(PASSWORD_FILE) {
        return first_line(std::path::Path::new(&file));
    }
    let (ask, what) = (access.ask.clone(), format!("password of {user} at {origin}"));
    let told = tokio::task::spawn_blocking(move || ask.secret(&what)).await.ok().flatten();
    told.ok_or_else(|| {
        BackendError::caller("log in by HTTPS", origin, format!("nobody can be asked for the password of {user}"))
            .advise(format!("set {PASSWORD}, or {PASSWORD_FILE} to the name of a file that holds it"))
    })
}

fn first_line(file: &std::path::Path) -> Result<Secret, BackendError> {
    use std::io::Read as _;
    let on = || file.display().to_string();
    let failed = |error: std::io::Error| BackendError::io("read the password", on(), &error);
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(file).map_err(failed)?.take(PASSWORD_MAX).read_to_string(&mut text).map_err(failed)?;
    let line = text.lines().next().filter(|line| !line.is_empty());
    line.map(|line| Secret::new(line.to_owned()))
        .ok_or_else(|| BackendError::caller("read the password", on(), "its first line is empty"))
}
