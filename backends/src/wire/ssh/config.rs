//! What of `ssh_config(5)` counts here: for each setting the first value that fits, the user's file before the system's.
//!
//! `Match` is understood for `all`, `host`, `originalhost`, `user` and `localuser`; a block with other conditions is passed
//! over, since commands of a configuration are not run. `ProxyCommand` is refused for the same reason, and said.
//!
//! Source: OpenBSD manual, ssh_config(5).

use std::fs;
use std::path::{Path, PathBuf};

use super::destination::Destination;
use crate::BackendError;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How deep files may include each other.
const DEEP: u32 = 8;

/// Where and how to log in, with nothing left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// As it was asked for.
    pub(super) asked: String,
    /// Name or address to connect to.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// User.
    pub(super) user: String,
    /// The name under which `known_hosts` has it, if not the host's.
    pub(super) alias: Option<String>,
    /// Private keys, in order.
    pub(super) keys: Vec<PathBuf>,
    /// Certificates named beside them.
    pub(super) certificates: Vec<PathBuf>,
    /// Only these keys, not all that the agent has.
    pub(super) only: bool,
    /// Socket of the agent; none if there is none.
    pub(super) agent: Option<PathBuf>,
    /// Machines on the way, nearest first.
    pub(super) jumps: Vec<Destination>,
    /// Files of known hosts; the first is the one that is added to.
    pub(super) known: Vec<PathBuf>,
    /// Seconds until the connection must stand.
    pub(super) timeout: u64,
    /// Seconds between signs of life.
    pub(super) alive: u32,
    /// How many of these may go unanswered.
    pub(super) patience: u32,
}

/// Settings in the order in which they were met.
#[derive(Debug, Default)]
struct Settings(Vec<(String, Vec<String>)>);

impl Settings {
    fn first(&self, key: &str) -> Option<&str> {
        self.all(key).next()?.first().map(String::as_str)
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &Vec<String>> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, words)| words)
    }
}

/// This machine's user, as far as it matters here.
struct Me {
    name: String,
    home: PathBuf,
}

impl Me {
    fn find() -> Self {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let name = ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok());
        Self { name: name.unwrap_or_else(|| "root".to_owned()), home }
    }
}

/// What the files say of `asked`. With `instead`, only that file is read.
pub(super) fn login(asked: &Destination, instead: Option<&Path>) -> Result<Login, BackendError> {
    let me = Me::find();
    let mut reader = Reader { asked, me: &me, settings: Settings::default() };
    if let Some(file) = instead {
        reader.file(file, DEEP, true)?;
    } else {
        reader.file(&me.home.join(".ssh/config"), DEEP, false)?;
        reader.file(Path::new("/etc/ssh/ssh_config"), DEEP, false)?;
    }
    let settings = reader.settings;
    made(asked, &me, &settings)
}

fn made(asked: &Destination, me: &Me, settings: &Settings) -> Result<Login, BackendError> {
    let number = |key: &str, or: u32| settings.first(key).and_then(|text| text.parse().ok()).unwrap_or(or);
    let host = settings.first("hostname").map_or_else(|| asked.host.clone(), |name| name.replace("%h", &asked.host));
    let user =
        asked.user.clone().or_else(|| settings.first("user").map(str::to_owned)).unwrap_or_else(|| me.name.clone());
    let port = settings.first("port").and_then(|port| port.parse().ok()).unwrap_or(22);
    let port = asked.port.unwrap_or(port);
    if settings.first("proxycommand").is_some_and(|command| command != "none") && settings.first("proxyjump").is_none()
    {
        let what = "ssh_config names a ProxyCommand, which impound does not run";
        return Err(
            BackendError::unsupported("connect by SSH", asked.to_string(), what).advise("use ProxyJump for this host")
        );
    }
    let jumps = match settings.first("proxyjump") {
        None | Some("none") => Vec::new(),
        Some(list) => list.split(',').map(Destination::of).collect::<Result<_, _>>()?,
    };
    let fill = |path: &str| place(path, me, &host, port, &user);
    let named: Vec<_> = settings.all("identityfile").filter_map(|words| words.first()).map(|path| fill(path)).collect();
    let defaults = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| me.home.join(".ssh").join(name)).to_vec();
    let agent = match settings.first("identityagent") {
        Some("none") => None,
        Some("SSH_AUTH_SOCK") | None => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        Some(path) => Some(fill(path)),
    };
    let files = |key: &str, or: &[PathBuf]| -> Vec<PathBuf> {
        let named = settings.all(key).next();
        named.map_or_else(
            || or.to_vec(),
            |words| words.iter().filter(|word| *word != "none").map(|path| fill(path)).collect(),
        )
    };
    let own = [me.home.join(".ssh/known_hosts"), me.home.join(".ssh/known_hosts2")];
    let global = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"].map(PathBuf::from);
    Ok(Login {
        asked: asked.to_string(),
        alias: settings.first("hostkeyalias").map(str::to_owned),
        keys: if named.is_empty() { defaults } else { named },
        certificates: settings
            .all("certificatefile")
            .filter_map(|words| words.first())
            .map(|path| fill(path))
            .collect(),
        only: settings.first("identitiesonly") == Some("yes"),
        agent,
        jumps,
        known: [files("userknownhostsfile", &own), files("globalknownhostsfile", &global)].concat(),
        timeout: u64::from(number("connecttimeout", 20).max(1)),
        alive: number("serveraliveinterval", 15).max(1),
        patience: number("serveralivecountmax", 4).max(1),
        host,
        port,
        user,
    })
}

