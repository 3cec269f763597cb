# SPDX-License-Identifier: Apache-2.0
"""The server's rungs: one request a prediction over HTTP on loopback, its clients in a process of their own.

The prompts have the ladder's number of tokens; typed ones that many in the middle of the typing. Where a request's time goes comes from the
server's own histograms (/metrics) of the same requests; tokenising is what /tokenize takes longer than
/healthz."""

import concurrent.futures
import dataclasses
import http.client
import json
import re
import statistics
import threading
import time

import servers
from places import REFERENCE

CLIENTS = 32
KNOWN_TIMEOUT = 300  # seconds until the server knows every client's text


@dataclasses.dataclass(frozen=True)
class Load:
    requests: int = 60  # of each kind, one after the other
    clients: int = CLIENTS
    seconds: float = 6  # of all clients at once


PUBLISHED_EVERY = 1  # seconds, by the server's metrics
SMOKE = Load(requests=6, clients=4, seconds=0.3)


def words_of_all_texts():
    found = []
    for path in sorted((REFERENCE / "texts").glob("*.txt")):
        if path.stem != "multilingual":
            found += re.findall(r"\S+", path.read_text(encoding="utf-8"))
    return found


class Calls:
    """Small requests beside the measured ones."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)

    def ask(self, method, path, body=None):
        sent = None if body is None else json.dumps(body)
        self.connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"{path}: status {answer.status}: {text[:200]}")
        return text

    def tokens(self, text):
        answer = json.loads(self.ask("POST", "/tokenize", {"text": text}))
        return len(answer["tokens"])

    def milliseconds(self, times, *what):
        def once():
            begin = time.perf_counter()
            self.ask(*what)
            return 1e3 * (time.perf_counter() - begin)
        return statistics.median(once() for _ in range(times))

    def milliseconds_in(self, histogram):
        """The sum of what it counted so far, once the server has published it."""
        time.sleep(1.2 * PUBLISHED_EVERY)
        found = re.search(rf"^{histogram}_sum (\S+)", self.ask("GET", "/metrics"), re.MULTILINE)
        return 1e3 * float(found.group(1))


def window(words, first, calls, tokens):
    """Words from `first` on that are at least `tokens` tokens and as few as can be."""
    count = tokens // 2
    while calls.tokens(" ".join(words[first:first + count])) < tokens:
        count += 1
    return count


STEP = "foretoken_executor_step_seconds"


def staged(calls, client, prompts, tokenise):
    """The median latency of the prompts, one after the other, and the mean time of each stage."""
    before = calls.milliseconds_in(STEP)
    times = [1e3 * client.ask(prompt, True) for prompt in prompts]
    steps = (calls.milliseconds_in(STEP) - before) / len(prompts)
    latency = statistics.median(times)
    rest = statistics.mean(times) - tokenise - steps
    return {"latency_ms": latency, "predictions_per_second": 1e3 / latency,
            "stages": {"tokenise": tokenise, "steps": steps, "rest": rest}}


def crowd(server, words, count, load):
    """load.clients people type at once, each a text of its own that the server knows up to the last word."""
    times, answered, spans = [], [0] * load.clients, [0.0] * load.clients
    all_known = threading.Barrier(load.clients)

    def work(index):
        first, length = 40 * index, count - load.requests // 2
        try:
            client = server.client()
            client.ask(" ".join(words[first:first + length]), True)
        except Exception:
            all_known.abort()  # the others must not wait for this one
            raise
        all_known.wait(KNOWN_TIMEOUT)
        begin = time.perf_counter()
        while time.perf_counter() < begin + load.seconds:
            length += 1
            times.append(client.ask(" ".join(words[first:first + length]), True))
            answered[index] += 1
        spans[index] = time.perf_counter() - begin
        client.close()

    with concurrent.futures.ThreadPoolExecutor(load.clients) as pool:
        running = [pool.submit(work, index) for index in range(load.clients)]
    failures = [each.exception() for each in running if each.exception()]
    if failures:  # the cause before those that it stopped
        raise min(failures, key=lambda why: isinstance(why, threading.BrokenBarrierError))
    return {"latency_ms": 1e3 * statistics.median(times), "predictions_per_second": sum(answered) / max(spans)}


def measure(precision, tokens, load=Load()):
    """{load: {latency_ms, predictions_per_second, stages}} of one server."""
    words = words_of_all_texts()
    server = servers.Foretoken(precision)
    try:
        calls, client = Calls(server), server.client()
        count = window(words, 0, calls, tokens)
        prompt = " ".join(words[:count])
        tokenise = max(0.0, calls.milliseconds(load.requests, "POST", "/tokenize", {"text": prompt}) -
                       calls.milliseconds(load.requests, "GET", "/healthz"))
        # No two of these begin alike.
        fresh = [f"{number}. {prompt}" for number in range(load.requests)]
        begin = count - load.requests // 2
        typed = [" ".join(words[:begin + more]) for more in range(load.requests + 1)]
        client.ask(typed[0], True)
        found = {"fresh": staged(calls, client, fresh, tokenise),
                 "typed": staged(calls, client, typed[1:], tokenise),
                 "crowd": crowd(server, words, count, load)}
        client.close()
        return found
    finally:
        server.close()
