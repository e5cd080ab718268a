"""An OpenStack cloud on loopback, for the tests of the `openstack` backend. Arguments: a folder of openstack_real.py, and JSON
of the server's disks: {"own": path or null, "format": "raw", "volumes": [[device, path], ...]}.

Real: Keystone and Glance (see openstack_real.py), behind a proxy of ours that does what /control asks for: errors, throttling,
streams that are cut, bytes that are changed, tokens that are revoked (by Keystone) while an image is read.
Ours, after the API references: Nova 2.47 (servers, attachments, console, createImage) and Cinder 3.14 (volumes, snapshots, groups,
os-volume_upload_image). They ask the real Keystone about each token, and what becomes an image is sent to the real Glance with that
token. A snapshot of theirs is a copy of the file as it is then.

Prints one line of JSON when it serves, and ends when its stdin is closed.
"""

import http.client
import itertools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import openstack_real

SECRET = os.environ["TEST_SECRET"]
SERVER = "0b7f9fb2-1111-4000-8000-000000000001"
GROUP = "0b7f9fb2-2222-4000-8000-000000000002"
CHUNK = 1 << 20

# The first is for what is counted; the second for what the doubles do, which may lead back here by way of Glance and Keystone.
lock, doing = threading.Lock(), threading.Lock()
work = os.environ["TEST_WORK"]
state = {"log": [], "parts": 0, "held": 0, "most": 0, "running": 0, "logins": 0}
fault = {}
release = threading.Event()
volumes, snapshots = {}, {}
server = {}
ports = {}
numbers = itertools.count(1)


class Refuse(Exception):
    def __init__(self, status, word, message="as the test wants it"):
        super().__init__(word)
        self.status, self.word, self.message = status, word, message


def ask(port, method, path, headers=None, body=None, stream=False):
    """Asks one of the real ones."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300, blocksize=CHUNK)
    if isinstance(body, dict):
        body, headers = json.dumps(body), {"content-type": "application/json", **(headers or {})}
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer if stream else (answer.status, answer.headers, answer.read())


def login(user, project):
    domain = {"id": "default"}
    identity = {"methods": ["password"], "password": {"user": {"name": user, "domain": domain, "password": SECRET}}}
    body = {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": domain}}}}
    status, headers, _ = ask(ports["identity"], "POST", "/v3/auth/tokens", body=body)
    assert status == 201, status
    return headers["X-Subject-Token"]


def who(token):
    """What Keystone says of a token: Nova and Cinder ask it, as theirs do."""
    for fresh in (False, True):
        with lock:
            if fresh or "own" not in ports:
                ports["own"] = login("glance", "service")
        status, _, body = ask(ports["identity"], "GET", "/v3/auth/tokens", {"X-Auth-Token": ports["own"], "X-Subject-Token": token or "none"})
        if status == 200:
            return json.loads(body)["token"]
        if status != 401:
            break
    raise Refuse(401, "unauthorized", "The request you have made requires authentication.")


def text_id():
    return str(uuid.uuid4())


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000", time.gmtime())


def copy(path, name):
    """A snapshot: the bytes as they are now, holes kept."""
    to = os.path.join(work, name)
    subprocess.run(["cp", "--sparse=always", path, to], check=True)
    return to


def into_glance(token, name, disk_format, path, properties, after=lambda: None):
    """Makes an image, and sends the bytes into it behind the caller's back, as Nova and Cinder do."""
    headers = {"X-Auth-Token": token}
    body = {"name": name, "disk_format": disk_format, "container_format": "bare", **properties}
    status, _, answer = ask(ports["image"], "POST", "/v2/images", headers, body)
    if status != 201:
        raise Refuse(status, "imageRefused", answer.decode(errors="replace"))
    image = json.loads(answer)["id"]

    def send():
        time.sleep(fault.get("image_delay", 0))
        with open(path, "rb") as file:
            kind = {"content-type": "application/octet-stream", "content-length": str(os.path.getsize(path)), **headers}
            status, _, answer = ask(ports["image"], "PUT", f"/v2/images/{image}/file", kind, file)
        if status != 204:
            # As Nova and Cinder do with an image that did not become one.
            ask(ports["image"], "DELETE", f"/v2/images/{image}", headers)
        with lock:
            state["log"].append(f"uploaded {image} {status}")
        after()

    threading.Thread(target=send, daemon=True).start()
    return image


