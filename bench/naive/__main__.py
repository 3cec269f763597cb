# SPDX-License-Identifier: Apache-2.0
"""What each layer of optimisation brings, from the usual pipeline upwards.

  python3 bench/naive [--tokens 200] [--parts pipeline,kernels,server] [--docs]
  python3 bench/naive --smoke         the parts that need no other engine, briefly; nothing is kept

The first rung is the 1x: transformers in float32, without a cache, one request at a time. Each following
rung adds one thing. Needs the release build and, for the part `pipeline`, the transformers environment that
`python3 bench/peers` installs. A part's figures are kept beside the peers (ladder.json), so that the parts may
run one by one; the table is of what was measured last of each."""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))
import forms  # noqa: E402
import install  # noqa: E402
import served  # noqa: E402
from places import (PEERS, PROGRAM, ROOT, THREADS, model, say, skip_without_model, text_of,  # noqa: E402
                    write_json)
from report import processor, stamp  # noqa: E402

BEGIN, END = "<!-- ladder: begin -->", "<!-- ladder: end -->"
STAGES = ["tokenise", "embed", "forward", "head", "softmax, sort", "post-process"]
PRECISIONS = ["exact", "fast"]
BATCHES = [1, 8, 32]
KEPT = PEERS / "ladder.json"


# ---- measuring ----

def measure_pipeline(tokens, runs, _):
    if not install.present("transformers"):
        raise SystemExit("transformers is not installed: python3 bench/peers installs it")
    return json.loads(text_of(install.python("transformers"), pathlib.Path(__file__).parent / "pipeline.py",
                              forms.hugging_face(), THREADS, tokens, runs))


def measure_kernels(tokens, _, smoke):
    found = {}
    for precision in PRECISIONS:
        found[precision] = json.loads(text_of(
            PROGRAM, "bench", "--model", model(), "--threads", THREADS, "--precision", precision, "--seconds",
            0.1 if smoke else 2,
            "--json", "--prefill", tokens, "--decode", *BATCHES, "--context", tokens))
    return found


def measure_server(tokens, _, smoke):
    load = served.SMOKE if smoke else served.Load()
    return {precision: served.measure(precision, tokens, load) for precision in PRECISIONS}


PARTS = {"pipeline": measure_pipeline, "kernels": measure_kernels, "server": measure_server}


# ---- the rungs: (what, latency in ms, predictions a second) ----

def pipeline_rungs(found, _):
    whole = sum(found[name] for name in STAGES)
    return [("transformers, float32, no cache, one at a time", whole, 1e3 / whole),
            ("... logits of the last position only", found["last_only"], 1e3 / found["last_only"]),
            ("... with the library's cache of keys and values", found["cached"], 1e3 / found["cached"])]


def kernel_rungs(found, tokens):
    rungs = []
    for precision in PRECISIONS:
        rate = found[precision]["prefill"][0]["tokens_per_second"]
        rungs.append((f"our forward ({precision}), no cache", 1e3 * tokens / rate, rate / tokens))
    for precision in PRECISIONS:
        for row in found[precision]["decode"]:
            rate = row["tokens_per_second"]
            rungs.append((f"our forward ({precision}), cached prefix, {row['batch']} at once",
                          1e3 * row["batch"] / rate, rate))
    return rungs


LOADS = {"fresh": "text never seen", "typed": "text typed word by word",
         "crowd": f"{served.CLIENTS} texts typed at once"}


def server_rungs(found, _):
    return [(f"the server ({precision}), {words}", found[precision][load]["latency_ms"],
             found[precision][load]["predictions_per_second"])
            for precision in PRECISIONS for load, words in LOADS.items()]


RUNGS = {"pipeline": pipeline_rungs, "kernels": kernel_rungs, "server": server_rungs}


# ---- the page ----

def rung_table(kept, tokens):
    lines = ["| rung | latency, ms | predictions/s | to the first | part |", "|---|---|---|---|---|"]
    first = None
    for part, rungs in RUNGS.items():
        if part not in kept:
            continue
        for name, latency, rate in rungs(kept[part]["found"], tokens):
            first = first or rate
            lines.append(f"| {name} | {latency:.2f} | {rate:.1f} | {rate / first:.1f}x | {part} |")
    return lines


def stage_table(kept):
    lines = []
    if "pipeline" in kept:
        found = kept["pipeline"]["found"]
        lines += ["", f"Stages of the first rung, ms ({found['tokens']} tokens): " +
                  ", ".join(f"{name} {found[name]:.2f}" for name in STAGES) + "."]
    if "server" in kept:
        lines += ["", "Stages of the server's, mean ms (a step embeds, computes all layers and the head and chooses "
                  "the token; the rest is HTTP, queue, actors and text):", "",
                  "| server | tokenise | steps | rest |", "|---|---|---|---|"]
        for precision, loads in kept["server"]["found"].items():
            for load in ("fresh", "typed"):
                row = loads[load]["stages"]
                lines.append(f"| {precision}, {LOADS[load]} | {row['tokenise']:.2f} | {row['steps']:.2f} | "
                             f"{row['rest']:.2f} |")
    return lines


def page_of(kept, tokens):
    lines = [f"One next word behind {tokens} tokens of text, SmolLM2-135M-Instruct Q4_1 (the first part: its weights "
             f"dequantised). {processor()}, {THREADS} threads.", ""]
    for part in PARTS:
        if part in kept:
            lines.append(f"- {part}: `python3 bench/naive --parts {part} --tokens {tokens}`, {kept[part]['date']}, "
                         f"commit {kept[part]['commit']}")
    return "\n".join([*lines, "", *rung_table(kept, tokens), *stage_table(kept)])


def into_docs(text):
    page = ROOT / "docs" / "performance.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN, 1)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def smoke_page(tokens):
    parts = {part: {**stamp(1, THREADS), "found": PARTS[part](tokens, 1, True)} for part in ("kernels", "server")}
    return page_of(parts, tokens)


def main():
    parser = argparse.ArgumentParser(prog="bench/naive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--runs", type=int, default=15, help="of the pipeline; each stage is their median")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure now; empty: only the table")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        skip_without_model()
        return print(smoke_page(40))
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for part in filter(None, asked.parts.split(",")):
        say(f"measuring {part}")
        kept[part] = {**stamp(1, THREADS), "tokens": asked.tokens, "found": PARTS[part](asked.tokens, asked.runs, False)}
        write_json(KEPT, kept)
    text = page_of({part: row for part, row in kept.items() if row["tokens"] == asked.tokens}, asked.tokens)
    print(text)
    if asked.docs:
        into_docs(text)


if __name__ == "__main__":
    main()
