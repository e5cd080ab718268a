//! Somebody on the hypervisor's machine who makes the guest safe when the link to us breaks.
//!
//! Between `stop` and `cont` the guest waits for words that come over the network, and while a snapshot or a backup is under
//! way its writes may wait for data to leave, or fill a disk. So a small script runs over there, in the session that
//! carries the monitor. It hears a sign of life every two seconds. Without one, or at the end of its input, it ends that
//! session (its parent, or a login shell's), which frees the monitor, and says to QEMU what it was given when it began. Nothing is stored there: the script is an
//! argument of `sh`. It speaks to the monitor by python3 or perl, whichever is there, and to libvirt by virsh. While QEMU dumps memory, which
//! it cannot be kept from, it refuses to let the guest go: it is told again until it does.
//! File systems that are frozen are thawed meanwhile: that has not to wait for the monitor.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::machine::Machine;
use crate::wire::ssh::{Command, Running, Ssh};
use crate::{BackendError, Kind};

/// Seconds of silence after which the link is taken for broken.
pub(super) const SILENCE: u64 = 10;
/// Between two signs of life.
const LIFE: Duration = Duration::from_secs(2);
/// How long it may take to go.
const GOES: Duration = Duration::from_secs(10);
/// How long its first word may take.
const READY: Duration = Duration::from_secs(30);

/// How it speaks to QEMU.
pub(super) enum Way {
    /// By a monitor socket, once the session that holds it is gone; and by the socket of the guest's agent, if that has something
    /// to thaw.
    Socket { monitor: String, agent: Option<String> },
    /// By libvirt: the daemon's address over there, and the domain; and its agent, if that has something to thaw.
    Libvirt { daemon: String, domain: String, thaws: bool },
}

impl Way {
    /// Which of them.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "socket",
            Self::Libvirt { .. } => "libvirt",
        }
    }
}

/// One on watch.
pub(super) struct Watchman {
    dismiss: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Watchman {
    /// Posts one in the session of `ssh`, with what it is to say to QEMU.
    pub(super) async fn post(ssh: &Ssh, way: &Way, lines: &[String]) -> Result<Self, BackendError> {
        let (uri, on, agent) = match way {
            Way::Socket { monitor, agent } => ("", monitor, agent.as_deref().unwrap_or_default()),
            Way::Libvirt { daemon, domain, thaws } => (daemon.as_str(), domain, if *thaws { "thaw" } else { "" }),
        };
        let command =
            Command::script(SCRIPT).args([uri, on]).arg(SILENCE.to_string()).arg(agent).args(lines).with_stdin();
        let mut running = ssh.stream(&command).await?;
        let mut word = [0; 6];
        let heard = tokio::time::timeout(READY, running.read_exact(&mut word)).await;
        if !matches!(heard, Ok(Ok(_))) || &word != b"ready\n" {
            let why = match running.end().await {
                Ok(ending) => ending.told(),
                Err(error) => error.why,
            };
            return Err(BackendError::new(Kind::Unsupported, "have the guest watched", ssh.name(), why));
        }
        let (dismiss, dismissed) = oneshot::channel();
        Ok(Self { dismiss, task: tokio::spawn(live(running, dismissed)) })
    }

    /// Sends it away: nothing is left that needs watching.
    pub(super) async fn dismiss(self) {
        let _ = self.dismiss.send(());
        // Over a link that broke nothing comes any more.
        let _ = tokio::time::timeout(GOES, self.task).await;
    }
}

/// By what it could speak to QEMU on that machine.
pub(super) async fn possible(machine: &Machine, kind: &str) -> Result<String, BackendError> {
    let text = machine.run("have the guest watched", POSSIBLE, &[kind]).await?;
    Ok(text.trim().to_owned())
}

async fn live(mut running: Running, mut dismissed: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut dismissed => break,
            () = tokio::time::sleep(LIFE) => {}
        }
        if running.write_all(b".").await.is_err() {
            return;
        }
    }
    if running.write_all(b"q").await.is_ok() {
        let _ = running.read(&mut [0; 1]).await;
        let _ = running.end().await;
    }
}

