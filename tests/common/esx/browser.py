"""The datastore browser of the double: real TLS and HTTP over the same folders, see browser.rs beside this file.

What goes wrong is in control.json of the folder $ESX under "browser": what each key does stands where it is asked for below.
"""

import base64
import glob
import http.server
import json
import os
import re
import ssl
import threading
import urllib.parse

import host

BLOCK = 1 << 20
PASSWORD = os.environ["PASSWORD"].encode()
LOGIN = "Basic " + base64.b64encode(b"root:" + PASSWORD).decode()
lock = threading.Lock()
used = {}
pairs = threading.Barrier(2)


def once(name, times):
    """Counts, and tells whether it is still among the first."""
    with lock:
        used[name] = used.get(name, 0) + 1
        return used[name] <= times


def seen_by_all():
    """Is the password among the arguments of any process?"""
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(name, "rb") as file:
                if PASSWORD in file.read():
                    return True
        except OSError:
            pass
    return False


class Browser(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        words = dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
        self.entry = {"path": urllib.parse.unquote(address.path), "raw": self.path, "range": self.headers.get("Range"),
                      "store": words.get("dsName"), "seen": seen_by_all()}
        if self.headers.get("Authorization") != LOGIN:
            return self.say(401, "<html><body>Unauthorized</body></html>", [("WWW-Authenticate", 'Basic realm="VMware HTTP server"')])
        if self.entry["path"] == "/folder":
            return self.say(200, "<html><body>Index of datacenters</body></html>")
        of_host = host.Host()
        locked, control, volumes = of_host.locked(), of_host.control.get("browser", {}), of_host.state["volumes"]
        of_host.lock.close()
        store = [one for one in volumes if one["name"] == words.get("dsName")]
        if not store or words.get("dcPath") != "ha-datacenter":
            return self.say(404, "<html><body>no such datastore</body></html>")
        path = store[0]["mount"] + self.entry["path"][len("/folder"):]
        if path in locked or self.on(control, "locked", path):
            return self.say(500, "<html><h1>500</h1><p>Cannot open: it is locked</p></html>")
        if not os.path.isfile(path):
            return self.say(404, "<html><body>no such file</body></html>")
        self.file(path, control)

    def on(self, control, name, path):
        """`control[name]` is the end of a path, or a list that begins with one; the first byte alone is left in peace."""
        value = control.get(name)
        end = value[0] if isinstance(value, list) else value
        return end is not None and path.endswith(end) and self.entry["range"] != "bytes=0-0"

    def file(self, path, control):
        size = os.path.getsize(path)
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.entry["range"] or "")
        first, last = (int(part[1]), min(int(part[2]), size - 1)) if part else (0, size - 1)
        if self.on(control, "together", path) and once("together", 2):
            # Two requests at the same time, or none is answered.
            pairs.wait(120)
        if self.on(control, "busy", path) and once("busy", control["busy"][1]):
            return self.say(503, "<html><body>too many</body></html>")
        if self.on(control, "bad_block", path) and first // BLOCK <= control["bad_block"][1] <= last // BLOCK:
            return self.say(500, "<html><body><p>Input/output\nerror &amp; <b>more</b></p></body></html>")
        if first >= size:
            return self.say(416, "", [("Content-Range", f"bytes */{size}")])
        with open(path, "rb") as file:
            if not part or self.on(control, "whole", path):
                return self.say(200, file.read())
            file.seek(first)
            body = file.read(last - first + 1)
        moved = 512 if self.on(control, "moved", path) else 0
        if self.on(control, "short", path):
            body = body[:-1]
        if self.on(control, "shrunk", path):
            size = last
        lives = control["cut"][1] if self.on(control, "cut", path) else []
        with lock:
            used["cut"] = used.get("cut", 0) + bool(lives)
            cut = dict(enumerate(lives, 1)).get(used["cut"])
        self.say(206, body, [("Content-Range", f"bytes {first + moved}-{last + moved}/{size + moved}")], cut)

    def say(self, status, body, headers=(), cut=None):
        body = body if isinstance(body, bytes) else body.encode()
        self.entry.update(status=status, cut=cut is not None)
        with lock, open(os.path.join(host.HOME, "browser.log"), "a", encoding="utf-8") as file:
            file.write(json.dumps(self.entry) + "\n")
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            # As a cable does: without a word.
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_args):
        """Whoever hangs up, or takes no such certificate, is no error of this one's."""


def serve(_args):
    server = Server(("127.0.0.1", 0), Browser)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(host.HOME, "rui.crt"), os.path.join(host.HOME, "rui.key"))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_port, flush=True)
    server.serve_forever()
