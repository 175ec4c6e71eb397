"""Receives fired jobs: verifies the signature and the fence. See README.md."""

import base64
import hashlib
import hmac
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
TOLERANCE_S = 300

fences = {}  # The greatest fence of each job.
lock = threading.Lock()


def is_signed(headers, body):
    identity, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    signed = f"{identity}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest())
    signatures = headers.get("webhook-signature", "").split()
    # One of several, while a secret is replaced.
    return any(hmac.compare_digest(f"v1,{expected.decode()}", it) for it in signatures)


def is_late(job, fence):
    with lock:
        if fence < fences.get(job, 0):
            return True
        fences[job] = fence
        return False


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status_of(body))
        self.send_header("content-length", "0")
        self.end_headers()

    def status_of(self, body):
        if not is_signed(self.headers, body):
            return 401
        fence = int(self.headers["x-scheduler-fence"])
        if is_late(self.headers["x-scheduler-job-id"], fence):
            return 412
        print("done", self.headers["x-scheduler-request-id"], fence, flush=True)
        return 204

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print("listening on", server.server_port, flush=True)
server.serve_forever()
