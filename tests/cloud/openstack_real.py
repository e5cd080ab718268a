"""The real half of an OpenStack cloud on loopback: Keystone and Glance from PyPI, each a process of its own, on SQLite.

    openstack_real.py prepare FOLDER            makes databases with users, projects and a catalog, once
    openstack_real.py keystone|glance FOLDER FD serves a copy of that on a socket that listens; says so, and ends with its parent

Real: all of Keystone and Glance, their databases, tokens (Fernet), policies, stores and digests; Glance asks Keystone about every token.
Not theirs: the server under them is werkzeug's. With TEST_STORE=whole the store of files says of itself what that of Ceph says: no
parts of an image can be read.
"""

import os
import subprocess
import sys
import threading

HERE = "http://127.0.0.1:1"
USERS = {"responder": "member", "reader": "reader"}


def config(folder, port, keystone_port=1):
    """Writes the configuration of both, for this folder."""
    db = f"sqlite:///{folder}"
    public = f"http://127.0.0.1:{port}"
    files = {
        "keystone.conf": f"""
[DEFAULT]
public_endpoint = {public}/identity
[database]
connection = {db}/keystone.db?timeout=120
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/fernet
[identity]
password_hash_rounds = 4
[token]
provider = fernet
expiration = {os.environ.get("TEST_TOKEN_LIFE", "3600")}
""",
        "glance-api.conf": f"""
[DEFAULT]
public_endpoint = {public}/image
worker_self_reference_url = {public}/image
enabled_backends = files:file
node_staging_uri = file://{folder}/staging
image_cache_dir = {folder}/cache
enabled_import_methods = []
[database]
connection = {db}/glance.db?timeout=120
[paste_deploy]
flavor = keystone
config_file = {sys.prefix}/etc/glance/glance-api-paste.ini
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {folder}/images
filesystem_store_chunk_size = 1048576
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[keystone_authtoken]
www_authenticate_uri = {public}/identity
auth_url = http://127.0.0.1:{keystone_port}
auth_type = password
interface = public
project_domain_id = default
user_domain_id = default
project_name = service
username = glance
password = {os.environ["TEST_SECRET"]}
token_cache_time = {os.environ.get("TEST_TOKEN_CACHE", "300")}
service_token_roles_required = false
""",
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)


def prepare(folder):
    """Databases, keys, a project with a user who may do things and one who may only read, a catalog whose address is filled in later."""
    for name in ("fernet", "images", "staging", "tasks", "cache"):
        os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
    config(folder, 1)
    sys.argv = ["keystone-manage", "--config-file", f"{folder}/keystone.conf", "db_sync"]
    from cryptography.fernet import Fernet

    for number in "01":
        with open(f"{folder}/fernet/{number}", "wb") as file:
            file.write(Fernet.generate_key())
    manage = [os.path.join(os.path.dirname(sys.executable), "keystone-manage"), "--config-file", f"{folder}/keystone.conf"]
    subprocess.run([*manage, "db_sync"], check=True)
    secret = os.environ["TEST_SECRET"]
    glance = os.path.join(os.path.dirname(sys.executable), "glance-manage")
    subprocess.run([glance, "--config-file", f"{folder}/glance-api.conf", "db_sync"], check=True)
    subprocess.run(
        [*manage, "bootstrap", "--bootstrap-password", secret, "--bootstrap-public-url", f"{HERE}/identity",
         "--bootstrap-region-id", "RegionOne"], check=True)
    application(folder)
    from keystone.common import provider_api
    from keystone import notifications
    from keystone.server.flask import application as flask_app

    apis = provider_api.ProviderAPIs
    with flask_app.application_factory.__globals__["flask"].Flask("x").test_request_context():
        resource, identity, assignment, catalog = apis.resource_api, apis.identity_api, apis.assignment_api, apis.catalog_api
        roles = {role["name"]: role["id"] for role in apis.role_api.list_roles()}
        for project, users in (("lab", USERS), ("service", {"glance": "admin"})):
            identifier = os.urandom(16).hex()
            resource.create_project(identifier, {"id": identifier, "name": project, "domain_id": "default", "enabled": True, "description": ""})
            for user, role in users.items():
                made = identity.create_user({"name": user, "password": secret, "domain_id": "default", "enabled": True})
                assignment.add_role_to_user_and_project(made["id"], identifier, roles[role])
        for kind, path in (("compute", "compute/v2.1"), ("block-storage", "volume/v3/$(project_id)s"), ("image", "image")):
            identifier = os.urandom(16).hex()
            catalog.create_service(identifier, {"id": identifier, "type": kind, "name": kind, "enabled": True})
            endpoint = os.urandom(16).hex()
            catalog.create_endpoint(endpoint, {
                "id": endpoint, "service_id": identifier, "interface": "public", "region_id": "RegionOne",
                "url": f"{HERE}/{path}", "enabled": True})


def wait_for_writers():
    """Makes each transaction on SQLite begin as a writer. Else one that has read and then writes is refused at once, however long it may
    wait, if another wrote in between ("database is locked"), which no database that these services are run on does."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def immediately(_connection, _cursor, statement, parameters, _context, _many):
        return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters


def application(folder):
    """Keystone. It reads the arguments of its process, which are not for it."""
    sys.argv = ["keystone"]
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = f"{folder}/keystone.conf"
    from keystone.server.wsgi import initialize_public_application

    return initialize_public_application()


def glance(folder):
    os.environ["OS_GLANCE_CONFIG_DIR"] = folder
    sys.argv = ["glance-api"]
    if os.environ.get("TEST_STORE") == "whole":
        from glance_store import capabilities
        from glance_store._drivers import filesystem

        filesystem.Store._CAPABILITIES = capabilities.BitMasks.RW_ACCESS
    from glance.common.wsgi_app import init_app

    return init_app()


def serve(app, fd, told):
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet, fd=fd)
    print("serves", file=told, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    # Some of what follows writes its log to stdout, which is for one line.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    what, where, fd = sys.argv[1], sys.argv[2], sys.argv[-1]
    if what == "prepare":
        prepare(where)
    else:
        wait_for_writers()
        serve(application(where) if what == "keystone" else glance(where), int(fd), told)
