# SPDX-License-Identifier: Apache-2.0
"""What every worker shares: one JSON object a line in, one out. A worker loads its model, says it is
ready, then measures what it is asked.

  {"op":"prefill","tokens":N,"seconds":S}          -> {"tokens_per_second":R}
  {"op":"decode","batch":B,"context":C,"seconds":S} -> {"tokens_per_second":R}
  {"op":"next","prompts":[[ids],...]}               -> {"tokens":[id,...]}   the most probable next token
"""

import json
import os
import random
import statistics
import sys
import time

VOCABULARY = 49152
DECODED = 32  # tokens of a decode measurement


def prompts(count, tokens):
    """Fresh random ids: nothing an engine has seen before."""
    return [[random.randrange(100, VOCABULARY) for _ in range(tokens)] for _ in range(count)]


def timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def repeat(measure, seconds):
    """The median of measure() over at least three runs and `seconds`."""
    measure()
    values = []
    end = time.perf_counter() + seconds
    while len(values) < 3 or time.perf_counter() < end:
        values.append(measure())
    return statistics.median(values)


class Engine:
    """What an engine must do; generate() takes lists of ids and computes exactly `tokens` new ones each."""

    def generate(self, prompts, tokens):
        raise NotImplementedError

    def prefill(self, tokens, seconds):
        return tokens / repeat(lambda: timed(lambda: self.generate(prompts(1, tokens), 1)), seconds)

    def decode(self, batch, context, seconds):
        """The time of the tokens behind the first: a long generation less one that ends at the first."""
        def measure():
            asked = prompts(batch, context)
            first = timed(lambda: self.generate(asked, 1))
            asked = prompts(batch, context)
            return batch * DECODED / max(timed(lambda: self.generate(asked, 1 + DECODED)) - first, 1e-9)
        return repeat(measure, seconds)


def serve(engine):
    """`engine`: an Engine that has loaded its model."""
    # Libraries print; the protocol has the real stdout for itself.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = engine()
    print(json.dumps({"ready": engine.generate(prompts(1, 4), 1) is not None}), file=out)
    for line in sys.stdin:
        asked = json.loads(line)
        op = asked.pop("op")
        if op == "next":
            answer = {"tokens": [row[0] for row in engine.generate(asked["prompts"], 1)]}
        else:
            answer = {"tokens_per_second": getattr(engine, op)(**asked)}
        print(json.dumps(answer), file=out)
