#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks whose clients or engines fail say so, and neither hang nor pass; servers and engines are made up.
Flags that mean nothing are refused."""

import itertools
import os
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
BUILD = pathlib.Path(os.environ.get("FORETOKEN_BUILD", ROOT / "build/release"))
sys.path[:0] = [str(BENCH), str(BENCH / "naive"), str(BENCH / "peers")]

import engines  # noqa: E402
import memory  # noqa: E402
import served  # noqa: E402
import servers  # noqa: E402


class MadeUpServer:
    """Every client answers at once, but the one with the number `failing`."""

    def __init__(self, failing=None):
        self.failing, self.numbers = failing, itertools.count(1)

    def client(self):
        return MadeUpClient(next(self.numbers) == self.failing)

    def completion(self, prompt, **_):
        self.client().ask(prompt, False)


class MadeUpClient:
    def __init__(self, fails):
        self.fails = fails

    def ask(self, _prompt, _cached):
        if self.fails:
            raise ValueError("status 500")
        return 0.001

    def close(self):
        pass


def ended_worker():
    worker = engines.Worker.__new__(engines.Worker)
    worker.process = subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True, start_new_session=True)
    return worker


class BenchFailuresTest(unittest.TestCase):
    def test_a_worker_that_ended_fails_whatever_it_is_asked(self):
        worker = ended_worker()
        for asked in (lambda: worker.prefill(16), lambda: worker.decode(1, 16), lambda: worker.next([[1]])):
            with self.assertRaises(engines.Failed):
                asked()
        worker.signal(0)
        worker.process.stdin.close()
        worker.process.stdout.close()

    def test_a_ladder_crowd_ends_with_the_failure_of_one_client(self):
        load = served.Load(clients=4, requests=4, seconds=0.5)
        words = ["a"] * 300
        self.assertGreater(served.crowd(MadeUpServer(), words, 60, load)["predictions_per_second"], 0)
        with self.assertRaisesRegex(ValueError, "status 500"):
            served.crowd(MadeUpServer(failing=2), words, 60, load)

    def test_a_crowd_beside_other_engines_fails_with_its_client(self):
        self.assertGreater(servers.crowd(MadeUpServer(), 0.5)["requests"], 0)
        with self.assertRaisesRegex(ValueError, "status 500"):
            servers.crowd(MadeUpServer(failing=2), 0.5)

    def test_memory_is_not_measured_without_its_requests(self):
        memory.load(MadeUpServer())
        with self.assertRaisesRegex(ValueError, "status 500"):
            memory.load(MadeUpServer(failing=2))

    def test_flags_that_mean_nothing_are_refused(self):
        for words in (["linear_bench", "--threads"], ["linear_bench", "--threads", "abc"],
                      ["step_bench", "--threads", "abc"], ["step_bench", "--threads"]):
            program = BUILD / "bin" / words[0]
            if not program.exists():
                self.skipTest(f"{program.name} is not built")
            ended = subprocess.run([str(program), *words[1:]], capture_output=True, text=True, check=False)
            self.assertEqual(ended.returncode, 2, words)
            self.assertIn("usage:", ended.stderr)


if __name__ == "__main__":
    unittest.main()
