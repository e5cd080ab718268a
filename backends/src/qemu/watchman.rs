//! Somebody on the hypervisor's machine who makes the guest safe when the link to us breaks.
//!
//! Between `stop` and `cont` the guest waits for words that come over the network, and while a snapshot or a backup is under
//! way its writes may wait for data to leave, or fill a disk. So a small script runs over there, in the session that
//! carries the monitor. It hears a sign of life every two seconds. Without one, or at the end of its input, it ends that
//! session, which frees the monitor, and says to QEMU what it was given when it began. Nothing is stored there: the script is an
//! argument of `sh`. It speaks to the monitor by python3, perl or nc, whichever is there.

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

/// One on watch.
pub(super) struct Watchman {
    dismiss: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Watchman {
    /// Posts one beside the monitor socket `path`, with what it is to say to QEMU.
    pub(super) async fn post(ssh: &Ssh, path: &str, lines: &[String]) -> Result<Self, BackendError> {
        let command = Command::script(SCRIPT).arg(path).arg(SILENCE.to_string()).args(lines).with_stdin();
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
pub(super) async fn possible(machine: &Machine) -> Result<String, BackendError> {
    let text = machine.run("have the guest watched", POSSIBLE, &[]).await?;
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
for way in python3 perl nc; do command -v "$way" >/dev/null && command -v timeout >/dev/null && echo "$way" && exit 0; done
echo 'timeout and one of python3, perl and nc are needed there' >&2
exit 3
"#;

/// `$1`: socket; `$2`: seconds; the rest: what to say.
pub(super) const SCRIPT: &str = r#"
socket=$1 silence=$2
shift 2
set -- '{"execute":"qmp_capabilities"}' "$@"
if command -v python3; then way=python3
elif command -v perl; then way=perl
elif command -v nc; then way=nc
else echo 'neither python3 nor perl nor nc is there to speak to QEMU' >&2; exit 3
fi >/dev/null
command -v timeout >/dev/null || { echo 'timeout (coreutils) is not there' >&2; exit 3; }
echo ready
while c=$(timeout "$silence" dd bs=1 count=1 2>/dev/null) && [ -n "$c" ]; do
    [ "$c" = q ] && exit 0
done
exec >/dev/null 2>&1
trap '' HUP PIPE TERM
p=$$
while [ "${p:-0}" -gt 1 ]; do
    read -r name <"/proc/$p/comm" || break
    case $name in sshd*|dropbear*) kill "$p"; break ;; esac
    while read -r key value _; do [ "$key" = PPid: ] && break; done <"/proc/$p/status"
    p=$value
done
case $way in
python3) exec python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
f = s.makefile("rwb", 0)
f.readline()
for line in sys.argv[2:]:
    f.write(line.encode() + b"\n")
    answer = f.readline()
    while answer and not (answer.startswith(b"{\"return\"") or answer.startswith(b"{\"error\"")):
        answer = f.readline()
' "$socket" "$@" ;;
perl) exec perl -MIO::Socket::UNIX -e '
alarm 60;
my $s = IO::Socket::UNIX->new(Peer => shift) or exit 1;
<$s>;
for my $line (@ARGV) {
    print $s "$line\n";
    while (<$s>) { last if /^\{"(return|error)"/ }
}
' "$socket" "$@" ;;
nc) { printf '%s\n' "$@"; sleep 5; } | timeout 60 nc -U "$socket" ;;
esac
"#;
