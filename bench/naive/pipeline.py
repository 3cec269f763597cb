# SPDX-License-Identifier: Apache-2.0
"""pipeline FOLDER THREADS TOKENS RUNS: one next-word prediction the usual way, timed stage by stage.

transformers in float32, no key and value cache, one request at a time: tokenise the text, embed, run every
layer over the whole prompt, logits of every position, softmax and sort of the vocabulary, text of the five
best. Prints one JSON object with the median of each stage in milliseconds; `cached` is a step with the
library's own cache instead."""

import json
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WORDS = ("The meeting began a little later than planned because the projector would not start and nobody "
         "remembered where the cable was kept after the last presentation ")


class Clock:
    def __init__(self):
        self.stages = {}
        self.at = time.perf_counter()

    def mark(self, stage):
        now = time.perf_counter()
        self.stages.setdefault(stage, []).append(1e3 * (now - self.at))
        self.at = time.perf_counter()

    def restart(self):
        self.at = time.perf_counter()


def prompt_text(words, tokens):
    """A text of exactly `tokens` tokens."""
    ids = words(WORDS * (1 + tokens // 20))["input_ids"][:tokens]
    return words.decode(ids)


def ids_of(words, text):
    return torch.tensor([words(text)["input_ids"]])


def texts_of(words, best):
    return [(words.decode([index]), float(best.values[rank]))
            for rank, index in enumerate(best.indices[:5].tolist())]


def predict(model, words, text, clock):
    clock.restart()
    ids = ids_of(words, text)
    clock.mark("tokenise")
    embedded = model.model.embed_tokens(ids)
    clock.mark("embed")
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    clock.mark("forward")
    logits = model.lm_head(hidden)
    clock.mark("head")
    best = torch.sort(torch.softmax(logits[0, -1], dim=-1), descending=True)
    clock.mark("softmax, sort")
    answer = texts_of(words, best)
    clock.mark("post-process")
    return answer


def predict_last_only(model, words, text, clock):
    clock.restart()
    logits = model(ids_of(words, text), use_cache=False, logits_to_keep=1).logits
    texts_of(words, torch.sort(torch.softmax(logits[0, -1], dim=-1), descending=True))
    clock.mark("last_only")


def cached_step(model, words, text, clock):
    """The token behind the text, whose keys and values are there."""
    past = model(ids_of(words, text), use_cache=True, logits_to_keep=1)
    clock.restart()
    out = model(past.logits[:, -1].argmax(-1)[:, None], past_key_values=past.past_key_values, use_cache=True)
    texts_of(words, torch.sort(torch.softmax(out.logits[0, -1], dim=-1), descending=True))
    clock.mark("cached")


def main():
    folder, threads, tokens, runs = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = prompt_text(words, tokens)
    clock = Clock()
    for run in (predict, predict_last_only, cached_step):
        run(model, words, text, Clock())  # warm
    for _ in range(runs):
        for run in (predict, predict_last_only, cached_step):
            run(model, words, text, clock)
    medians = {stage: statistics.median(times) for stage, times in clock.stages.items()}
    print(json.dumps({"tokens": ids_of(words, text).shape[1], **medians}))


main()
