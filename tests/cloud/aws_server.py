"""AWS on loopback, for the tests of the `aws` backend. Arguments: the images of an instance's volumes, the root first.

Real: EC2 and STS are moto's; the signature of every request is checked by botocore, which computes it anew.
Ours, after Amazon's documents: EBS direct (moto's has blocks of 512 bytes, no pages and no tokens that run out), which gives the
blocks of the image behind the volume of a snapshot that moto made; LockSnapshot, GetConsoleScreenshot and snapshots that are
pending for a while, which moto lacks; keys of KMS, with who keeps them and who may use them; refusals, throttling and every fault that
/control asks for. CopySnapshot is moto's inside an account; across accounts the server looks whether the snapshot is shared
and whether the address in PresignedUrl is signed as botocore signs it.

Prints one line of JSON when it serves, and ends when its stdin is closed.
"""

import base64
import hashlib
import io
import itertools
import json
import os
import sys
import threading
import time
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import boto3
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sts.models import sts_backends
from werkzeug.serving import WSGIRequestHandler, make_server

ACCOUNT, REGION, BLOCK = "123456789012", "eu-west-1", 512 << 10
EVIDENCE = "210987654321"
KEYS = {os.environ["TEST_KEY_ID"]: os.environ["TEST_SECRET"]}
SCREEN = b"\xff\xd8\xff\xe0 what the screen shows"
CONSOLE = b"Linux version 6.1.0 (planted on the console)\n"

lock = threading.Lock()
moto = DomainDispatcherApplication(create_backend_app)
images, taken = {}, {}
# Keys by ARN: who keeps them, which accounts may use them, and how they are. Copies by id.
keys, copies = {}, {}
# Since the test said what goes wrong: requests for blocks, and all others.
counters = {}
state = {"log": [], "locks": {}, "pending": 0, "issued": 0, "gets": 0, "running": 0, "most": 0, "held": 0}
fault = {}
release = threading.Event()


class Refuse(Exception):
    def __init__(self, status, code, message="as the test wants it"):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def backend():
    return ec2_backends[ACCOUNT][REGION]