def volume_of(path, **more):
    gib, rest = divmod(os.path.getsize(path), 1 << 30)
    assert not rest, "a volume has whole GiB"
    about = {"id": text_id(), "size": gib, "status": "available", "name": "", "metadata": {}, "snapshot_id": None, "group_id": None,
             "encrypted": False, "bootable": "false", "attachments": [], "created_at": now(), **more}
    volumes[about["id"]] = (about, path)
    return about


def settle(about, status, after=0.3):
    """It becomes so after a while."""
    def later():
        with doing:
            about["status"] = status
    timer = threading.Timer(after, later)
    timer.daemon = True
    timer.start()


def nova(method, path, query, body, token, roles):
    parts = path.strip("/").split("/")
    if parts == ["servers", "detail"]:
        # One a page, so that there are pages.
        known = [server, {**server, "id": SERVER[:-1] + "9", "name": "other"}]
        marker = query.get("marker", [None])[0]
        at = next((n + 1 for n, one in enumerate(known) if one["id"] == marker), 0)
        links = [{"rel": "next", "href": "x"}] if at + 1 < len(known) else []
        return 200, {"servers": known[at:at + 1], "servers_links": links}
    if parts[:1] != ["servers"] or len(parts) < 2:
        raise Refuse(404, "itemNotFound", path)
    if parts[1] != SERVER:
        raise Refuse(404, "itemNotFound", f"Instance {parts[1]} could not be found.")
    rest = parts[2:]
    if method == "GET" and not rest:
        return 200, {"server": server}
    if method == "GET" and rest == ["os-volume_attachments"]:
        return 200, {"volumeAttachments": [{"id": one, "volumeId": one, "device": device, "serverId": SERVER} for device, one in server["_volumes"]]}
    if method == "GET" and rest == ["os-interface"]:
        return 200, {"interfaceAttachments": [{"port_state": "ACTIVE", "mac_addr": "fa:16:3e:00:00:01"}]}
    if method == "GET" and rest == ["os-security-groups"]:
        return 200, {"security_groups": [{"name": "web", "rules": []}]}
    if method == "GET" and rest == ["os-instance-actions"]:
        return 200, {"instanceActions": [{"action": "create", "user_id": "planted-actor"}]}
    if rest == ["action"] and "os-getConsoleOutput" in body:
        return 200, {"output": "Linux version 6.1.0 (planted on the console)\n"}
    if rest == ["action"] and "createImage" in body:
        allow("createImage", roles)
        asked = body["createImage"]
        if not server["_own"]:
            raise Refuse(400, "badRequest", "this double makes no image of a server without its own disk")
        path = copy(server["_own"], text_id())
        image = into_glance(token, asked["name"], server["_format"], path, {**asked.get("metadata", {}), "instance_uuid": SERVER})
        return 202, {"image_id": image}
    raise Refuse(404, "itemNotFound", path)


def allow(act, roles):
    if act in fault.get("deny", []) or not {"member", "admin"} & set(roles):
        raise Refuse(403, "forbidden", f"Policy doesn't allow {act} to be performed.")


def snapshot_of(volume, **more):
    about, path = volumes[volume]
    made = {"id": text_id(), "volume_id": volume, "size": about["size"], "status": "creating", "created_at": now(), "metadata": {}, "group_snapshot_id": None, **more}
    snapshots[made["id"]] = (made, copy(path, made["id"]))
    settle(made, "available")
    return made


