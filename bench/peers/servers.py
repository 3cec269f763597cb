# SPDX-License-Identifier: Apache-2.0
"""Next-token latency through each engine's own HTTP server, on loopback, keep-alive, one token a request:
fresh prompts with caches off, a text typed word by word with caches on, and 64 clients at once."""

import concurrent.futures
import functools
import http.client
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import time

import forms
from install import llama_tool, present, python
from places import PROGRAM, REFERENCE, THREADS, environment, model, say

FRESH = 200
PROMPT_TOKENS = 16
CLIENTS = 64
START_TIMEOUT = 300


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fresh_prompt():
    return [random.randrange(100, 49152) for _ in range(PROMPT_TOKENS)]


@functools.cache
def ids_of_pieces():
    """{text of a token: its id}, from the tokenizer file of the model's float32 form."""
    tokenizer = json.loads((forms.hugging_face() / "tokenizer.json").read_text(encoding="utf-8"))
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    found = {bytes(byte_of[letter] for letter in piece).decode("utf-8", "replace"): index
             for piece, index in tokenizer["model"]["vocab"].items() if all(letter in byte_of for letter in piece)}
    found = {text: index for text, index in found.items() if "\ufffd" not in text}
    return found | {each["content"]: each["id"] for each in tokenizer["added_tokens"]}


class Server:
    """`command(port)` starts it; body(prompt, cached) is the request for one token."""

    path = "/v1/completions"

    def __init__(self):
        self.port = free_port()
        begin = time.perf_counter()
        self.process = subprocess.Popen([str(word) for word in self.command(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        env=environment(VLLM_CPU_KVCACHE_SPACE="2"))
        while True:
            try:
                client = self.client()
                client.ask([1, 2, 3], False)
                client.close()
                break
            except (OSError, http.client.HTTPException, ValueError):
                if self.process.poll() is not None or time.perf_counter() - begin > START_TIMEOUT:
                    self.close()
                    raise RuntimeError("the server did not start") from None
                time.sleep(0.02)
        self.ready_seconds = time.perf_counter() - begin

    def client(self):
        return Client(self)

    def body(self, prompt, cached):
        return {"model": self.name, "prompt": prompt, "max_tokens": 1, "temperature": 0}

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Foretoken(Server):
    name = "foretoken"

    def __init__(self, precision):
        self.precision = precision
        super().__init__()

    def command(self, port):
        return [PROGRAM, "serve", "--model", model(), "--http", f"127.0.0.1:{port}", "--tcp", "127.0.0.1:0",
                "--threads", THREADS, "--precision", self.precision, "--log-level", "error"]


    def next_id(self, client, prompt):
        """The id of the most probable token behind the prompt's ids; None: its bytes are a part of a character,
        which the answer's text does not tell apart."""
        answer = client.answer(self.path, {**self.body(prompt, True), "logprobs": 1})
        return ids_of_pieces().get(answer["choices"][0]["logprobs"]["tokens"][0])


class LlamaServer(Server):
    name = "llama"
    path = "/completion"

    def __init__(self, kind):
        self.file = forms.llama_file(kind)
        super().__init__()

    def command(self, port):
        return [llama_tool("llama-server"), "-m", self.file, "--host", "127.0.0.1", "--port", port,
                "-t", THREADS, "-tb", THREADS, "-fa", "on", "-np", 16, "-c", 16 * 1024, "--no-webui"]

    def body(self, prompt, cached):
        return {"prompt": prompt, "n_predict": 1, "temperature": 0, "cache_prompt": cached}

    def next_id(self, client, prompt):
        return client.answer(self.path, {**self.body(prompt, True), "return_tokens": True})["tokens"][0]


class VllmServer(Server):
    name = "served"

    def command(self, port):
        return [python("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", forms.hugging_face(),
                "--served-model-name", self.name, "--dtype", "bfloat16", "--max-model-len", "2048",
                "--host", "127.0.0.1", "--port", port, "--enable-prefix-caching"]


class Client:
    """One keep-alive connection."""

    def __init__(self, server):
        self.server = server
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path, body):
        self.connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {text[:200]!r}")
        return text

    def answer(self, path, body):
        return json.loads(self.post(path, json.dumps(body)))

    def ask(self, prompt, cached):
        """Seconds until one token was there."""
        body = json.dumps(self.server.body(prompt, cached))
        begin = time.perf_counter()
        self.post(self.server.path, body)
        return time.perf_counter() - begin

    def close(self):
        self.connection.close()


def quantiles(times):
    ordered = sorted(times)
    return {"p50_ms": 1e3 * statistics.median(ordered),
            "p99_ms": 1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], "requests": len(ordered)}


def fresh(server, count):
    client = server.client()
    for _ in range(5):
        client.ask(fresh_prompt(), False)
    times = [client.ask(fresh_prompt(), False) for _ in range(count)]
    client.close()
    return quantiles(times)


def typed(server):
    """The first k words of a 120-word text, k = 1, 2, ...: each prompt extends the one before."""
    words = re.findall(r"\S+", (REFERENCE / "texts" / "story.txt").read_text())[:120]
    client = server.client()
    times = [client.ask(" ".join(words[:count]), True) for count in range(1, len(words) + 1)]
    client.close()
    return quantiles(times)


def crowd(server, seconds):
    """CLIENTS connections, each asking again as soon as it was answered."""
    end = time.perf_counter() + seconds
    answered = [0] * CLIENTS
    times = []

    def work(index):
        client = server.client()
        while time.perf_counter() < end:
            times.append(client.ask(fresh_prompt(), False))
            answered[index] += time.perf_counter() < end
        client.close()

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))  # raises what a client raised
    return {**quantiles(times), "requests_per_second": sum(answered) / seconds}


def catalogue():
    found = {"foretoken exact": lambda: Foretoken("exact"), "foretoken fast": lambda: Foretoken("fast")}
    if present("llama"):
        for kind in ["Q4_0", "Q4_1", "BF16"]:
            found[f"llama-server {kind}"] = lambda kind=kind: LlamaServer(kind)
    if present("vllm"):
        found["vllm bf16"] = VllmServer
    return found


def measure(rounds, only=(), smoke=False):
    """One server runs at a time; the rounds go round all of them."""
    figures = {}
    for turn in range(rounds):
        for label, start in catalogue().items():
            if only and not any(word in label for word in only):
                continue
            try:
                server = start()
            except (RuntimeError, OSError, subprocess.CalledProcessError) as why:
                say(f"{label} is left out: {why}")
                continue
            try:
                row = {"ready_seconds": server.ready_seconds, "fresh": fresh(server, 20 if smoke else FRESH),
                       "typed": typed(server), "crowd": crowd(server, 2 if smoke else 10)}
                figures.setdefault(label, []).append(row)
                say(f"round {turn + 1} {label}: fresh p50 {row['fresh']['p50_ms']:.1f} ms, typed p50 "
                    f"{row['typed']['p50_ms']:.1f} ms, {row['crowd']['requests_per_second']:.0f} requests/s")
            except (ValueError, OSError, http.client.HTTPException) as why:
                say(f"{label} fails: {why}")
            finally:
                server.close()
    return figures
