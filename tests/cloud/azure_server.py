"""Azure on loopback, for the tests of the `azure` backend. Arguments: the images of a virtual machine's disks, the OS disk first.

Real: the blobs are Azurite's (page blobs, page ranges, MD5 of ranges, shared access signatures and the stored access policies that make
them void); signatures are made by Microsoft's own library; the footer of the exported disks is qemu-img's.
Ours, after Microsoft's documents: Azure Resource Manager (virtual machines, disks, snapshots, asynchronous operations,
permissions, boot diagnostics), the token endpoints of Entra, of a machine (IMDS) and of an App Service. What is asked of a blob passes
through here to Azurite, so that /control can have answers broken, throttled or held.

Prints one line of JSON when it serves.
"""

import base64
import hashlib
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

from double import Server, ends_with_parent
from azure.storage.blob import AccessPolicy, BlobServiceClient, ContainerSasPermissions, generate_blob_sas

NODE, AZURITE, FOLDER = os.environ["TEST_NODE"], os.environ["TEST_AZURITE"], os.environ["TEST_FOLDER"]
SUBSCRIPTION, GROUP, TENANT = "0a000000-0000-4000-8000-00000000000a", "case_(1)", "0b000000-0000-4000-8000-00000000000b"
CLIENT, SECRET = os.environ["TEST_CLIENT"], os.environ["TEST_SECRET"]
# Azurite's well-known account.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SPAN = 4 << 20
IN_GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
COMPUTE = f"{IN_GROUP}/providers/Microsoft.Compute"
SCREEN, CONSOLE = b"BM what the screen shows", b"Linux version 6.1.0 (planted on the console)\n"

lock = threading.RLock()
counters, numbers = {True: itertools.count(1), False: itertools.count(1)}, itertools.count(1)
release = threading.Event()
state = {"log": [], "gets": 0, "running": 0, "most": 0, "held": 0, "leaked": [], "tokens": 0, "signatures": []}
fault, tokens, snapshots, operations, policies = {}, {}, {}, {}, {}
disks, blobs, machine = {}, {}, {}
port = 0


class Refuse(Exception):
    def __init__(self, status, code, message="as the test wants it"):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def started():
    """Azurite on a port of its own; it ends when this does."""
    line = [NODE, AZURITE, "--blobPort", "0", "--location", FOLDER, "--disableTelemetry", "--skipApiVersionCheck"]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, preexec_fn=ends_with_parent)
    for line in child.stdout:
        found = re.search(r"listens on http://127\.0\.0\.1:(\d+)", line)
        if found:
            threading.Thread(target=child.stdout.read, daemon=True).start()
            return int(found[1])
    raise SystemExit("Azurite did not start")


def footer(length):
    path = os.path.join(FOLDER, "footer.vhd")
    options = "subformat=fixed,force_size=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vpc", "-o", options, path, str(length)], check=True)
    with open(path, "rb") as file:
        file.seek(-512, os.SEEK_END)
        return file.read()


