# SPDX-License-Identifier: Apache-2.0
"""Every engine behind one face: prefill(tokens), decode(batch, context), next(prompts). Engines that are
programs are run for each figure; engines that are libraries sit in a worker process, stopped by a signal
while another engine is measured, so that no waiting thread of theirs takes time."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import threading
import time

import forms
import servers
from install import llama_tool, present, python
from places import PROGRAM, THREADS, environment, model, say

SECONDS = 1.0  # of each figure
ANSWER_TIMEOUT = 900


class Failed(Exception):
    """An engine could not do what it was asked; the others go on."""


@dataclasses.dataclass
class Spec:
    """`peer`: what must be installed; `make`: gives the engine."""
    name: str
    kind: str
    peer: str
    make: object


class Program:
    """An engine that is a command line."""
    peak_bytes = 0
    served = None

    def server(self):
        """The same engine behind its own server, for next()."""
        raise NotImplementedError

    def next(self, prompts):
        try:
            self.served = self.served or self.server()
            client = self.served.client()
            found = [self.served.next_id(client, prompt) for prompt in prompts]
            client.close()
            return found
        except (RuntimeError, OSError, ValueError, KeyError, IndexError, http.client.HTTPException) as why:
            raise Failed(f"its server: {why}") from why

    def run(self, *words):
        begin = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=err, env=environment())
            late = threading.Timer(ANSWER_TIMEOUT, process.kill)
            late.start()
            _, status, usage = os.wait4(process.pid, 0)  # the peak of this process alone
            late.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
            self.seconds = time.perf_counter() - begin
            self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
            out.seek(0)
            err.seek(0)
            if process.returncode != 0:
                raise Failed(f"{words[0]} ended with {process.returncode}: {err.read().strip()[-400:]}")
            return out.read()

    def close(self):
        if self.served:
            self.served.close()


class Foretoken(Program):
    def __init__(self, precision):
        self.precision = precision
        self.flags = ["--model", model(), "--threads", THREADS, "--precision", precision]

    def server(self):
        return servers.Foretoken(self.precision)

    def figure(self, key, *words):
        out = self.run(PROGRAM, "bench", *self.flags, "--seconds", SECONDS, "--json", *words)
        return json.loads(out)[key][0]["tokens_per_second"]

    def prefill(self, tokens):
        return self.figure("prefill", "--prefill", tokens)

    def decode(self, batch, context):
        return self.figure("decode", "--decode", batch, "--context", context)


class LlamaCpp(Program):
    def __init__(self, kind):
        self.kind = kind
        self.file = forms.llama_file(kind)

    def server(self):
        return servers.LlamaServer(self.kind)

    def prefill(self, tokens):
        out = self.run(llama_tool("llama-bench"), "-m", self.file, "-p", tokens, "-n", 0, "-t", THREADS,
                       "-fa", 1, "-r", 5, "-o", "json")
        samples = sorted(json.loads(out)[0]["samples_ts"])
        return samples[len(samples) // 2]

    def decode(self, batch, context):
        out = self.run(llama_tool("llama-batched-bench"), "-m", self.file, "-npp", context, "-ntg", 32,
                       "-npl", batch, "-t", THREADS, "-tb", THREADS, "-fa", "on",
                       "-c", batch * (context + 64), "-b", 2048, "-ub", 512, "--output-format", "jsonl")
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return rows[-1]["speed_tg"]


class Worker:
    """A library in a process of its own."""

    def __init__(self, peer, script, *words):
        threads = str(THREADS)
        self.process = subprocess.Popen(
            [str(word) for word in [python(peer), "-m", f"workers.{script}", *words]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
            cwd=pathlib.Path(__file__).parent, start_new_session=True,
            env=environment(OMP_NUM_THREADS=threads, VLLM_CPU_KVCACHE_SPACE="2",
                            VLLM_CPU_OMP_THREADS_BIND="auto"))
        self.read()
        self.signal(signal.SIGSTOP)

    def read(self):
        if not select.select([self.process.stdout], [], [], ANSWER_TIMEOUT)[0]:
            self.close()
            raise Failed("no answer in time")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"the worker ended ({self.process.wait()})")
        return json.loads(line)

    def signal(self, which):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(self.process.pid, which)

    def ask(self, op, **what):
        if self.process.poll() is not None:
            raise Failed(f"the worker ended ({self.process.returncode})")
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"op": op, **what}) + "\n")
            self.process.stdin.flush()
            return self.read()
        except BrokenPipeError as why:
            raise Failed("the worker ended") from why
        finally:
            if self.process.poll() is None:
                self.signal(signal.SIGSTOP)

    def prefill(self, tokens):
        return self.ask("prefill", tokens=tokens, seconds=SECONDS)["tokens_per_second"]

    def decode(self, batch, context):
        return self.ask("decode", batch=batch, context=context, seconds=SECONDS)["tokens_per_second"]

    def next(self, prompts):
        return self.ask("next", prompts=prompts)["tokens"]

    @property
    def peak_bytes(self):
        """Of all processes of the worker's session."""
        total = 0
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(entry.name)) != self.process.pid:
                    continue
                for line in (entry / "status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1]) * 1024
            except (OSError, ProcessLookupError):
                continue
        return total

    def close(self):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.stdin.close()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.process.wait()


CATALOGUE = [
    Spec("foretoken", "exact", "", lambda: Foretoken("exact")),
    Spec("foretoken", "fast", "", lambda: Foretoken("fast")),
    *[Spec("llama.cpp", kind, "llama", lambda kind=kind: LlamaCpp(kind))
      for kind in ["Q4_1", *forms.LLAMA_TYPES]],
    *[Spec("openvino", kind, "openvino",
           lambda kind=kind: Worker("openvino", "openvino_worker", forms.openvino(kind), THREADS))
      for kind in forms.OPENVINO_TYPES],
    Spec("vllm", "bf16", "vllm", lambda: Worker("vllm", "vllm_worker", forms.hugging_face())),
    Spec("vllm", "w8a8", "vllm", lambda: Worker("vllm", "vllm_worker", forms.w8a8())),
    Spec("ctranslate2", "int8", "ctranslate2",
         lambda: Worker("ctranslate2", "ctranslate2_worker", forms.ctranslate2("int8"), THREADS,
                        forms.hugging_face())),
    *[Spec("transformers", kind, "transformers",
           lambda kind=kind: Worker("transformers", "transformers_worker", forms.hugging_face(), THREADS, kind))
      for kind in ["float32", "bfloat16"]],
]


def start(only=()):
    """Starts every engine that is there: ({label: engine}, {label: why not})."""
    running, missing = {}, {}
    for spec in CATALOGUE:
        label = f"{spec.name} {spec.kind}"
        if only and not any(word in label for word in only):
            continue
        if spec.peer and not present(spec.peer):
            missing[label] = "not installed"
            continue
        say(f"starting {label}")
        try:
            running[label] = spec.make()
        except (Failed, OSError, subprocess.CalledProcessError, ValueError) as why:
            missing[label] = str(why)
            say(f"{label} is left out: {why}")
    return running, missing