def cinder(method, path, query, body, token, roles):
    parts = path.strip("/").split("/")[1:]
    one = lambda name: query.get(name, [None])[0]
    if parts == ["volumes", "detail"]:
        return 200, {"volumes": [about for about, _ in volumes.values() if one("name") in (None, about["name"])]}
    if parts == ["snapshots", "detail"]:
        fits = lambda about: one("name") in (None, about["name"]) and one("volume_id") in (None, about["volume_id"])
        return 200, {"snapshots": [about for about, _ in snapshots.values() if fits(about)]}
    if parts == ["limits"]:
        return 200, {"limits": {"absolute": {"maxTotalVolumes": 10, "totalVolumesUsed": fault.get("used", 2), "maxTotalSnapshots": -1, "totalSnapshotsUsed": 0}}}
    if parts == ["groups", GROUP]:
        return 200, {"group": {"id": GROUP, "group_type": GROUP}}
    if parts == ["group_types", GROUP]:
        return 200, {"group_type": {"id": GROUP, "group_specs": {"consistent_group_snapshot_enabled": "<is> True"}}}
    if method == "POST" and parts == ["group_snapshots"]:
        allow("group_snapshot", roles)
        asked, made = body["group_snapshot"], text_id()
        for about, _ in list(volumes.values()):
            if about["group_id"] == asked["group_id"]:
                snapshot_of(about["id"], name=asked["name"], group_snapshot_id=made)
        return 202, {"group_snapshot": {"id": made, "name": asked["name"]}}
    if method == "POST" and parts == ["snapshots"]:
        allow("snapshot", roles)
        asked = body["snapshot"]
        if volumes[asked["volume_id"]][0]["status"] == "in-use" and asked.get("force") is not True:
            raise Refuse(400, "badRequest", "Invalid volume: the volume is in use")
        return 202, {"snapshot": snapshot_of(asked["volume_id"], name=asked["name"], metadata=asked.get("metadata", {}))}
    if method == "POST" and parts == ["volumes"]:
        allow("volume", roles)
        asked = body["volume"]
        about, path = snapshots[asked["snapshot_id"]]
        assert about["status"] == "available" and asked["size"] == about["size"], (about, asked)
        made = volume_of(copy(path, text_id()), name=asked["name"], metadata=asked["metadata"], snapshot_id=about["id"], status="creating")
        settle(made, "available")
        return 202, {"volume": made}
    if len(parts) >= 2 and parts[0] == "snapshots" and parts[1] in snapshots:
        return 200, {"snapshot": snapshots[parts[1]][0]}
    if len(parts) >= 2 and parts[0] == "volumes" and parts[1] in volumes:
        about, path = volumes[parts[1]]
        if method == "DELETE":
            if about["status"] not in ("available", "error"):
                raise Refuse(400, "badRequest", f"Invalid volume: status is {about['status']}")
            del volumes[parts[1]]
            return 202, {}
        if parts[2:] == ["action"]:
            allow("upload", roles)
            asked = body["os-volume_upload_image"]
            if about["status"] != "available":
                raise Refuse(400, "badRequest", f"Invalid volume: status is {about['status']}")
            about["status"] = "uploading"
            image = into_glance(token, asked["image_name"], asked["disk_format"], path, {}, lambda: settle(about, "available", 0))
            return 202, {"os-volume_upload_image": {"image_id": image, "status": "uploading"}}
        return 200, {"volume": about}
    raise Refuse(404, "itemNotFound", f"{method} {path} could not be found.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in [("content-type", "application/json"), ("content-length", str(len(data))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        first, _, rest = url.path.lstrip("/").partition("/")
        if first == "control":
            return self.answer(200, control(json.loads(body or b"{}")))
        said = f"{self.command} {url.path}"
        with lock:
            number = next(numbers)
            state["log"].append(said + (f" {body.decode(errors='replace')[:300]}" if first in ("compute", "volume") and body else ""))
        if first in ("identity", "image"):
            return self.forward(first, f"/{rest}" + (f"?{url.query}" if url.query else ""), body)
        request = [("x-openstack-request-id", f"req-{uuid.uuid4()}")]
        try:
            roles = [role["name"] for role in who(self.headers.get("X-Auth-Token"))["roles"]]
            version = {"compute": "compute 2.47", "volume": "volume 3.14"}.get(first)
            if version is None or self.headers.get("OpenStack-API-Version") != version:
                raise Refuse(406, "computeFault", "a version that the test does not want")
            serve, behind = (nova, rest.partition("/")[2]) if first == "compute" else (cinder, rest.partition("/")[2])
            with doing:
                status, answer = serve(self.command, f"/{behind}", parse_qs(url.query), json.loads(body or b"{}"), self.headers["X-Auth-Token"], roles)
                lost = self.command == "POST" and "os-getConsoleOutput" not in body.decode() and number and fault.get("lost", 0) > 0
                if lost:
                    fault["lost"] -= 1
            if lost:
                # It was done, and nobody hears of it.
                return self.answer(502, b"<html><body>Bad Gateway</body></html>")
            self.answer(status, visible(answer), request)
        except Refuse as refuse:
            self.answer(refuse.status, {refuse.word: {"code": refuse.status, "message": refuse.message}}, request)

    do_GET = do_POST = do_PUT = do_DELETE = do

    def forward(self, service, path, body):
        """To the real one and back, with what a fault says."""
        is_file = service == "image" and self.command == "GET" and path.endswith("/file")
        if service == "identity" and self.command == "POST":
            state["logins"] += 1
        if is_file and not self.before():
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "content-length")}
        if is_file and fault.get("ignore_range"):
            headers.pop("Range", None)
        try:
            self.pass_on(ask(ports[service], self.command, path, headers, body or None, stream=True), is_file)
        finally:
            if is_file:
                with lock:
                    state["running"] -= 1

    def pass_on(self, answer, is_file):
        self.send_response(answer.status)
        skip = ("connection", "transfer-encoding", "content-length", "server", "date")
        for name, value in answer.headers.items():
            if name.lower() not in skip:
                self.send_header(name, value)
        data = answer.read() if answer.length is None else None
        self.send_header("content-length", str(answer.length if data is None else len(data)))
        self.end_headers()
        if data is None:
            self.pour(answer, is_file)
        else:
            self.wfile.write(data)

    def before(self):
        """Answers itself, and false, if the fault wants that."""
        with lock:
            state["parts"] += 1
            state["running"] += 1
            state["most"] = max(state["most"], state["running"])
            number, running = state["parts"], state["running"]
        revoke = fault.get("revoke_at") == number
        if revoke:
            token = self.headers["X-Auth-Token"]
            status, _, _ = ask(ports["identity"], "DELETE", "/v3/auth/tokens", {"X-Auth-Token": token, "X-Subject-Token": token})
            state["log"].append(f"revoked {status}")
        refused = None
        if fault.get("hold_after") and number > fault["hold_after"]:
            with lock:
                state["held"] += 1
            release.wait(300)
        if running > fault.get("parallel", 1 << 30):
            refused = (429, [("retry-after", "1")])
        elif fault.get("every") and number % fault["every"] == 0:
            kind = number // fault["every"] % 3
            self.cut = kind == 0
            refused = None if self.cut else ((500, []) if kind == 1 else (503, []))
        if refused:
            with lock:
                state["running"] -= 1
            self.answer(refused[0], b"", refused[1])
        return refused is None

    cut = False

    def pour(self, answer, is_file):
        first = answer.headers.get("content-range", "bytes 0-").split()[1].split("-")[0]
        at, end, cut = int(first), int(first) + (answer.length or 0), self.cut
        self.cut = False
        cuts = fault.get("cut_at") if is_file else None
        while chunk := answer.read(CHUNK):
            if is_file and at <= fault.get("corrupt", -1) < at + len(chunk):
                place = fault["corrupt"] - at
                chunk = chunk[:place] + bytes([chunk[place] ^ 1]) + chunk[place + 1:]
            if cut or (cuts and at + len(chunk) > cuts[0]):
                if cuts:
                    cuts.pop(0)
                self.wfile.write(chunk[:len(chunk) // 2])
                self.close_connection = True
                return
            self.wfile.write(chunk)
            at += len(chunk)


def visible(answer):
    """Without what the doubles know for themselves."""
    if isinstance(answer, dict):
        return {key: visible(value) for key, value in answer.items() if not key.startswith("_")}
    return [visible(one) for one in answer] if isinstance(answer, list) else answer


def credential(token):
    """An application credential of the responder, as Keystone makes it, and the token that asked for it."""
    about = who(token)
    body = {"application_credential": {"name": "case", "roles": [{"name": "member"}]}}
    path = f"/v3/users/{about['user']['id']}/application_credentials"
    status, _, answer = ask(ports["identity"], "POST", path, {"X-Auth-Token": token}, body)
    assert status == 201, answer
    made = json.loads(answer)["application_credential"]
    return {"id": made["id"], "secret": made["secret"], "token": token, "project": about["project"]["id"]}


def control(what):
    if "fault" in what:
        fault.clear()
        fault.update(what["fault"])
    if what.get("release"):
        release.set()
    own = login("responder", "lab")
    if what.get("credential"):
        return {"credential": credential(own)}
    status, _, images = ask(ports["image"], "GET", "/v2/images", {"X-Auth-Token": own})
    with lock:
        return {**state, "volumes": [about for about, _ in volumes.values()], "snapshots": [about for about, _ in snapshots.values()],
                "images": json.loads(images).get("images") if status == 200 else status}


def main(template, disks):
    folder = os.path.join(work, "real")
    shutil.copytree(template, folder)
    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    port = front.server_port
    database = sqlite3.connect(os.path.join(folder, "keystone.db"))
    database.execute("UPDATE endpoint SET url = replace(url, ?, ?)", (openstack_real.HERE, f"http://127.0.0.1:{port}"))
    database.commit()
    database.close()
    # Their sockets listen before they do, so that both can begin at once.
    sockets = {service: socket.create_server(("127.0.0.1", 0), backlog=64) for service in ("identity", "image")}
    ports.update({service: listens.getsockname()[1] for service, listens in sockets.items()})
    openstack_real.config(folder, port, ports["identity"])
    children = []
    for name, service in (("keystone", "identity"), ("glance", "image")):
        fd, log = sockets[service].fileno(), open(os.path.join(work, f"{name}.log"), "wb")
        command = [sys.executable, openstack_real.__file__, name, folder, str(fd)]
        children.append(subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log))
    for child, name in zip(children, ("keystone", "glance")):
        assert child.stdout.readline() == b"serves\n", open(os.path.join(work, f"{name}.log")).read()[-4000:]
    attached = []
    for device, path in disks["volumes"]:
        about = volume_of(path, status="in-use", group_id=GROUP if disks.get("group") else None, name=f"data {device}")
        attached.append((device, about["id"]))
    server.update({
        "id": SERVER, "name": "web01", "status": "ACTIVE", "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
        "flavor": {"vcpus": 2, "ram": 512, "disk": 1 if disks["own"] else 0, "ephemeral": 0, "swap": 0, "original_name": "m1.small"},
        "image": {"id": text_id()} if disks["own"] else "", "addresses": {"net": [{"addr": "10.0.0.7", "version": 4}]},
        "security_groups": [{"name": "web"}], "metadata": {"role": "planted-role"},
        "_volumes": attached, "_own": disks["own"], "_format": disks.get("format", "raw"),
    })
    threading.Thread(target=front.serve_forever, daemon=True).start()
    print(json.dumps({"port": port, "server": SERVER, "volumes": dict(attached)}), flush=True)
    sys.stdin.read()
    for child in children:
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