def data(path):
    """The pages of a file that are not all zero; those between two in the same 64 KiB go with them."""
    with open(path, "rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                to = min((at // 65536 + 1) * 65536, end)
                file.seek(at)
                part = file.read(to - at)
                if any(part):
                    first = (len(part) - len(part.lstrip(b"\0"))) // 512 * 512
                    last = -(-len(part.rstrip(b"\0")) // 512) * 512
                    yield at + first, part[first:last]
                at = to


def upload(client, name, path):
    """A disk as Azure exports it: a page blob that ends in the footer of a VHD."""
    length = os.path.getsize(path)
    container = client.create_container(name)
    blob = container.get_blob_client("abcd")
    blob.create_page_blob(length + 512)
    wait = None
    for at, part in itertools.chain(data(path), [(length, footer(length))]):
        # Parts behind each other go up as one.
        if wait and wait[0] + len(wait[1]) == at and len(wait[1]) + len(part) <= SPAN and at != length:
            wait[1] += part
            continue
        if wait:
            blob.upload_page(bytes(wait[1]), wait[0], len(wait[1]))
        wait = [at, bytearray(part)]
    blob.upload_page(bytes(wait[1]), wait[0], len(wait[1]))
    return container, blob


def plant(client, paths):
    """The machine, its disks and its interface."""
    for n, path in enumerate(paths):
        name = "web01_OsDisk_1" if n == 0 else f"web01_Data_{n}"
        id = f"{COMPUTE}/disks/{name}"
        properties = {"diskSizeBytes": os.path.getsize(path), "diskState": "Attached", "osType": "Linux"}
        properties["encryption"] = {"type": "EncryptionAtRestWithPlatformKey"}
        if n == 0:
            properties["securityProfile"] = {"securityType": "TrustedLaunch"}
            properties["encryption"] = {
                "type": "EncryptionAtRestWithCustomerKey",
                "diskEncryptionSetId": f"{COMPUTE}/diskEncryptionSets/of-the-bank",
            }
        disks[id.lower()] = {"id": id, "name": name, "location": "westeurope", "properties": properties}
        blobs[id.lower()] = upload(client, f"disk{n}", path)
    for n, (name, content) in enumerate([("screen.bmp", SCREEN), ("console.log", CONSOLE)]):
        client.create_container(f"diagnostics{n}").upload_blob(name, content)
    ids = [disk["id"] for disk in disks.values()]
    ephemeral = {"lun": 9, "name": "gone", "vhd": {"uri": "https://old.blob.example/vhds/old.vhd"}}
    data_disks = [{"lun": n, "managedDisk": {"id": id}} for n, id in enumerate(ids[1:])] + [ephemeral]
    machine.update({
        "id": f"{COMPUTE}/virtualMachines/web01",
        "name": "web01",
        "location": "westeurope",
        "tags": {"owner": "planted in a tag"},
        "properties": {
            "vmId": "0c000000-0000-4000-8000-00000000000c",
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {"osDisk": {"osType": "Linux", "managedDisk": {"id": ids[0]}}, "dataDisks": data_disks},
            "networkProfile": {
                "networkInterfaces": [{"id": f"{IN_GROUP}/providers/Microsoft.Network/networkInterfaces/web01-nic"}]
            },
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
            "provisioningState": "Succeeded",
        },
    })


def sas(container, blob):
    """An address that lets whoever has it read, until its policy goes."""
    with lock:
        name = f"p{next(numbers)}"
        policies[name] = (container, 0)
        write_policies(container)
    signature = generate_blob_sas(ACCOUNT, container.container_name, blob.blob_name, account_key=KEY, policy_id=name)
    plain = dict(parse_qsl(signature))["sig"]
    state["signatures"] += [plain, quote(plain, safe="")]
    return name, f"http://127.0.0.1:{port}/{ACCOUNT}/{container.container_name}/{blob.blob_name}?{signature}"


def write_policies(container):
    now = datetime.now(timezone.utc)
    policy = AccessPolicy(ContainerSasPermissions(read=True), now + timedelta(hours=4), now - timedelta(minutes=5))
    here = {name: policy for name, (of, _) in policies.items() if of.container_name == container.container_name}
    container.set_container_access_policy(here)


def end_policy(name):
    with lock:
        container, _ = policies.pop(name, (None, 0))
        if container:
            write_policies(container)


def new_token(who):
    claims = {"tid": TENANT, "oid": "0d000000-0000-4000-8000-00000000000d", "appid": who, "aud": f"http://127.0.0.1:{port}"}
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    token = f"e30.{middle}.sekrit-{next(numbers)}"
    tokens[token] = 0
    state["tokens"] += 1
    return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}


def entra(path, body):
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    wrong = lambda code, why: Refuse(401, code, why)
    if path != f"/{TENANT}/oauth2/v2.0/token" or form.get("grant_type") != "client_credentials":
        raise Refuse(400, "invalid_request", "AADSTS90002: no such tenant")
    if form.get("scope") != f"http://127.0.0.1:{port}/.default":
        raise Refuse(400, "invalid_scope", "AADSTS70011")
    if form.get("client_id") != CLIENT:
        raise wrong("unauthorized_client", "AADSTS700016: no such application")
    bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    if form.get("client_assertion_type") == bearer and form.get("client_assertion") == "sekrit-web-identity":
        return new_token("federated")
    if form.get("client_secret") != SECRET:
        # A server that repeats what it was sent.
        raise wrong("invalid_client", f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}")
    return new_token(CLIENT)


def managed(path, query, headers):
    if query.get("resource") != f"http://127.0.0.1:{port}/":
        raise Refuse(400, "invalid_resource")
    if path == "/msi/token" and headers.get("x-identity-header") == SECRET:
        return new_token("an App Service")
    if path == "/metadata/identity/oauth2/token" and headers.get("metadata") == "true" and fault.get("imds"):
        return new_token("a machine")
    raise Refuse(400, "invalid_request", "Identity not found")


def operation(result, hidden=""):
    """202, and where to ask how it goes."""
    name = f"op-{next(numbers)}"
    operations[name] = {"left": fault.get("pending", 1), "result": result}
    at = f"http://127.0.0.1:{port}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/westeurope"
    query = f"?p={name}&api-version=2024-03-02&t=sekrit-poll"
    headers = {"Location": f"{at}/DiskOperations/{name}{query}&monitor=true", "Retry-After": "0"}
    if not fault.get("location_only"):
        headers["Azure-AsyncOperation"] = f"{at}/DiskOperations/{name}{query}"
    if fault.get("elsewhere"):
        headers = {"Location": "https://elsewhere.example/steal"}
    return 202, headers, b""


def poll(name, query):
    found = operations[name]
    with lock:
        found["left"] -= 1
    if "monitor" in query:
        return (202, {"Retry-After": "0"}, b"") if found["left"] >= 0 else (200, {}, found["result"])
    if fault.get("fails"):
        return 200, {}, {"status": "Failed", "error": {"code": fault["fails"], "message": "as the test wants it"}}
    if found["left"] >= 0:
        return 200, {"Retry-After": "0"}, {"status": "InProgress"}
    output = {} if fault.get("no_output") else {"properties": {"output": found["result"]}}
    return 200, {}, {"status": "Succeeded"} | output


def put_snapshot(id, body):
    asked = json.loads(body)
    creation = asked["properties"]["creationData"]
    disk = disks.get(creation["sourceResourceId"].lower())
    assert creation["createOption"] == "Copy" and asked["properties"]["incremental"] is True, asked
    assert asked["location"] == disk["location"] and len(asked["tags"]["impound:by"]) <= 256, asked
    if disk["name"] in fault.get("no_snapshot", []):
        raise Refuse(409, "OperationNotAllowed", "no snapshot of this disk")
    properties = {
        "creationData": creation,
        "diskSizeBytes": disk["properties"]["diskSizeBytes"] + fault.get("grown", 0),
        "timeCreated": datetime.now(timezone.utc).isoformat(),
        "provisioningState": "Succeeded",
        "incremental": True,
    }
    made = {"id": id, "name": id.rsplit("/", 1)[1], "location": asked["location"], "tags": asked["tags"]}
    snapshots.setdefault(id.lower(), made | {"properties": properties, "copied": fault.get("copied", 100)})
    return operation({})


def get_access(id, body):
    asked = json.loads(body)
    assert asked["access"] == "Read" and 0 < asked["durationInSeconds"] <= 86400, asked
    snapshot = snapshots[id.lower()]
    if snapshot["copied"] < 100:
        raise Refuse(409, "OperationNotAllowed", "the copy in the background has not ended")
    name, address = sas(*blobs[snapshot["properties"]["creationData"]["sourceResourceId"].lower()])
    snapshot.setdefault("policies", []).append(name)
    if fault.get("far"):
        address = "http://blob.example" + address.split(str(port), 1)[1]
    return operation({"accessSAS": address})


def snapshot_call(method, path, body):
    id, _, act = path.partition("/beginGetAccess") if "beginGetAccess" in path else path.partition("/endGetAccess")
    if method == "PUT":
        return put_snapshot(path, body)
    if id.lower() not in snapshots:
        raise Refuse(404, "ResourceNotFound", "the snapshot was not found")
    snapshot = snapshots[id.lower()]
    if path.endswith("/beginGetAccess"):
        return get_access(id, body)
    if path.endswith("/endGetAccess"):
        for name in snapshot.pop("policies", []):
            end_policy(name)
        return operation({})
    told = {name: value for name, value in snapshot.items() if name not in ("policies", "copied")}
    told["properties"] = told["properties"] | {"completionPercent": snapshot["copied"]}
    snapshot["copied"] = min(100, snapshot["copied"] + 50)
    return 200, {}, told


def boot_diagnostics():
    client = blobs["client"]
    found = []
    for n, name in enumerate(["screen.bmp", "console.log"]):
        container = client.get_container_client(f"diagnostics{n}")
        found.append(sas(container, container.get_blob_client(name)))
    # They last for two hours in Azure; here they do not count as access that somebody has to end.
    for name, _ in found:
        policies[name] = (policies[name][0], None)
    return 200, {}, {"consoleScreenshotBlobUri": found[0][1], "serialConsoleLogBlobUri": found[1][1]}


def action_of(method, path):
    """The permission that a call needs."""
    parts = path.split("/providers/")[-1].split("/")
    kinds = [parts[0]] + parts[1::2][:1]
    last = parts[-1]
    if method == "POST":
        return "/".join(kinds + [last, "action"])
    if last == "instanceView":
        kinds.append(last)
    return "/".join(kinds + [{"GET": "read", "PUT": "write"}[method]])


def arm(method, path, query, headers, body):
    token = headers.get("authorization", "").removeprefix("Bearer ")
    with lock:
        used = tokens.get(token)
        if used is None or used >= fault.get("token_life", 1 << 60):
            raise Refuse(401, "ExpiredAuthenticationToken" if used else "InvalidAuthenticationToken")
        tokens[token] += 1
    assert "api-version" in query, path
    if "/DiskOperations/" in path:
        assert query["t"] == "sekrit-poll"
        return poll(query["p"], query)
    action = action_of(method, path)
    if action in fault.get("deny", []):
        raise Refuse(403, "AuthorizationFailed", f"The client does not have authorization to perform action '{action}'")
    if path == f"{IN_GROUP}/providers/Microsoft.Authorization/permissions":
        denied = {"actions": ["*/read"], "notActions": fault.get("deny", [])}
        page = {"value": [denied]}
        if "more" not in query:
            page["nextLink"] = f"http://127.0.0.1:{port}{path.replace('(', '%28')}?api-version=2022-04-01&more=1"
        else:
            page["value"][0]["actions"] = ["Microsoft.Compute/*"]
        return 200, {}, page
    lower = path.lower()
    if lower == f"{COMPUTE}/virtualMachines".lower():
        return 200, {}, {"value": [machine]}
    if lower == machine["id"].lower():
        return 200, {}, machine
    if lower == machine["id"].lower() + "/instanceview":
        statuses = [{"code": "ProvisioningState/succeeded"}, {"code": "PowerState/running"}]
        return 200, {}, {"statuses": statuses, "hyperVGeneration": "V2"}
    if lower == machine["id"].lower() + "/retrievebootdiagnosticsdata" and method == "POST":
        return boot_diagnostics()
    if lower in disks:
        return 200, {}, disks[lower]
    if lower.startswith(f"{COMPUTE}/snapshots/".lower()):
        return snapshot_call(method, path, body)
    if "/microsoft.network/networkinterfaces/" in lower:
        return 200, {}, {"id": path, "properties": {"ipConfigurations": [{"privateIPAddress": "10.9.8.7"}]}}
    raise Refuse(404, "ResourceNotFound", f"{path} was not found")


def injected(is_span):
    """Each so-manieth request fails, each time in another way."""
    every = fault.get("every")
    with lock:
        n = next(counters[is_span])
    if not every or n % every:
        return None
    kind = ["503", "corrupt", "cut", "500", "throttle"][n // every % 5]
    return kind if is_span or kind not in ("cut", "corrupt") else "500"


def unheard(kind):
    """What is answered in place of a blob, if anything."""
    if kind == "throttle":
        return 503, {"x-ms-error-code": "ServerBusy", "Retry-After": "0"}, b""
    return (int(kind), {"x-ms-error-code": "InternalError"}, b"") if kind in ("500", "503") else None


def blob(method, target, path, query, headers):
    """What Azurite says, unless the test wants it otherwise."""
    if "authorization" in headers:
        state["leaked"].append(path)
    span = "comp" not in query and path.endswith("/abcd")
    kind = None if span else injected(False)
    with lock:
        state["running"] += 1
        state["most"] = max(state["most"], state["running"])
        over = fault.get("parallel") and state["running"] > fault["parallel"]
    try:
        if over:
            kind = "throttle"
        if refused := unheard(kind):
            return refused
        if span and state["gets"] >= fault.get("hold_after", 1 << 60):
            with lock:
                state["held"] += 1
            release.wait(300)
            # Whoever asked is gone: it is not one of those that are counted from now on.
            return 503, {}, b""
        outlived(query.get("si"))
        client = http.client.HTTPConnection("127.0.0.1", blobs["port"])
        passed = {name: headers[name] for name in headers if name == "range" or name.startswith("x-ms-")}
        client.request(method, target, headers=passed)
        answer = client.getresponse()
        content, status = answer.read(), answer.status
        told = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding", "keep-alive", "date", "content-length")}
        client.close()
        if span and status == 206 and "bytes" in headers.get("range", ""):
            # What was refused for its address is none of those that are counted: what is to go wrong goes wrong.
            kind = injected(True)
            if refused := unheard(kind):
                return refused
            return broken(kind, status, told, content, int(headers["range"].split("=")[1].split("-")[0]))
        if status == 200 and "comp" in query:
            content = listed(content, query.get("marker"))
        return status, told, content
    finally:
        with lock:
            state["running"] -= 1


def outlived(name):
    """After so many answers an address has run out: Azurite refuses it from then on."""
    if name not in policies or policies[name][1] is None:
        return
    with lock:
        container, used = policies[name]
        policies[name] = (container, used + 1)
        over = used >= fault.get("sas_life", 1 << 60)
    if over:
        end_policy(name)


def broken(kind, status, told, content, at):
    with lock:
        state["gets"] += 1
    if kind == "corrupt" or at // SPAN in fault.get("corrupt", []):
        content = content[:-1] + bytes([content[-1] ^ 1])
    if fault.get("footer") and len(content) == 512:
        content = content[:100] + b"\x01" + content[101:]
        told["content-md5"] = base64.b64encode(hashlib.md5(content).digest()).decode()
    if kind == "cut":
        told["content-length"] = str(len(content))
        content = content[: len(content) // 3]
    return status, told, content


def listed(content, marker):
    """A list in another order, or of what cannot be, or page by page as Azure gives it."""
    ranges = re.findall(r"<PageRange>.*?</PageRange>", content.decode(), re.S)
    if fault.get("descending"):
        ranges.reverse()
    if fault.get("beyond"):
        ranges.insert(0, "<PageRange><Start>9007199254740992</Start><End>9007199254741503</End></PageRange>")
    first = int((marker or "after-0").removeprefix("after-"))
    to = first + fault.get("page", len(ranges) + 1)
    more = f"<NextMarker>after-{to}</NextMarker>" if to < len(ranges) or fault.get("endless") else "<NextMarker />"
    return f"<?xml version='1.0' encoding='utf-8'?><PageList>{''.join(ranges[first:to])}{more}</PageList>".encode()


def control(body):
    asked = json.loads(body or b"{}")
    if "fault" in asked:
        fault.clear()
        fault.update(asked["fault"])
        state.update(gets=0, most=0, held=0)
    if asked.get("release"):
        release.set()
    told = {name: state[name] for name in ("log", "gets", "most", "held", "leaked", "tokens", "signatures")}
    told["snapshots"] = {s["id"]: s["tags"] for s in snapshots.values()}
    told["open"] = [name for name, (_, used) in policies.items() if used is not None]
    return 200, {}, told


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self):
        url = urlsplit(self.path)
        path, query = url.path.replace("%28", "(").replace("%29", ")"), dict(parse_qsl(url.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        if path == "/control":
            return control(body)
        is_blob = path.startswith(f"/{ACCOUNT}/")
        with lock:
            state["log"].append(f"{self.command} {path}" + (f"?comp={query['comp']}" if "comp" in query else ""))
        if is_blob:
            return blob(self.command, self.path, path, query, headers)
        if "sig" in query:
            state["leaked"].append(path)
        if path.endswith("/oauth2/v2.0/token"):
            return 200, {}, entra(path, body)
        if path in ("/msi/token", "/metadata/identity/oauth2/token"):
            return 200, {}, managed(path, query, headers)
        kind = injected(False)
        if kind == "throttle":
            raise Refuse(429, "TooManyRequests")
        if kind:
            raise Refuse(int(kind), "InternalServerError")
        return arm(self.command, path, query, headers, body)

    def serve(self):
        try:
            status, headers, content = self.answer()
        except Refuse as refuse:
            told = {"error": {"code": refuse.code, "message": refuse.message}}
            if "/token" in self.path:
                told = {"error": refuse.code, "error_description": refuse.message}
            status, headers, content = refuse.status, {}, told
        except Exception as error:
            status, headers, content = 400, {}, {"error": {"code": "Double", "message": repr(error)}}
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json"} | headers
        self.send_response(status)
        names = {name.lower() for name in headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if "x-ms-request-id" not in names:
            self.send_header("x-ms-request-id", f"ours-{next(numbers)}")
        if "content-length" not in names:
            self.send_header("content-length", str(len(content)))
        else:
            self.close_connection = True
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = serve


def main():
    global port
    blobs["port"] = started()
    address = f"http://127.0.0.1:{blobs['port']}/{ACCOUNT}"
    blobs["client"] = BlobServiceClient(address, {"account_name": ACCOUNT, "account_key": KEY})
    plant(blobs["client"], sys.argv[1:])
    server = Server(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    print(json.dumps({"port": port, "subscription": SUBSCRIPTION, "group": GROUP, "tenant": TENANT}), flush=True)
    server.serve_forever()


main()