const POSSIBLE: &str = r#"
ways='python3 perl'
[ "$1" = libvirt ] && ways=virsh
for way in $ways; do command -v "$way" >/dev/null && command -v timeout >/dev/null && echo "$way" && exit 0; done
echo "timeout and one of these are needed there: $ways" >&2
exit 3
"#;

/// `$1`: libvirt's address, or nothing; `$2`: domain or socket; `$3`: seconds; `$4`: the socket of an agent that has something to
/// thaw, anything for libvirt, or nothing; the rest: what to say.
pub(super) const SCRIPT: &str = r#"
uri=$1 socket=$2 silence=$3 agent=$4
shift 4
if [ -n "$uri" ]; then way=virsh
else
    set -- '{"execute":"qmp_capabilities"}' "$@"
    for way in python3 perl; do command -v "$way" >/dev/null && break; done
fi
for tool in "$way" timeout; do command -v "$tool" >/dev/null || { echo "$tool is not there" >&2; exit 3; }; done
echo ready
while c=$(timeout "$silence" dd bs=1 count=1 2>/dev/null) && [ -n "$c" ]; do
    [ "$c" = q ] && exit 0
done
exec >/dev/null 2>&1
trap '' HUP PIPE TERM
p=$$
for _ in parent grandparent; do
    while read -r key value _; do [ "$key" = PPid: ] && break; done <"/proc/$p/status"
    p=$value
    read -r name <"/proc/$p/comm" || break
    case $name in
    sshd*|dropbear*)
        kill "$p"
        # sshd looks at a signal when it is woken: one that came while it was busy is not seen before the next, and it keeps the monitor.
        {
            for _ in 1 2 3 4 5; do
                sleep 1
                read -r now <"/proc/$p/comm" && [ "$now" = "$name" ] || exit 0
                kill "$p"
            done
            kill -9 "$p"
        } &
        break
        ;;
    esac
done
case $way in
virsh)
    # The daemon may have broken, too, and come back.
    say() {
        tries=0 refused=0
        while [ $tries -lt 10 ] && [ $refused -lt 3600 ]; do
            answer=$(timeout 60 virsh -c "$uri" "$@" 2>&1) && well=y || well=n
            case $answer in
            *'dump in process'* | *'state change lock'*) refused=$((refused + 1)); sleep 1; continue ;;
            esac
            [ $well = n ] || break
            tries=$((tries + 1))
            sleep 3
        done
    }
    for line; do say qemu-monitor-command "$socket" "$line"; done
    [ -z "$agent" ] || say domfsthaw "$socket"
    ;;
python3) exec python3 -c '
import os, socket, sys, time
def thaw():
    for _ in range(100 if sys.argv[2] else 0):
        try:
            a = socket.socket(socket.AF_UNIX)
            a.settimeout(60)
            a.connect(sys.argv[2])
            a.sendall(b"\xff\n{\"execute\":\"guest-fsfreeze-thaw\"}\n")
            got = b""
            while b"\"return\"" not in got:
                more = a.recv(4096)
                if not more: raise OSError
                got = got[-64:] + more
            return
        except OSError:
            time.sleep(.1)
# Beside what is said to the monitor, which may have to be waited for: it is answered once the guest runs.
if os.fork() == 0:
    thaw()
    os._exit(0)
def say():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(sys.argv[1])
    f = s.makefile("rwb", 0)
    def hear():
        line = f.readline()
        if not line: raise OSError
        return line
    hear()
    for line in sys.argv[3:]:
        for _ in range(36000):
            f.write(line.encode() + b"\n")
            answer = hear()
            while not (answer.startswith(b"{\"return\"") or answer.startswith(b"{\"error\"")):
                answer = hear()
            if b"dump in process" not in answer: break
            time.sleep(.1)
for _ in range(60):
    try:
        say()
        break
    except OSError:
        time.sleep(1)
