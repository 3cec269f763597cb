# SPDX-License-Identifier: Apache-2.0
"""Stages of gpu_run that load a server: on one GPU, on two, and with one that is lost."""

import os
import pathlib
import re
import select
import subprocess
import tempfile
import time
import urllib.request

from gpu_programs import loaded, run


START_SECONDS = 120


class Server:
    begun = []

    def __init__(self, at, *words, device="cuda"):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [at.program("foretoken"), "serve", "--model", at.model, "--device", device, "--http",
             "127.0.0.1:0", "--tcp", "127.0.0.1:0", *words, *at.settings], stdout=subprocess.PIPE, stderr=self.log,
            text=True)
        Server.begun.append(self)
        begun = time.monotonic()
        # One that hangs while it loads is not ready, and the stage says so.
        speaks, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if speaks else ""
        self.ready_seconds = time.monotonic() - begun
        found = re.search(r"http=(\S+) tcp=(\S+)", line)
        self.http, self.tcp = found.groups() if found else (None, None)

    def values(self):
        """What /metrics says: name -> value."""
        time.sleep(0.15)  # the page is at most 100 ms old
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as page:
            lines = page.read().decode("utf-8").splitlines()
        return {name: float(value) for name, value in
                (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def sums(self):
        """Name of each histogram on /metrics -> its sum."""
        return {name[:-4]: value for name, value in self.values().items() if name.endswith("_sum")}

    def text(self):
        self.log.seek(0)
        return self.log.read()[-3000:]

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @classmethod
    def stop_all(cls):
        """Those that a stage left when it failed."""
        for server in cls.begun:
            if server.process.poll() is None:
                server.stop()
        cls.begun = []


# Room for 100 sequences of 512 tokens of SmolLM2.
SERVER_SETTINGS = ("--set", "cache.kv_bytes=1126MiB", "--set",
                   "scheduler.step_tokens_max=2048", "--set", "scheduler.prefill_chunk=2048", "--set",
                   "gpu.weights=f16", "--set", "scheduler.sequences_max=256", "--set", "request.open_max=8192", "--set",
                   "actors.worker_threads=4", "--set", "actors.stay_awake=1ms", "--set", "gpu.flights=4")
# With a number of five digits before it: 32 tokens.
PROMPT = ("The quick brown fox jumps over the lazy dog near the river bank while the sun sets slowly "
          "behind the distant hills and the evening air")


def busy_seconds(process):
    """CPU seconds of each thread so far: number and name -> seconds."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        try:
            text = (task / "stat").read_text(encoding="utf-8")
        except OSError:
            continue
        name, rest = text[text.index("(") + 1:].rsplit(")", 1)
        fields = rest.split()
        found[f"{task.name} {name}"] = (int(fields[11]) + int(fields[12])) / ticks
    return found


# As many tokens, and no page in common with it.
OTHER_PROMPT = PROMPT.replace("The quick", "One quick", 1)


def load(at, server, rate, tokens=1, clients=32, seconds=6, prompt=PROMPT):
    code, out, err = run([at.program("foretoken"), "bench", "--server", server.tcp, "--rate", str(rate),
                          "--clients", str(clients), "--max-tokens", str(tokens), "--prompt", prompt,
                          "--logprobs", "10", "--distinct", "--seconds", str(seconds), "--json"], 120)
    return loaded(out) | ({"said": err[-500:]} if code else {})


def smi(query):
    """Rows of what nvidia-smi says, as words; none without it."""
    code, out, _ = run(["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"], 30)
    return [[word.strip() for word in line.split(",")] for line in out.splitlines()] if code == 0 else []


def memory_used():
    """Bytes in use on all GPUs, or None."""
    rows = smi("gpu=memory.used")
    return sum(int(row[0]) for row in rows) << 20 if rows and all(row[0].isdigit() for row in rows) else None


def memory_of(server, before):
    """Device memory of the server in bytes: as its process has it, or, where processes are not told apart, as
    more is in use on all GPUs than before."""
    own = [row[1] for row in smi("compute-apps=pid,used_memory") if row[0] == str(server.process.pid)]
    if own and all(word.isdigit() for word in own):
        return {"bytes": sum(map(int, own)) << 20, "by": "its process"}
    now = memory_used()
    if before is None or now is None:
        return {"bytes": None, "by": "nvidia-smi does not say"}
    return {"bytes": now - before, "by": "more in use than before it"}


DEVICE_BYTES_MAX = 2e9


def targets_of(found):
    """What one server of this size is to reach: name -> (reached, value)."""
    good = [row for row in found["rates"] if row.get("failed") == 0]
    p50 = next((row["whole_ms"]["p50"] for row in good if row["offered"] == 5000), None)
    most = max((row["requests_per_second"] for row in good), default=0)
    taken = found["device_memory"]["bytes"]
    out = {"p50 < 1 ms at 5,000/s": (p50 is not None and p50 < 1, p50),
           ">= 10,000/s": (most >= 10000, most),
           "< 2e9 bytes of device memory": (taken is not None and taken < DEVICE_BYTES_MAX, taken)}
    reached = sum(held for held, _ in out.values())
    return out | {"all three in one server": (reached == 3, reached)}


def stage_server(at):
    """Next-token predictions over TCP: 32-token prompts, 1 token, 10 log-probabilities."""
    used_before = memory_used()
    server = Server(at, *SERVER_SETTINGS)
    if server.tcp is None:
        return {"holds": False, "log": server.text()}
    found = {"ready_seconds": server.ready_seconds, "rates": []}
    for rate in (1000, 2500, 5000, 7500, 10000, 12500, 15000):
        load(at, server, rate, seconds=1, prompt=OTHER_PROMPT)  # a step of a new size is recorded first, which takes 2 ms
        before = busy_seconds(server.process)
        sums = server.sums()
        begun = time.monotonic()
        answers = load(at, server, rate, seconds=4)
        passed = time.monotonic() - begun
        now = server.sums()
        gap, step = (now[name] - sums[name] for name in
                     ("foretoken_executor_gap_seconds", "foretoken_executor_step_seconds"))
        answers["gap_share"] = round(gap / (gap + step), 4) if gap + step > 0 else 0
        busy = {name: round((spent - before.get(name, 0)) / passed, 2)
                for name, spent in busy_seconds(server.process).items()}
        found["rates"].append({"offered": rate} | answers
                              | {"busy": {name: share for name, share in busy.items() if share > 0.02}})
    found["device_memory"] = memory_of(server, used_before)
    found["targets"] = targets_of(found)
    found["exit"] = server.stop()
    found["holds"] = found["exit"] == 0 and all(r.get("failed") == 0 for r in found["rates"])
    found["log"] = server.text()
    return found


def answer_of(at, device):
    words = ["complete", "--model", at.model, "--device", device, "--max-tokens", "64", "--temperature", "0",
             PROMPT]
    return run([at.program("foretoken"), *words], 60)


class Utilisation:
    """The most that each GPU was busy while a load ran: index -> percent. Empty without nvidia-smi."""

    def __enter__(self):
        self.seen = tempfile.TemporaryFile("w+")
        words = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
        try:
            self.process = subprocess.Popen(words, stdout=self.seen, stderr=subprocess.DEVNULL)
        except OSError:
            self.process = None
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def most(self):
        self.seen.seek(0)
        found = {}
        for index, percent in re.findall(r"^([0-9]+), *([0-9]+)$", self.seen.read(), re.M):
            found[index] = max(found.get(index, 0), int(percent))
        return found


PAIR_RATES = (5000, 15000, 20000, 25000, 30000)


def rates_of(at, device):
    """Loads on a server of these devices; None where there is no server, and its log."""
    server = Server(at, *SERVER_SETTINGS, device=device)
    if server.tcp is None:
        return None, server.text()
    load(at, server, 500, seconds=2)
    rows = []
    for rate in PAIR_RATES:
        load(at, server, rate, seconds=1, prompt=OTHER_PROMPT)
        with Utilisation() as busy:
            row = {"offered": rate} | load(at, server, rate, seconds=4)
        rows.append(row | {"gpu_percent": busy.most()})
    return {"rates": rows, "exit": server.stop(),
            "most": max(row.get("requests_per_second", 0) for row in rows)}, server.text()


def stage_pair(at):
    """Two devices in one process: the same answer from either, what two answer a second beside what one does, and
    one lost while it answers."""
    answers = [answer_of(at, device) for device in ("cuda:0", "cuda:1")]
    found = {"same_answer": all(code == 0 and out == answers[0][1] for code, out, _ in answers), "rates": []}
    if not found["same_answer"]:
        found["said"] = " | ".join(err[-600:] for code, _, err in answers if code)
    for name, device in (("one", "cuda:0"), ("two", "cuda:0,1")):
        found[name], log = rates_of(at, device)
        if found[name] is None:
            return found | {"holds": False, "log": log}
    found["rates"] = found["two"]["rates"]
    found["gain"] = round(found["two"]["most"] / found["one"]["most"], 2) if found["one"]["most"] else None
    found["exit"] = found["one"]["exit"] or found["two"]["exit"]
    # One client alone is the first device's, until that has made its steps; then the other's, which
    # has too few to make before the load ends to be lost as well.
    server = Server(at, *SERVER_SETTINGS, "--set", "gpu.fail_at_step=100", device="cuda:0,1")
    if server.tcp is None:
        return found | {"holds": False, "log": server.text()}
    found["lost"] = load(at, server, 5, tokens=16, clients=1, seconds=2)
    try:
        found["left"] = server.values().get("foretoken_executors_up")
    except OSError as gone:
        found["left"] = str(gone)
    found["lost_exit"] = server.stop()
    found["log"] = server.text()
    found["holds"] = (found["same_answer"] and found["exit"] == 0 and found["left"] == 1
                      and found["lost"].get("failed") == 0 and found["lost_exit"] == 0
                      and all(row.get("failed") == 0 for row in found["rates"][:2]))
    return found


def stage_fault(at):
    """A device lost in the middle: every request ends, well where the CPU takes over; the exit code is 70."""
    found = {"holds": True}
    for fallback in ("true", "false"):
        server = Server(at, *SERVER_SETTINGS, "--set", "gpu.fail_at_step=40", "--set",
                        f"gpu.cpu_fallback={fallback}", "--set", "drain.linger=3s")
        if server.tcp is None:
            return {"holds": False, "log": server.text()}
        answers = load(at, server, 40, tokens=16, clients=8, seconds=2)
        try:
            code = server.process.wait(60)
        except subprocess.TimeoutExpired:
            code = server.stop()
        found[f"fallback_{fallback}"] = {"exit": code, "answers": answers, "log": server.text()}
        ended = "failed" in answers  # the load waits for the end of each
        found["holds"] = (found["holds"] and code == 70 and ended
                          and (fallback == "false" or answers["failed"] == 0))
    return found


STAGES = {"server": stage_server, "fault": stage_fault, "pair": stage_pair}


def print_tables(found):
    for row in found.get("server", {}).get("rates", []):
        whole = row.get("whole_ms", {})
        print(f"  server offered {row['offered']:6}: answered {row.get('requests_per_second', 0):9.1f}/s, "
              f"whole answer {whole}, failed {row.get('failed')}, "
              f"without work while requests waited {100 * row.get('gap_share', 0):.1f} %, busy {row.get('busy')}")
    for name, (held, value) in found.get("server", {}).get("targets", {}).items():
        said = "holds" if held else "not measured" if value is None else "missed"
        print(f"  server {name}: {said}{'' if value is None else f' ({value})'}")
    for name in ("one", "two"):
        for row in (found.get("pair", {}).get(name) or {}).get("rates", []):
            print(f"  pair {name} offered {row['offered']:6}: answered {row.get('requests_per_second', 0):9.1f}/s, "
                  f"whole answer {row.get('whole_ms', {})}, failed {row.get('failed')}, busy % {row['gpu_percent']}")
    if found.get("pair", {}).get("gain"):
        print(f"  pair answers {found['pair']['gain']} times as much as one of them")
