# SPDX-License-Identifier: Apache-2.0
"""Starts the real program on free loopback ports, and small clients for its doors. The model is the real
one, or the one of tiny_model.py (FORETOKEN_TINY=1): then what is asserted cannot be about language."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

PROGRAM = os.environ.get("FORETOKEN_PROGRAM", "build/release/bin/foretoken")
MODEL = os.environ.get("FORETOKEN_MODEL") or os.path.expanduser(
    "~/.cache/foretoken/SmolLM2-135M-Instruct.Q4_1.gguf")
TINY = os.environ.get("FORETOKEN_TINY") == "1"
SKIPPED = 77
READY = re.compile(r"^ready http=(\S+):(\d+) tcp=(\S+):(\d+)$")


class Server:
    """A running server; a context manager that ends it and checks that it ended well."""

    def __init__(self, *flags, drain="5 s"):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--model", MODEL, "--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0",
             "--set", f"drain.deadline={drain}", *flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline().rstrip("\n")
        found = READY.match(line)
        if not found:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the first line is {line!r}; log:\n{self.log_text()}")
        self.host, self.http_port = found.group(1), int(found.group(2))
        self.tcp_port = int(found.group(4))
        self.base = f"http://{self.host}:{self.http_port}"

    def log_text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        status = self.stop()
        self.process.stdout.close()
        if kind is None and status != 0:
            raise AssertionError(f"exit status {status}; log:\n{self.log_text()}")
        self.log.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self):
        """The exit status of a server that was told to end already (a second signal would cut it short)."""
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    # HTTP
    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=120)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def post(self, path, body):
        status, data = self.request("POST", path, body)
        return status, json.loads(data)

    def completion(self, prompt, **parameters):
        status, answer = self.post("/v1/completions", {"prompt": prompt, **parameters})
        assert status == 200, answer
        return answer

    # Metrics
    def metrics_page(self):
        status, page = self.request("GET", "/metrics")
        assert status == 200
        return page.decode()

    def metric(self, name):
        for line in self.metrics_page().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def wait_metric(self, name, value, seconds=60):
        """Waits until the metric has the value; polling, never one fixed sleep."""
        end = time.monotonic() + seconds
        while (last := self.metric(name)) != value:
            if time.monotonic() > end:
                raise AssertionError(f"{name} is {last}, not {value}")
            time.sleep(0.05)

    def wait_idle(self):
        self.wait_metric("foretoken_requests_open", 0)
        self.wait_metric('foretoken_kv_pages{state="used"}', 0)


class Lines:
    """A TCP connection of JSON lines."""

    def __init__(self, server):
        self.socket = socket.create_connection((server.host, server.tcp_port), timeout=120)
        self.reader = self.socket.makefile("r", encoding="utf-8", newline="\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def reset(self):
        """Vanishes: the peer sees a reset, not an end of file."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, **message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        line = self.reader.readline()
        if not line:
            raise EOFError("the server closed the connection")
        return json.loads(line)

    def collect(self, identity):
        """Text of one request until its terminal event, which is returned as well."""
        text = ""
        while True:
            event = self.receive()
            if event["id"] != identity:
                continue
            if event["event"] != "token":
                return text, event
            text += event["text"]

    def generate(self, prompt, **parameters):
        self.send(op="generate", id="one", prompt=prompt, **parameters)
        text, end = self.collect("one")
        assert end["event"] == "done", end
        return text


def main():
    """unittest.main, with ctest's status for skipped when there is no model or program, or when one of
    the tests was skipped and none failed."""
    for what, path in [("model", MODEL), ("program", PROGRAM)]:
        if not pathlib.Path(path).exists():
            print(f"skipped: no {what} at {path}")
            sys.exit(SKIPPED)
    result = unittest.main(module="__main__", verbosity=2, exit=False).result
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.skipped else 0)