/// A path with its tokens filled in.
fn place(path: &str, me: &Me, host: &str, port: u16, user: &str) -> PathBuf {
    let path = path.strip_prefix("~/").map_or_else(|| path.to_owned(), |rest| format!("{}/{rest}", me.home.display()));
    let (mut filled, mut chars) = (String::new(), path.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('d')) => filled.push_str(&me.home.to_string_lossy()),
            ('%', Some('h')) => filled.push_str(host),
            ('%', Some('p')) => filled.push_str(&port.to_string()),
            ('%', Some('r')) => filled.push_str(user),
            ('%', Some('u')) => filled.push_str(&me.name),
            ('%', Some(other)) => filled.extend((other != '%').then_some('%').into_iter().chain([other])),
            (c, _) => filled.push(c),
        }
    }
    let filled = PathBuf::from(filled);
    if filled.is_absolute() { filled } else { me.home.join(".ssh").join(filled) }
}

struct Reader<'a> {
    asked: &'a Destination,
    me: &'a Me,
    settings: Settings,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, deep: u32, must: bool) -> Result<(), BackendError> {
        let text = match fs::metadata(path) {
            Ok(about) if about.len() <= LONGEST => fs::read_to_string(path),
            Ok(_) => {
                return Err(BackendError::caller(
                    "read a configuration of SSH",
                    path.display().to_string(),
                    "it is too long",
                ));
            }
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => self.text(&text, deep),
            Err(error) if must => {
                Err(BackendError::io("read a configuration of SSH", path.display().to_string(), &error))
            }
            Err(_) => Ok(()),
        }
    }

    fn text(&mut self, text: &str, deep: u32) -> Result<(), BackendError> {
        let mut here = true;
        for line in text.lines() {
            let words = words(line);
            let Some((key, values)) = words.split_first() else { continue };
            match key.to_ascii_lowercase().as_str() {
                "host" => here = matches(values, &self.asked.host),
                "match" => here = self.fits(values),
                "include" if here => values.iter().try_for_each(|pattern| self.include(pattern, deep))?,
                _ if !here || values.is_empty() => {}
                key => self.settings.0.push((key.to_owned(), values.to_vec())),
            }
        }
        Ok(())
    }

    fn fits(&self, conditions: &[String]) -> bool {
        let mut words = conditions.iter();
        let mut any = false;
        while let Some(word) = words.next() {
            any = true;
            let (not, word) = word.strip_prefix('!').map_or((false, word.as_str()), |word| (true, word));
            let of = |value: &str, list: Option<&String>| list.map(|list| pattern_list(list, value));
            let user = self.asked.user.clone().or_else(|| self.settings.first("user").map(str::to_owned));
            let host = self.settings.first("hostname").unwrap_or(&self.asked.host);
            let fits = match word.to_ascii_lowercase().as_str() {
                "all" => Some(true),
                "host" => of(host, words.next()),
                "originalhost" => of(&self.asked.host, words.next()),
                "user" => of(user.as_deref().unwrap_or(&self.me.name), words.next()),
                "localuser" => of(&self.me.name, words.next()),
                _ => None,
            };
            if fits.is_none_or(|fits| fits == not) {
                return false;
            }
        }
        any
    }

    /// `*` and `?` count in the last part of the name only.
    fn include(&mut self, pattern: &str, deep: u32) -> Result<(), BackendError> {
        if deep == 0 {
            return Ok(());
        }
        let path = place(pattern, self.me, &self.asked.host, 22, "");
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        let Ok(list) = fs::read_dir(folder) else { return Ok(()) };
        let mut found: Vec<_> = list.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| path.file_name().and_then(|file| file.to_str()).is_some_and(|file| wild(name, file)));
        found.sort();
        found.iter().try_for_each(|path| self.file(path, deep - 1, false))
    }
}

