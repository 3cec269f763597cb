# SPDX-License-Identifier: Apache-2.0
"""The examples run as their first lines say, the C++ one against an installed library."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from server import MODEL, Server, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get("FORETOKEN_BUILD", str(ROOT / "build/release"))

# For a library that was built with sanitizers. CAF 0.17 binds a reference to null when it spawns a function.
SANITIZER = {"UBSAN_OPTIONS": f"halt_on_error=1:suppressions={ROOT / 'tests/system/ubsan_suppressions.txt'}"}


class ExamplesTest(unittest.TestCase):
    def test_tcp_client(self):
        with Server() as server:
            ended = subprocess.run(
                [sys.executable, str(ROOT / "examples/tcp_client.py"), f"127.0.0.1:{server.tcp_port}", "The sea"],
                capture_output=True, text=True, check=True)
            self.assertTrue(ended.stdout.strip())

    def test_official_clients(self):
        try:
            import openai
            import websockets
        except ImportError:
            self.skipTest("the packages openai and websockets are not here")
        self.assertTrue(openai and websockets)
        with Server() as server:
            door = f"127.0.0.1:{server.http_port}"
            for words in [["examples/websocket_client.py", door], ["examples/openai_client.py", door, "Hello!"]]:
                ended = subprocess.run([sys.executable, str(ROOT / words[0]), *words[1:]],
                                       capture_output=True, text=True, check=True)
                self.assertTrue(ended.stdout.strip())

    def test_a_service_embeds_the_installed_library(self):
        source = ROOT / "examples/embedding"
        self.assertLess(len((source / "embedding.cpp").read_text().splitlines()), 60)
        self.build_and_run("embedding", MODEL, "The sea is", "The sky is")

    def test_an_actor_subscribes_to_a_stream_by_message(self):
        self.build_and_run("subscriber", MODEL, "The capital of France is")

    def build_and_run(self, name, *words):
        source = ROOT / "examples" / name
        with tempfile.TemporaryDirectory() as folder:
            prefix, build = folder + "/prefix", folder + "/build"
            for step in [["cmake", "--install", BUILD, "--prefix", prefix],
                         ["cmake", "-G", "Ninja", "-S", str(source), "-B", build,
                          "-DCMAKE_PREFIX_PATH=" + prefix, "-DCMAKE_BUILD_TYPE=Release"],
                         ["cmake", "--build", build]]:
                ended = subprocess.run(step, capture_output=True, text=True, check=False)
                self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
            ended = subprocess.run([f"{build}/{name}", *words], env=os.environ | SANITIZER,
                                   capture_output=True, text=True, check=False)
            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertGreater(len(ended.stdout.strip()), 10)


if __name__ == "__main__":
    main()