class Image:
    """The blocks that are not all zero are those that were written."""

    def __init__(self, path):
        self.path, self.gib = path, os.path.getsize(path) >> 30
        assert os.path.getsize(path) == self.gib << 30, "a volume has whole GiB"
        self.written = [n for n in self.data(path) if any(self.read(n))]

    def data(self, path):
        with open(path, "rb") as file:
            at, seen = 0, -1
            while True:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    return
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                for n in range(max(at // BLOCK, seen + 1), (end - 1) // BLOCK + 1):
                    seen = n
                    yield n
                at = end

    def read(self, n):
        with open(self.path, "rb") as file:
            file.seek(n * BLOCK)
            return file.read(BLOCK)


def secret_of(key):
    if key in KEYS:
        return KEYS[key]
    for account in (ACCOUNT, EVIDENCE):
        for role in sts_backends[account]["aws"].assumed_roles:
            if role.access_key_id == key:
                return role.secret_access_key
    raise Refuse(403, "InvalidClientTokenId")


def account_of(key):
    roles = sts_backends[EVIDENCE]["aws"].assumed_roles
    return EVIDENCE if any(role.access_key_id == key for role in roles) else ACCOUNT


def check_signature(environ, body):
    """botocore signs the same request; both must come to the same. Answers whose it is, and in which region."""
    given = environ.get("HTTP_AUTHORIZATION", "")
    if not given:
        if b"AssumeRoleWithWebIdentity" in body:
            return ACCOUNT, REGION
        raise Refuse(403, "MissingAuthenticationToken")
    parts = dict(part.strip().split("=", 1) for part in given.split(" ", 1)[1].split(","))
    key, _, region, service, _ = parts["Credential"].split("/")
    names = parts["SignedHeaders"].split(";")
    wsgi = {"content-type": "CONTENT_TYPE"}
    headers = {name: environ[wsgi.get(name, "HTTP_" + name.upper().replace("-", "_"))] for name in names}
    assert {"host", "x-amz-date"} <= set(names), names
    query = environ.get("QUERY_STRING", "")
    path = environ.get("RAW_URI", environ["PATH_INFO"]).split("?")[0]
    url = f"http://{headers['host']}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, data=body, headers=headers)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(key, secret_of(key), headers.get("x-amz-security-token")), service, region)
    want = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if want != parts["Signature"]:
        raise Refuse(403, "SignatureDoesNotMatch", "botocore comes to another signature")
    if fault.get("expired_keys", 0) > 0:
        fault["expired_keys"] -= 1
        raise Refuse(400, "RequestExpired" if service == "ec2" else "ExpiredTokenException")
    return account_of(key), region


def check_address(url, account, asked):
    """The address that goes with a copy: the same call in the region of the source, by the same caller."""
    query = dict(parse_qsl(urlsplit(url).query))
    given = query["X-Amz-Signature"]
    key, _, region, service, _ = query["X-Amz-Credential"].split("/")
    wrong = [name for name, want in asked.items() if query.get(name) != want]
    if wrong or (account_of(key), region, service) != (account, asked["SourceRegion"], "ec2"):
        raise Refuse(400, "InvalidPresignedUrl", f"it is for another call: {wrong} {region} {service}")
    request = AWSRequest(method="GET", url=url.replace(f"&X-Amz-Signature={given}", ""))
    request.context["timestamp"] = query["X-Amz-Date"]
    auth = SigV4QueryAuth(Credentials(key, secret_of(key), query.get("X-Amz-Security-Token")), service, region)
    want = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if want != given:
        raise Refuse(400, "InvalidPresignedUrl", "botocore comes to another signature")


def describe_key(account, body):
    arn = json.loads(body)["KeyId"]
    key = keys.get(arn)
    if key is None:
        raise Refuse(400, "NotFoundException", f"Key '{arn}' does not exist")
    if account not in key["accounts"]:
        raise Refuse(400, "AccessDeniedException", "not authorized to perform: kms:DescribeKey")
    about = {"Arn": arn, "KeyId": arn.rsplit("/", 1)[1], "KeyManager": key["manager"], "KeyState": key["state"]}
    answer = json.dumps({"KeyMetadata": about}).encode()
    return 200, {"content-type": "application/x-amz-json-1.1"}, answer


def copy_snapshot(form, account, region, ask_moto):
    """moto copies inside an account, and has all done at once."""
    for name, code in (("throttled", "RequestLimitExceeded"), ("limited", "ResourceLimitExceeded")):
        if fault.get(name, 0) > 0:
            fault[name] -= 1
            raise Refuse(503 if name == "throttled" else 400, code)
    id, source = form["SourceSnapshotId"], form["SourceRegion"]
    asked = {n: form[n] for n in ("Action", "Version", "SourceRegion", "SourceSnapshotId", "DestinationRegion")}
    assert asked["DestinationRegion"] == region
    check_address(form["PresignedUrl"], account, asked)
    snapshot = ec2_backends[ACCOUNT][source].snapshots.get(id)
    if snapshot is None or account not in snapshot.create_volume_permission_userids:
        raise Refuse(400, "InvalidSnapshot.NotFound", f"The snapshot '{id}' does not exist.")
    assert snapshot.status == "completed", "only what is complete can be copied"
    borrowed, own = ec2_backends[account][source].snapshots, ec2_backends[account][region].snapshots
    borrowed[id] = snapshot
    before = set(own)
    data = b"".join(ask_moto())
    (new,) = set(own) - before - {id}
    del borrowed[id]
    made = own[new]
    made.encrypted = made.encrypted or form.get("Encrypted") == "true"
    if fault.get("plain"):
        made.encrypted = False
    made.status = "pending"
    copies[new] = {"of": id, "looks": fault.get("copying", 0), "region": region, "account": account, "snapshot": made}
    if fault.get("lost", 0) > 0:
        fault["lost"] -= 1
        raise Refuse(500, "InternalError", "the answer is lost")
    return 200, {"content-type": "text/xml"}, data


def age_copies(account):
    """Each look brings a copy nearer to its end."""
    for copy in copies.values():
        if copy["account"] == account and copy["snapshot"].status == "pending":
            copy["looks"] -= 1
            if copy["looks"] < 0 or fault.get("all_end"):
                copy["snapshot"].status = "error" if fault.get("copy_error") else "completed"
                copy["snapshot"].state_message = fault.get("copy_error")


def told_of(copy):
    made = copy["snapshot"]
    tags = {tag["key"]: tag["value"] for tag in made.get_tags()}
    told = {name: copy[name] for name in ("of", "region", "account")}
    about = {"tags": tags, "status": made.status, "encrypted": made.encrypted, "key": made.kms_key_id}
    return told | about | {"description": made.description}


def written(snapshot):
    found = backend().snapshots.get(snapshot)
    if found is None:
        raise Refuse(404, "ResourceNotFoundException")
    if found.status != "completed":
        raise Refuse(400, "ValidationException", "the snapshot is not completed")
    return taken[snapshot]


def token(snapshot, n, issued):
    return base64.b64encode(f"sekrit-token:{snapshot}:{n}:{issued}".encode()).decode()


def check_token(text, snapshot, n):
    word, of, number, issued = base64.b64decode(text).decode().split(":")
    if (word, of, number) != ("sekrit-token", snapshot, str(n)):
        raise Refuse(400, "ValidationException", "the token is that of another block")
    # A list's tokens last for so many blocks, which stands for the time that they last.
    if state["gets"] - int(issued) > fault.get("token_life", 1 << 60):
        raise Refuse(400, "ValidationException", "the token has expired")


def list_blocks(snapshot, query):
    image = written(snapshot)
    most = min(int(query.get("maxResults", 10000)), fault.get("page", 10000))
    if int(query.get("maxResults", 10000)) < 100:
        raise Refuse(400, "ValidationException", "maxResults is 100 to 10000")
    if "pageToken" in query:
        word, first, issued = base64.b64decode(query["pageToken"]).decode().split(":")
        assert word == "sekrit-page"
        if state["gets"] - int(issued) > fault.get("page_life", 1 << 60):
            raise Refuse(400, "ValidationException", "the page's token has expired")
    else:
        first = query.get("startingBlockIndex", "0")
    left = [n for n in image.written if n >= int(first)]
    empty = fault.get("empty_pages") and "pageToken" not in query
    page = [] if empty else left[:most]
    if fault.get("descending"):
        page = page[::-1]
    issued = state["gets"]
    answer = {
        "Blocks": [{"BlockIndex": n, "BlockToken": token(snapshot, n, issued)} for n in page],
        "ExpiryTime": time.time() + 600,
        "VolumeSize": fault.get("volume_size", image.gib),
        "BlockSize": fault.get("block_size", BLOCK),
    }
    if len(left) > len(page):
        after = int(first) if empty else page[-1] + 1
        answer["NextToken"] = base64.b64encode(f"sekrit-page:{after}:{issued}".encode()).decode()
    return 200, {"content-type": "application/json"}, json.dumps(answer).encode()


def changed_blocks(second, query):
    old, new = written(query["firstSnapshotId"]), written(second)
    first = int(query.get("startingBlockIndex", "0"))
    if "pageToken" in query:
        first = int(query["pageToken"].removeprefix("sekrit-page-"))
    either = sorted(set(old.written) | set(new.written))
    left = [n for n in either if n >= first and old.read(n) != new.read(n)]
    page = left[: min(int(query.get("maxResults", 10000)), fault.get("page", 10000))]
    blocks = []
    for n in page:
        block = {"BlockIndex": n}
        if n in old.written:
            block["FirstBlockToken"] = "of no use"
        if n in new.written:
            block["SecondBlockToken"] = token(second, n, state["gets"])
        blocks.append(block)
    answer = {"ChangedBlocks": blocks, "ExpiryTime": time.time() + 600, "VolumeSize": new.gib, "BlockSize": BLOCK}
    if len(left) > len(page):
        answer["NextToken"] = f"sekrit-page-{page[-1] + 1}"
    return 200, {"content-type": "application/json"}, json.dumps(answer).encode()


def get_block(snapshot, n, query):
    image = written(snapshot)
    if fault.get("kms_denied"):
        raise Refuse(403, "AccessDeniedException", "the KMS key may not be used")
    if state["gets"] >= fault.get("hold_after", 1 << 60):
        with lock:
            state["held"] += 1
        release.wait(300)
        # Whoever asked is gone: it is not one of those that are counted from now on.
        raise Refuse(503, "Held", "the one who asked is gone")
    check_token(query["blockToken"], snapshot, n)
    # What was refused for its token is none of those that are counted: what is to go wrong goes wrong.
    kind = injected(True)
    refuse_ebs(kind)
    with lock:
        state["gets"] += 1
    data = image.read(n)
    headers = {
        "x-amz-Data-Length": str(BLOCK),
        "x-amz-Checksum": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "x-amz-Checksum-Algorithm": "SHA256",
    }
    if n in fault.get("corrupt", []):
        data = b"\x00" + data[1:] if data[:1] != b"\x00" else b"\x01" + data[1:]
    if kind == "corrupt":
        data = data[:-1] + bytes([data[-1] ^ 1])
    if kind == "cut":
        # What was announced never comes.
        return 200, headers | {"content-length": str(BLOCK)}, data[: BLOCK // 3]
    return 200, headers, data


def injected(is_block):
    """Each so-manieth request of its sort fails, each time in another way."""
    every = fault.get("every")
    if not every:
        return None
    with lock:
        n = next(counters[is_block])
    if n % every:
        return None
    kind = ["503", "corrupt", "500", "cut", "throttle"][n // every % 5]
    return kind if is_block or kind not in ("cut", "corrupt") else "500"


def refuse_ebs(kind):
    if kind in ("500", "503"):
        raise Refuse(int(kind), "InternalServerException")
    if kind == "throttle":
        raise Refuse(400, "ThrottlingException")


def ebs(environ, kind):
    parts = environ["PATH_INFO"].strip("/").split("/")
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    refuse_ebs(kind)
    limit = fault.get("parallel")
    with lock:
        state["running"] += 1
        state["most"] = max(state["most"], state["running"])
        over = limit and state["running"] > limit
    try:
        if over:
            refuse_ebs("throttle")
        if len(parts) == 3 and parts[2] == "blocks":
            return list_blocks(parts[1], query)
        if len(parts) == 3 and parts[2] == "changedblocks":
            return changed_blocks(parts[1], query)
        if len(parts) == 4 and parts[2] == "blocks":
            return get_block(parts[1], int(parts[3]), query)
        raise Refuse(404, "ResourceNotFoundException")
    finally:
        with lock:
            state["running"] -= 1


def xml(action, inner):
    name = f"{action}Response"
    text = f'<{name} xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>ours</requestId>{inner}</{name}>'
    return 200, {"content-type": "text/xml"}, text.encode()


def before_moto(form, kind):
    """What moto lacks, and what the test wants refused."""
    action = form.get("Action", "")
    if kind in ("500", "503"):
        raise Refuse(int(kind), "InternalError")
    if kind == "throttle":
        raise Refuse(503, "RequestLimitExceeded")
    if action in fault.get("deny", []):
        raise Refuse(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
    if action == "LockSnapshot":
        state["locks"][form["SnapshotId"]] = [form["LockMode"], int(form["LockDuration"])]
        return xml(action, f"<snapshotId>{form['SnapshotId']}</snapshotId><state>{form['LockMode']}</state>")
    if action in ("GetConsoleScreenshot", "GetConsoleOutput"):
        if form.get("DryRun") == "true":
            raise Refuse(412, "DryRunOperation")
        field, data = ("imageData", SCREEN) if action == "GetConsoleScreenshot" else ("output", CONSOLE)
        return xml(action, f"<{field}>{base64.b64encode(data).decode()}</{field}>")
    if action == "DescribeSnapshots" and state["pending"] > 0:
        state["pending"] -= 1
        if state["pending"] == 0:
            for id in taken:
                backend().snapshots[id].status = "completed"
    return None


def after_moto(form):
    # A snapshot holds what the volume held when it was made, under the same key.
    for snapshot in backend().snapshots.values():
        if snapshot.volume.id in images and snapshot.id not in copies:
            taken.setdefault(snapshot.id, images[snapshot.volume.id])
            snapshot.encrypted, snapshot.kms_key_id = snapshot.volume.encrypted, snapshot.volume.kms_key_id
    if form.get("Action") == "CreateSnapshots" and fault.get("pending"):
        state["pending"] = fault["pending"]
        for id in taken:
            backend().snapshots[id].status = "pending"


def refusal(refuse, json_wanted):
    if json_wanted:
        body = json.dumps({"Message": refuse.message, "Reason": "TEST"}).encode()
        return refuse.status, {"content-type": "application/json", "x-amzn-ErrorType": refuse.code + ":"}, body
    inner = f"<Error><Code>{refuse.code}</Code><Message>{refuse.message}</Message></Error>"
    text = f"<Response><Errors>{inner}</Errors><RequestID>ours</RequestID></Response>"
    return refuse.status, {"content-type": "text/xml"}, text.encode()


def control(environ, body):
    global fault
    asked = json.loads(body or b"{}")
    if "fault" in asked:
        fault = asked["fault"]
        counters.update({True: itertools.count(1), False: itertools.count(1)})
        state.update(gets=0, most=0, held=0)
    if "volume" in asked:
        images[asked["volume"]] = Image(asked["path"])
    keys.update(asked.get("keys", {}))
    for volume, arn in asked.get("encrypt", {}).items():
        backend().volumes[volume].encrypted, backend().volumes[volume].kms_key_id = True, arn
    if asked.get("release"):
        release.set()
    told = {name: state[name] for name in ("log", "locks", "gets", "most", "held")}
    # moto begins with snapshots of its own.
    snapshots = [backend().snapshots[id] for id in taken]
    told["snapshots"] = {s.id: {t["key"]: t["value"] for t in s.get_tags()} for s in snapshots}
    told["shared"] = {s.id: sorted(s.create_volume_permission_userids) for s in snapshots}
    told["copies"] = {id: told_of(copy) for id, copy in copies.items()}
    told["descriptions"] = {s.id: s.description for s in snapshots}
    told["groups"] = [g.id for i in backend().all_instances() for g in i.security_groups]
    return 200, {"content-type": "application/json"}, json.dumps(told).encode()


STATUS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 412: "Failed", 500: "Oh", 503: "Slow"}


def serve(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    path = environ["PATH_INFO"]
    is_ebs = path.startswith("/snapshots/")
    form = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()} if not is_ebs else {}
    try:
        if path == "/control":
            answer = control(environ, body)
        else:
            with lock:
                what = f"{environ['REQUEST_METHOD']} {path}" if is_ebs else form.get("Action", path)
                is_copy = what == "CopySnapshot" and form.get("DryRun") != "true"
                state["log"].append(what if is_copy or what != "CopySnapshot" else "may CopySnapshot")
            account, region = check_signature(environ, body)
            kind = None if "/blocks/" in path else injected(False)
            if environ.get("HTTP_X_AMZ_TARGET") == "TrentService.DescribeKey":
                answer = describe_key(account, body)
            else:
                answer = ebs(environ, kind) if is_ebs else before_moto(form, kind)
            if form.get("Action") == "DescribeSnapshots":
                age_copies(account)
            if answer is None and is_copy:
                environ["wsgi.input"] = io.BytesIO(body)
                answer = copy_snapshot(form, account, region, lambda: moto(environ, lambda *_: None))
    except Refuse as refuse:
        answer = refusal(refuse, is_ebs or "HTTP_X_AMZ_TARGET" in environ)
    if answer is None:
        environ["wsgi.input"] = io.BytesIO(body)
        result = moto(environ, start_response)
        after_moto(form)
        return result
    status, headers, data = answer
    headers = {"x-amzn-RequestId": f"ours-{len(state['log'])}", "content-length": str(len(data))} | headers
    start_response(f"{status} {STATUS.get(status, 'X')}", list(headers.items()))
    return [data]


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args):
        pass


def main():
    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (key, secret), port = next(iter(KEYS.items())), server.server_address[1]
    ec2 = boto3.client(
        "ec2", REGION, endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=key, aws_secret_access_key=secret
    )
    made = [Image(path) for path in sys.argv[1:]]
    devices = ["/dev/sda1", "/dev/sdb", "/dev/sdc"]
    mappings = [{"DeviceName": d, "Ebs": {"VolumeSize": i.gib}} for d, i in zip(devices, made)]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web01"}]}]
    of_all = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])["SecurityGroups"]
    run = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        BlockDeviceMappings=mappings,
        TagSpecifications=tags,
        SecurityGroupIds=[of_all[0]["GroupId"]],
    )
    instance = run["Instances"][0]["InstanceId"]
    about = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    volumes = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in about["BlockDeviceMappings"]}
    for device, image in zip(devices, made):
        images[volumes[device]] = image
    vpc = about["VpcId"]
    group = ec2.create_security_group(GroupName="none", Description="lets nothing through", VpcId=vpc)["GroupId"]
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"]
    if rules:
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=rules)
    state["log"].clear()
    told = {"port": port, "instance": instance, "volumes": volumes, "group": group, "account": ACCOUNT, "evidence": EVIDENCE}
    print(json.dumps(told), flush=True)
    sys.stdin.read()


main()
