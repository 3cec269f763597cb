# SPDX-License-Identifier: Apache-2.0
"""One server, many streams: concurrency, cancellation, vanished clients, prefix reuse, metrics."""

import random
import subprocess
import threading
import unittest

from server import Lines, Server, main

SAMPLED = {"max_tokens": 24, "temperature": 0.8, "seed": 7}
SYSTEM = "You are the clerk of a harbour. " + "Write the name of every ship in the book. " * 100


def in_threads(count, work):
    """Runs work(i) on threads of its own and returns the results; raises what any of them raised."""
    results, failures = [None] * count, []

    def run(index):
        try:
            results[index] = work(index)
        except BaseException as failure:  # shown below, on the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


class StreamsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--set", "log.level=warn")

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    def setUp(self):
        self.server.wait_idle()

    def line_text(self, prompt, **parameters):
        with Lines(self.server) as lines:
            return lines.generate(prompt, **parameters)

    def test_64_streams_finish_with_the_bytes_of_a_lone_run(self):
        prompts = [f"Story number {index}: once upon a time" for index in range(64)]
        alone = [self.line_text(prompt, **SAMPLED) for prompt in prompts[:8]]
        together = in_threads(64, lambda index: self.line_text(prompts[index], **SAMPLED))
        self.assertEqual(together[:8], alone)
        self.assertTrue(all(together))
        self.server.wait_idle()

    def test_a_cancelled_stream_ends_and_frees_its_pages(self):
        with Lines(self.server) as lines:
            lines.send(op="generate", id="x", prompt="Count:", max_tokens=4000, ignore_eos=True)
            self.assertEqual(lines.receive()["event"], "token")
            lines.send(op="cancel", id="x")
            _, end = lines.collect("x")
            self.assertEqual((end["event"], end["finish_reason"]), ("done", "cancelled"))
            lines.send(op="cancel", id="unknown")
            self.assertTrue(lines.generate("The sea", max_tokens=4, temperature=0))
        self.server.wait_idle()

    def test_vanished_clients_free_their_pages(self):
        def vanish(index):
            lines = Lines(self.server)
            lines.send(op="generate", id="x", prompt=f"Tale {index}", max_tokens=4000, ignore_eos=True)
            lines.receive()
            lines.reset()

        in_threads(16, vanish)
        self.server.wait_idle()

    def test_1000_random_aborts_disturb_nobody(self):
        chance = random.Random(11)
        quiet = {"max_tokens": 150, "temperature": 0.8, "seed": 3, "ignore_eos": True}
        expected = self.line_text("A long walk", **quiet)
        plans = [[(chance.random() < 0.5, chance.randrange(4)) for _ in range(125)] for _ in range(8)]
        done = threading.Event()

        def abort(plan):
            for by_reset, tokens in plan:
                lines = Lines(self.server)
                lines.send(op="generate", id="x", prompt="Noise", max_tokens=500, ignore_eos=True)
                for _ in range(tokens):
                    lines.receive()
                if by_reset:
                    lines.reset()
                else:
                    lines.send(op="cancel", id="x")
                    lines.collect("x")
                    lines.close()

        def watch():
            texts = [self.line_text("A long walk", **quiet)]
            while not done.is_set():
                texts.append(self.line_text("A long walk", **quiet))
            return texts

        texts = []
        watcher = threading.Thread(target=lambda: texts.extend(watch()))
        watcher.start()
        try:
            in_threads(8, lambda index: abort(plans[index]))
        finally:
            done.set()
            watcher.join()
        self.assertEqual(set(texts), {expected})
        self.server.wait_idle()

    def test_an_extended_prompt_computes_only_what_is_new(self):
        parameters = {"max_tokens": 8, "temperature": 0}
        first = "In the old town there stood a tower. " * 8
        cold = self.server.completion(first + "Its door", cache_salt="cold", **parameters)
        self.server.completion(first, **parameters)
        warm = self.server.completion(first + "Its door", **parameters)
        self.assertEqual(warm["choices"][0]["text"], cold["choices"][0]["text"])
        usage = warm["usage"]
        self.assertEqual(cold["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertGreater(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"] * 0.8)

    def test_one_system_prompt_of_64_clients_is_computed_once(self):
        def ask(index):
            status, answer = self.server.post("/v1/chat/completions", {
                "messages": [{"role": "system", "content": SYSTEM},
                             {"role": "user", "content": f"Question {index}?"}],
                "max_tokens": 2, "temperature": 0, "cache_salt": "once"})
            self.assertEqual(status, 200, answer)
            return answer["usage"]

        first = ask(1000)
        self.assertGreater(first["prompt_tokens"], 900)
        usages = in_threads(64, ask)
        shared = first["prompt_tokens"] - 32
        for usage in usages:
            self.assertGreaterEqual(usage["prompt_tokens_details"]["cached_tokens"], shared)

    def test_the_metrics_say_what_runs_here(self):
        self.line_text("The sea", max_tokens=4, temperature=0)
        build = next(line for line in self.server.metrics_page().splitlines()
                     if line.startswith("foretoken_build_info{"))
        self.assertIn('backend="cpu"', build)
        self.assertGreaterEqual(self.server.metric("foretoken_cpu_threads_working"), 1)

    def test_promtool_accepts_the_metrics(self):
        self.line_text("The sea", max_tokens=4, temperature=0)
        page = self.server.metrics_page()
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, text=True,
                                 capture_output=True, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)


if __name__ == "__main__":
    main()
