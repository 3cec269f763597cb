# SPDX-License-Identifier: Apache-2.0
"""The program itself: the drain, exit codes, flags, configuration, and what each subcommand prints."""

import json
import pathlib
import signal
import subprocess
import tempfile
import threading
import unittest

from server import MODEL, PROGRAM, TINY, Lines, Server, main
from tiny_model import VOCABULARY

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*words, text=None, env=None):
    return subprocess.run([PROGRAM, *words], input=text, capture_output=True, text=True, timeout=120,
                          check=False, env=env)


class FlagsTest(unittest.TestCase):
    # arguments -> what stderr must name
    BAD = [
        (["serve", "--modle", MODEL], "--modle"),
        (["serve"], "--model"),
        (["serve", "--model", "/nonexistent.gguf"], "/nonexistent.gguf"),
        (["serve", "--model", str(ROOT / "foretoken.toml")], ""),
        (["serve", "--model", MODEL, "--http", "127.0.0.1:70000", "--tcp", "127.0.0.1:0"], "net.http"),
        (["serve", "--model", MODEL, "--http", "nonsense", "--tcp", "127.0.0.1:0"], "net.http"),
        (["serve", "--model", MODEL, "--http", "0.0.0.0:0", "--tcp", "127.0.0.1:0"],
         "allow_unauthenticated"),
        (["serve", "--model", MODEL, "--set", "cpu.thread=2"], "cpu.threads"),
        (["serve", "--model", MODEL, "--set", "cpu.threads"], "--set"),
        (["serve", "--model", MODEL, "--threads", "-1"], "--threads"),
        (["serve", "--model", MODEL, "--threads", "two"], "--threads"),
        (["serve", "--model", MODEL, "--kv-bytes", "12 parsecs"], "--kv-bytes"),
        (["serve", "--model", MODEL, "--device", "gpu"], "cuda"),
        (["serve", "--model", MODEL, "--device", "cuda", "--set", "gpu.library=/nonexistent.so"],
         "/nonexistent.so"),
        (["serve", "--model", MODEL, "--set", "model.memory_bytes_max=1MiB"], "memory_bytes_max"),
        (["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (["complete", "--model", MODEL, "--max-tokens", "0", "x"], "--max-tokens"),
        (["complete", "--model", MODEL, "--max-tokens", "2147483648", "x"], "--max-tokens"),
        (["complete", "--model", MODEL, "--temperature", "-1", "x"], "--temperature"),
        (["complete", "--model", MODEL, "--temperature", "nan", "x"], "temperature"),
        (["complete", "--model", MODEL, "--top-p", "2", "x"], "--top-p"),
        (["complete", "--model", MODEL, "--seed", "-1", "x"], "--seed"),
        (["complete", "--model", MODEL, "--system", "s", "x"], "--system"),
        (["complete", "--model", MODEL, ""], "prompt"),
        (["complete", "--model", MODEL], "prompt"),
        (["tokenize", "--model", MODEL, "--decode", "99999999"], "token ids"),
        (["bench", "--model", MODEL, "--decode", "0"], "--decode"),
        (["bench", "--model", MODEL, "--context", "1000000", "--decode", "1"], "--context"),
        (["bench", "--server", "nowhere"], "--server"),
        (["explode"], "explode"),
        ([], ""),
    ]

    def test_bad_flags_exit_2_and_name_the_flag(self):
        for words, named in self.BAD:
            with self.subTest(words=words):
                ended = run(*words)
                self.assertEqual(ended.returncode, 2, ended.stderr)
                self.assertIn(named, ended.stderr)
                self.assertEqual(ended.stdout, "")

    def test_help_is_everywhere(self):
        for words in [[], ["serve"], ["complete"], ["tokenize"], ["inspect"], ["bench"], ["version"]]:
            with self.subTest(words=words):
                ended = run(*words, "--help")
                self.assertEqual(ended.returncode, 0)
                self.assertIn("--help", ended.stdout)


class ConfigTest(unittest.TestCase):
    def check(self, text, *flags):
        with tempfile.NamedTemporaryFile("wb", suffix=".toml") as file:
            file.write(text)
            file.flush()
            return run("serve", "--check-config", "--config", file.name, *flags)

    def test_the_shipped_file_is_what_print_config_prints(self):
        self.assertEqual(run("--print-config").stdout, (ROOT / "foretoken.toml").read_text())
        self.assertEqual(run("--print-config", "--markdown").stdout,
                         (ROOT / "docs/configuration.md").read_text())

    def test_bad_files_exit_2_with_line_and_name(self):
        for text, named in [(b"[cpu]\nthread = 1\n", ":2: unknown key cpu.thread; did you mean cpu.threads"),
                            (b"[cpu]\nthreads = 'x'\n", ":2: expected a whole number"),
                            (b"[cpu]\n\n\nthreads = -4\n", ":4: must be"),
                            (b"[cpu]\nthreads = 1\nthreads = 1\n", ":3: "),
                            (b"\xff\xfe[cpu]\n", "byte order mark"),
                            (b"[log]\nlevel = \"\xff\"\n", ":2: ")]:
            with self.subTest(text=text):
                ended = self.check(text)
                self.assertEqual(ended.returncode, 2, ended.stderr)
                self.assertIn(named, ended.stderr)
        self.assertEqual(self.check(b"[cpu]\nthreads = 1\n").returncode, 0)

    def test_what_serve_would_refuse_is_no_good_configuration(self):
        for text, named in [(b"[net]\nhttp = \"garbage\"\n", "net.http"),
                            (b"[net]\ntcp = \"localhost:99999\"\n", "net.tcp"),
                            (b"[model]\nchat_template = \"chatmll\"\n", "model.chat_template")]:
            with self.subTest(text=text):
                ended = self.check(text)
                self.assertEqual(ended.returncode, 2, ended.stderr)
                self.assertIn(named, ended.stderr)

    def test_a_flag_of_a_subcommand_before_its_name_is_refused(self):
        for words in [("--threads", "5", "serve"), ("--check-config", "serve"), ("--set", "cpu.threads=5", "inspect")]:
            with self.subTest(words=words):
                ended = run(*words)
                self.assertEqual(ended.returncode, 2, ended.stderr)
                self.assertIn(f"{words[0]}: belongs behind {words[-1]}", ended.stderr)

    def test_set_takes_one_word(self):
        ended = run("inspect", "--set", "cpu.threads=2", "/nowhere.gguf")
        self.assertEqual(ended.returncode, 2, ended.stderr)
        self.assertIn("/nowhere.gguf", ended.stderr)
        self.assertNotIn("--set", ended.stderr)

    def test_flags_override_environment_overrides_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("[cpu]\nthreads = 3\n[scheduler]\ncredits = 5\nstep_tokens_max = 600\n")
            file.flush()
            env = {"FORETOKEN_CPU_THREADS": "4", "FORETOKEN_SCHEDULER_STEP_TOKENS_MAX": "700"}
            page = run("--print-config", "--config", file.name, "--threads", "5", env=env).stdout
        for line in ["threads = 5", "step_tokens_max = 700", "credits = 5"]:
            self.assertIn(f"\n{line}\n", page)


class SubcommandTest(unittest.TestCase):
    def test_version(self):
        self.assertRegex(run("version").stdout, r"^foretoken \d+\.\d+\.\d+\n$")

    def test_tokenize_and_back(self):
        text = "Grüße, 世界! <|im_end|>"
        ids = run("tokenize", "--model", MODEL, "-", text=text)
        self.assertEqual(ids.returncode, 0, ids.stderr)
        self.assertEqual(run("tokenize", "--model", MODEL, "--decode", "-", text=ids.stdout).stdout, text)

    def test_devices_says_what_is_there_and_why_not(self):
        ended = run("devices", "--set", "gpu.library=/nonexistent.so")
        self.assertEqual(ended.returncode, 0)
        self.assertIn("cpu ", ended.stdout)
        self.assertIn("none: no device library at /nonexistent.so", ended.stdout)

    def test_packed_weights_answer_as_the_file_does_even_when_they_are_spoiled(self):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place, "kept")
            words = ["complete", "--model", MODEL, "--temperature", "0", "--max-tokens", "4", "--device", "cpu",
                     "--set", f"cpu.packed_cache_folder={folder}", "--set", "cpu.packed_cache=on", "The sea is"]
            first = run(*words)
            self.assertEqual(first.returncode, 0, first.stderr)
            self.assertEqual(run(*words).stdout, first.stdout)
            if not MODEL.endswith(".gguf"):  # only such files are kept packed
                return
            kept, = folder.glob("*.packed")
            content = bytearray(kept.read_bytes())
            content[len(content) // 2] ^= 1
            kept.write_bytes(content)
            again = run(*words)
            self.assertEqual(again.stdout, first.stdout)
            self.assertIn("packing again", again.stderr)
            third = run(*words)
            self.assertEqual(third.stdout, first.stdout)
            self.assertNotIn("packing again", third.stderr)

    def test_inspect_tells_the_memory(self):
        ended = run("inspect", "--json", MODEL)
        told = json.loads(ended.stdout)
        memory = told["memory"]
        self.assertEqual(memory["total_bytes"],
                         memory["weight_bytes"] + memory["kv_bytes"] + memory["workspace_bytes"])
        self.assertEqual(told["vocabulary"], VOCABULARY if TINY else 49152)
        self.assertIn("total", run("inspect", MODEL).stdout)

    def test_complete_reads_stdin_and_prints_only_the_continuation(self):
        words = ["complete", "--model", MODEL, "--max-tokens", "12", "--temperature", "0"]
        given = run(*words, "The capital of France is")
        self.assertEqual(given.returncode, 0, given.stderr)
        self.assertTrue(given.stdout)
        self.assertEqual(run(*words, "-", text="The capital of France is").stdout, given.stdout)

    def test_bench_prints_its_json_form(self):
        ended = run("bench", "--model", MODEL, "--prefill", "16,32", "--decode", "1,2", "--context", "32",
                    "--seconds", "0.05", "--json")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        told = json.loads(ended.stdout)
        self.assertEqual([each["tokens"] for each in told["prefill"]], [16, 32])
        self.assertEqual([(each["batch"], each["context"]) for each in told["decode"]], [(1, 32), (2, 32)])
        for each in told["prefill"] + told["decode"]:
            self.assertGreater(each["tokens_per_second"], 0)


class DrainTest(unittest.TestCase):
    def test_sigterm_finishes_a_running_stream_and_exits_0(self):
        server = Server(drain="60 s")
        with Lines(server) as lines:
            lines.send(op="generate", id="a", prompt="Once", max_tokens=60, temperature=0, ignore_eos=True)
            lines.receive()
            server.process.send_signal(signal.SIGTERM)
            _, end = lines.collect("a")
        self.assertEqual((end["event"], end["finish_reason"]), ("done", "length"))
        self.assertEqual(end["usage"]["completion_tokens"], 60)
        self.assertEqual(server.ended(), 0)
        server.process.stdout.close()

    def test_a_stream_beyond_the_deadline_is_cancelled_and_the_exit_is_0(self):
        server = Server(drain="300 ms")
        with Lines(server) as lines:
            lines.send(op="generate", id="a", prompt="Once", max_tokens=8000, ignore_eos=True)
            lines.receive()
            server.process.send_signal(signal.SIGTERM)
            _, end = lines.collect("a")
        if not TINY:  # a tiny model may be through before the deadline
            self.assertEqual(end["finish_reason"], "cancelled")
        self.assertEqual(server.ended(), 0)
        server.process.stdout.close()

    def test_a_second_signal_ends_at_once(self):
        server = Server(drain="3600 s")
        with Lines(server) as lines:
            lines.send(op="generate", id="a", prompt="Once", max_tokens=8000, ignore_eos=True)
            lines.receive()
            server.process.send_signal(signal.SIGINT)
            while server.process.poll() is None:  # signals of one kind merge while pending
                server.process.send_signal(signal.SIGINT)
                threading.Event().wait(0.05)
        self.assertEqual(server.process.returncode, 128 + signal.SIGINT)
        server.process.stdout.close()

    def test_the_load_test_of_bench_runs_against_a_server(self):
        with Server() as server:
            ended = run("bench", "--server", f"127.0.0.1:{server.tcp_port}", "--clients", "4", "--rate",
                        "20", "--seconds", "1", "--max-tokens", "4", "--json")
            self.assertEqual(ended.returncode, 0, ended.stderr)
            told = json.loads(ended.stdout)
            self.assertEqual((told["requests"], told["failed"]), (20, 0))
            self.assertGreaterEqual(told["whole_ms"]["p99"], told["first_token_ms"]["p50"])


if __name__ == "__main__":
    main()
