# SPDX-License-Identifier: Apache-2.0
"""What each layer of optimisation brings, from the usual pipeline upwards.

  python3 bench/naive [--tokens 200] [--runs 9] [--docs]

The first rung is the 1x: transformers in float32, without a cache, one request at a time. Each following
rung adds one thing. Needs the release build and, for the first rungs, the transformers environment that
`python3 bench/peers` installs."""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))
import forms  # noqa: E402
import install  # noqa: E402
import servers  # noqa: E402
from places import PROGRAM, ROOT, THREADS, model, say, text_of  # noqa: E402
from report import processor, stamp  # noqa: E402

BEGIN, END = "<!-- ladder: begin -->", "<!-- ladder: end -->"
STAGES = ["tokenise", "embed", "forward", "head", "softmax, sort", "post-process"]


def bench(precision, key, *words):
    out = text_of(PROGRAM, "bench", "--model", model(), "--threads", THREADS, "--precision", precision,
                  "--seconds", 2, "--json", *words)
    return json.loads(out)[key][0]["tokens_per_second"]


def naive_rungs(tokens, runs):
    if not install.present("transformers"):
        say("transformers is not installed: the ladder begins with our own forward")
        return [], None
    out = text_of(install.python("transformers"), pathlib.Path(__file__).parent / "pipeline.py",
                  forms.hugging_face(), THREADS, tokens, runs)
    stages = json.loads(out)
    whole = sum(stages[name] for name in STAGES)
    return [("the usual pipeline: float32, no cache, one at a time", whole, 1e3 / whole),
            ("with the library's key and value cache", stages["cached"], 1e3 / stages["cached"])], stages


def our_rungs(tokens):
    rungs = []
    for precision in ("exact", "fast"):
        rate = bench(precision, "prefill", "--prefill", tokens)
        rungs.append((f"our kernels ({precision}), no cache", 1e3 * tokens / rate, rate / tokens))
    for precision in ("exact", "fast"):
        for batch in (1, 8, 32):
            rate = bench(precision, "decode", "--decode", batch, "--context", tokens)
            rungs.append((f"our kernels ({precision}), cached prefix, {batch} at once", 1e3 * batch / rate, rate))
    return rungs


def server_rungs():
    rungs = []
    for precision in ("exact", "fast"):
        server = servers.Foretoken(precision)
        try:
            typed = servers.typed(server)
            rungs.append((f"the server ({precision}), a text typed word by word", typed["p50_ms"],
                          1e3 / typed["p50_ms"]))
        finally:
            server.close()
    return rungs


def table(rungs, stages, tokens):
    when = stamp(1, THREADS)
    base = rungs[0]
    lines = [f"`python3 bench/naive --tokens {tokens}`, {processor()}, {THREADS} threads, {when['date']}, "
             f"commit {when['commit']}.", "", "| rung | latency, ms | predictions/s | to the first |",
             "|---|---|---|---|"]
    for name, latency, rate in rungs:
        lines.append(f"| {name} | {latency:.2f} | {rate:.1f} | {rate / base[2]:.0f}x |")
    if stages:
        lines += ["", "Stages of the first rung: " +
                  ", ".join(f"{name} {stages[name]:.2f} ms" for name in STAGES) + "."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="bench/naive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/performance.md")
    asked = parser.parse_args()
    first, stages = naive_rungs(asked.tokens, asked.runs)
    text = table([*first, *our_rungs(asked.tokens), *server_rungs()], stages, asked.tokens)
    print(text)
    if asked.docs:
        page = ROOT / "docs" / "performance.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN, 1)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