/// The words of a line, quotes and the `=` after the keyword taken away.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.trim().chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            '#' if !quoted && !begun => break,
            '=' if !quoted && words.is_empty() && begun => words.push(std::mem::take(&mut word)),
            '=' if !quoted && words.len() == 1 && !begun => {}
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
        begun = quoted || !word.is_empty() || (begun && c == '"');
    }
    if begun {
        words.push(word);
    }
    words
}

/// Patterns as `Host` has them: one must fit, and none with `!`.
fn matches(patterns: &[String], name: &str) -> bool {
    let mut fits = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if wild(pattern, name) => return false,
            Some(_) => {}
            None => fits |= wild(pattern, name),
        }
    }
    fits
}

/// The same, separated by commas.
pub(super) fn pattern_list(list: &str, name: &str) -> bool {
    matches(&list.split(',').map(str::to_owned).collect::<Vec<_>>(), name)
}

/// `*` is any text, `?` any character; upper and lower case are the same. Linear in the texts but for one step back.
fn wild(pattern: &str, text: &str) -> bool {
    let lower = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
    let (pattern, text) = (lower(pattern), lower(text));
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || text.get(t) == Some(c) => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((star, from)) => {
                    (p, t) = (star + 1, from + 1);
                    back = Some((star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &str = r#"
# the first value counts
Host kvm? !kvm9
    HostName %h.example.org
    Port=2222
    IdentityFile "~/my keys/%r"
    IdentityFile /keys/two
Host jump
    User hop
Match originalhost kvm1 user admin
    ConnectTimeout 5
Match exec "rm -rf /"
    User never
Host *
    User root
    Port 99
    ProxyJump hop@jump:2022,last
    IdentitiesOnly yes
"#;

    fn ask(text: &str, whom: &str) -> Login {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        login(&Destination::of(whom).unwrap(), Some(file.path())).unwrap()
    }

    #[test]
    fn the_first_value_that_fits_counts() {
        let kvm = ask(TEXT, "admin@kvm1");
        assert_eq!(
            (kvm.host.as_str(), kvm.port, kvm.user.as_str(), kvm.timeout),
            ("kvm1.example.org", 2222, "admin", 5)
        );
        assert!(kvm.keys[0].ends_with("my keys/admin") && kvm.keys[0].is_absolute());
        assert_eq!(kvm.keys[1], Path::new("/keys/two"));
        assert!(kvm.only);
        let hops: Vec<_> = kvm.jumps.iter().map(ToString::to_string).collect();
        assert_eq!(hops, ["hop@jump:2022", "last"]);
        let other = ask(TEXT, "kvm9:7");
        assert_eq!((other.host.as_str(), other.port, other.user.as_str()), ("kvm9", 7, "root"));
        assert_eq!(ask(TEXT, "jump").user, "hop");
    }

    #[test]
    fn it_says_what_ssh_says() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(TEXT.replace("Match exec \"rm -rf /\"\n    User never\n", "").as_bytes()).unwrap();
        for whom in ["kvm1", "admin@kvm1", "kvm9", "jump", "other"] {
            let oracle = std::process::Command::new("ssh").args(["-G", "-F"]).arg(file.path()).arg(whom).output();
            let oracle = String::from_utf8(oracle.expect("openssh-client is needed").stdout).unwrap();
            let says = |key: &str| {
                oracle.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned()
            };
            let ours = login(&Destination::of(whom).unwrap(), Some(file.path())).unwrap();
            assert_eq!(ours.host, says("hostname "), "{whom}");
            assert_eq!(ours.port.to_string(), says("port "), "{whom}");
            assert_eq!(ours.user, says("user "), "{whom}");
            let jumps: Vec<_> = ours.jumps.iter().map(ToString::to_string).collect();
            assert_eq!(jumps.join(","), says("proxyjump "), "{whom}");
        }
    }

    #[test]
    fn a_command_of_a_configuration_is_not_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "Host *\nProxyCommand nc %h %p\n").unwrap();
        let error = login(&Destination::of("x").unwrap(), Some(file.path())).unwrap_err();
        assert!(error.to_string().contains("ProxyJump"), "{error}");
    }

    #[test]
    fn patterns_and_quotes() {
        assert!(wild("a*b?c", "aXXbYc") && wild("*", "") && !wild("a*b", "ab c") && wild("KVM", "kvm"));
        assert!(!wild(&"*a".repeat(40), &"b".repeat(4000)));
        assert_eq!(words("IdentityFile = \"a b\" c # d"), ["IdentityFile", "a b", "c"]);
        assert_eq!(words("  # only"), Vec::<String>::new());
    }
}