' "$socket" "$agent" "$@" ;;
perl) exec perl -MIO::Socket::UNIX -e '
my ($monitor, $agent) = (shift, shift);
if ($agent && !fork) {
    for (1 .. 100) {
        last if eval {
            local $SIG{ALRM} = sub { die };
            alarm 60;
            my $a = IO::Socket::UNIX->new(Peer => $agent) or die;
            print $a "\xff\n{\"execute\":\"guest-fsfreeze-thaw\"}\n";
            my $answer;
            while ($answer = <$a>) { last if $answer =~ /"return"/ }
            alarm 0;
            $answer;
        };
        alarm 0;
        select undef, undef, undef, .1;
    }
    exit;
}
for (1 .. 60) {
    last if eval {
        local $SIG{ALRM} = sub { die };
        alarm 60;
        my $s = IO::Socket::UNIX->new(Peer => $monitor) or die;
        <$s> or die;
        for my $line (@ARGV) {
            for (1 .. 36000) {
                my $answer;
                alarm 60;
                print $s "$line\n";
                while ($answer = <$s>) { last if $answer =~ /^\{"(return|error)"/ }
                $answer or die;
                last unless $answer =~ /dump in process/;
                select undef, undef, undef, .1;
            }
        }
        1;
    };
    alarm 0;
    sleep 1;
}
' "$socket" "$agent" "$@" ;;
esac
"#;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Child, Command as Process, Stdio};

    use super::SCRIPT;

    /// The script with only these tools to be found.
    fn start(folder: &Path, tools: &[&str], silence: &str) -> Option<Child> {
        start_by(Process::new("/bin/sh").arg("-c"), folder, tools, silence)
    }

    /// The same, as the last arguments of this command.
    fn start_by(command: &mut Process, folder: &Path, tools: &[&str], silence: &str) -> Option<Child> {
        let bin = folder.join("bin");
        std::fs::create_dir(&bin).unwrap();
        for tool in [tools, &["sh", "timeout", "dd", "sleep", "cat"]].concat() {
            // A python3 in PATH may be a script that needs more tools to find the real one.
            let find =
                "case $1 in python3) python3 -c 'import sys; print(sys.executable)' ;; *) command -v \"$1\" ;; esac";
            let found = Process::new("sh").args(["-c", find, "sh", tool]).output().unwrap();
            let path = String::from_utf8(found.stdout).unwrap();
            if path.trim().is_empty() {
                return None;
            }
            symlink(path.trim(), bin.join(tool)).unwrap();
        }
        let socket = folder.join("monitor").display().to_string();
        let agent = folder.join("agent").display().to_string();
        command.args([SCRIPT, "impound", "", &socket, silence, &agent, r#"{"execute":"cont"}"#]);
        command.env("PATH", bin).stdin(Stdio::piped()).stdout(Stdio::piped());
        Some(command.spawn().unwrap())
    }

    /// A monitor that is spoken to once, and dumps memory at first. Answers what was said.
    fn monitor(folder: &Path) -> std::thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(folder.join("monitor")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut said = Vec::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                said.push(line.unwrap());
                let busy =
                    r#"{"error": {"class": "GenericError", "desc": "There is a dump in process, please wait."}}"#;
                let answer = if matches!(said.len(), 2 | 3) { busy } else { r#"{"return": {}}"# };
                let sent = stream.write_all(format!("{{\"event\": \"X\"}}\n{answer}\n").as_bytes());
                if said.len() == 4 || sent.is_err() {
                    break;
                }
            }
            said
        })
    }

    /// An agent that is told one thing, after whatever ended what it may have heard before.
    fn agent(folder: &Path) -> std::thread::JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(folder.join("agent")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut reader, mut line) = (BufReader::new(stream.try_clone().unwrap()), Vec::new());
            reader.read_until(b'\n', &mut line).unwrap();
            assert_eq!(line, b"\xff\n");
            line.clear();
            reader.read_until(b'\n', &mut line).unwrap();
            stream.write_all(b"{\"return\": 2}\n").unwrap();
            line
        })
    }

    #[test]
    fn every_tool_that_it_may_find_says_the_same_to_qemu() {
        let mut tried = 0;
        for tool in ["python3", "perl"] {
            let temp = tempfile::tempdir().unwrap();
            let Some(mut child) = start(temp.path(), &[tool], "60") else { continue };
            let (monitor, agent) = (monitor(temp.path()), agent(temp.path()));
            let mut ready = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
            assert_eq!(ready, "ready\n", "{tool}");
            child.stdin.as_mut().unwrap().write_all(b"..").unwrap();
            // The link ends.
            drop(child.stdin.take());
            assert_eq!(
                monitor.join().unwrap(),
                [&[r#"{"execute":"qmp_capabilities"}"#][..], &[r#"{"execute":"cont"}"#; 3]].concat(),
                "{tool}"
            );
            child.wait().unwrap();
            assert_eq!(agent.join().unwrap(), b"{\"execute\":\"guest-fsfreeze-thaw\"}\n", "{tool}");
            tried += 1;
        }
        assert!(tried >= 1, "none of the tools is here");
    }

    /// It stands below a session of sshd that does not see the first signal, and below one that sees none.
    #[test]
    fn a_session_that_does_not_go_is_told_again_and_then_killed() {
        let second = "n=0; trap 'n=$((n + 1)); [ $n -lt 2 ] || exit 7' TERM";
        for (hears, ends) in [(second, (Some(7), None)), ("trap '' TERM", (None, Some(9)))] {
            let temp = tempfile::tempdir().unwrap();
            let sshd = temp.path().join("sshd");
            symlink("/bin/sh", &sshd).unwrap();
            let session = format!(r#"{hears}; exec 3<&0; sh -c "$@" <&3 & while :; do wait $!; sleep .1; done"#);
            let monitor = monitor(temp.path());
            let mut command = Process::new(sshd);
            let started = start_by(command.args(["-c", &session, "sshd"]), temp.path(), &["perl"], "60");
            let mut session = started.expect("perl is part of every Debian");
            drop(session.stdin.take());
            let begun = std::time::Instant::now();
            let status = loop {
                match session.try_wait().unwrap() {
                    Some(status) => break status,
                    None => assert!(begun.elapsed().as_secs() < 120, "{hears}: it lives"),
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            };
            assert_eq!((status.code(), status.signal()), ends, "{hears}");
            assert_eq!(monitor.join().unwrap().len(), 4);
        }
    }

    /// It answers nobody at first, and then breaks: it is tried again.
    #[test]
    fn a_monitor_that_breaks_is_connected_to_again() {
        for tool in ["python3", "perl"] {
            let temp = tempfile::tempdir().unwrap();
            let Some(mut child) = start(temp.path(), &[tool], "60") else { continue };
            drop(UnixListener::bind(temp.path().join("monitor")).unwrap());
            drop(child.stdin.take());
            drop(agent(temp.path()).join());
            std::fs::remove_file(temp.path().join("monitor")).unwrap();
            assert_eq!(monitor(temp.path()).join().unwrap().len(), 4, "{tool}");
            assert!(child.wait().unwrap().success());
        }
    }

    #[test]
    fn file_systems_are_thawed_also_while_the_monitor_is_somebody_elses() {
        for tool in ["python3", "perl"] {
            let temp = tempfile::tempdir().unwrap();
            let Some(mut child) = start(temp.path(), &[tool], "60") else { continue };
            // Nobody answers there, as if another spoke to QEMU.
            let held = UnixListener::bind(temp.path().join("monitor")).unwrap();
            let agent = agent(temp.path());
            drop(child.stdin.take());
            assert_eq!(agent.join().unwrap(), b"{\"execute\":\"guest-fsfreeze-thaw\"}\n", "{tool}");
            // It still waits for the monitor, and was not done with it.
            let (mut stream, _) = held.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut said = String::new();
            BufReader::new(stream).read_line(&mut said).unwrap();
            assert_eq!(said, "{\"execute\":\"qmp_capabilities\"}\n", "{tool}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn silence_is_a_broken_link_and_a_goodbye_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let Some(mut child) = start(temp.path(), &["perl"], "1") else { panic!("perl is part of every Debian") };
        // Nothing is said, and the input stays open.
        assert_eq!(monitor(temp.path()).join().unwrap().len(), 4);
        child.wait().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let Some(mut child) = start(temp.path(), &["perl"], "60") else { panic!("perl is part of every Debian") };
        let listener = UnixListener::bind(temp.path().join("monitor")).unwrap();
        child.stdin.as_mut().unwrap().write_all(b".q").unwrap();
        assert!(child.wait().unwrap().success());
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it spoke to QEMU although all was well");
    }
}
