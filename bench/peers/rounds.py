# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: at each point every engine is measured one after the other, so that a paired ratio
compares figures of the same minute."""

import json
import re
import statistics

from engines import Failed
from places import PROGRAM, REFERENCE, THREADS, say, text_of

PREFILLS = [16, 32, 128, 512]
DECODES = [(batch, 128) for batch in (1, 2, 4, 8, 16, 32, 64)] + [(1, 512), (8, 512)]
OURS = "foretoken"


def points(smoke):
    if smoke:
        return [("prefill", (16,)), ("decode", (1, 16))]
    return [("prefill", (n,)) for n in PREFILLS] + [("decode", each) for each in DECODES]


def name_of(point):
    kind, size = point
    return f"prefill {size[0]}" if kind == "prefill" else f"decode {size[0]} at {size[1]}"


def ceilings():
    """The peaks of this minute: integer multiply-adds (GMAC/s), and reading 96 MiB on huge pages (GB/s)."""
    out = text_of(PROGRAM.parent / "peaks_bench", "--threads", THREADS)
    def median(name):
        found = re.search(rf"^{name} +median +([\d.]+)", out, re.MULTILINE)
        return float(found.group(1)) if found else None
    return {"gmac_per_second": median("multiply-add"), "stream_gb_per_second": median("stream")}


def measure(running, rounds, smoke=False):
    """{point: {label: [figure a round]}} and the ceilings of each round."""
    figures = {name_of(point): {label: [] for label in running} for point in points(smoke)}
    peaks = []
    broken = {}
    for turn in range(rounds):
        peaks.append(ceilings())
        say(f"round {turn + 1} peaks: {peaks[-1]['gmac_per_second']} GMAC/s, "
            f"{peaks[-1]['stream_gb_per_second']} GB/s")
        for kind, size in points(smoke):
            row = figures[name_of((kind, size))]
            for label, engine in running.items():
                if (label, kind) in broken:
                    continue
                try:
                    row[label].append(getattr(engine, kind)(*size))
                except (Failed, KeyError, ValueError, IndexError) as why:
                    broken[label, kind] = str(why)
                    say(f"{label}: {kind} fails: {why}")
            best = ", ".join(f"{label} {values[-1]:.0f}" for label, values in row.items() if values)
            say(f"round {turn + 1} {name_of((kind, size))}: {best}")
    return figures, peaks, {f"{label}: {kind}": why for (label, kind), why in broken.items()}


def ratios(row, ours):
    """The paired ratio of each round to the best peer at this point (best by median)."""
    peers = {label: values for label, values in row.items() if not label.startswith(OURS) and values}
    if not peers or not row.get(ours):
        return None
    best = max(peers, key=lambda label: statistics.median(peers[label]))
    return best, statistics.median(a / b for a, b in zip(row[ours], peers[best]))


def agreement(running, every):
    """Share of prefixes of the reference texts after which the engine's most probable token is float32's,
    over every `every`-th position; those that an engine's answer does not tell (None) are not counted."""
    asked, wanted = [], []
    for path in sorted((REFERENCE / "top1").glob("*.json")):
        if path.stem == "multilingual":
            continue
        text = json.loads(path.read_text())
        for at in range(every, len(text["ids"]), every):
            asked.append(text["ids"][:at])
            wanted.append(text["top1"][at - 1])
    found = {}
    for label, engine in running.items():
        try:
            got = [engine.next([ids])[0] for ids in asked]
        except Failed as why:
            say(f"{label}: agreement fails: {why}")
            continue
        told = [(a, b) for a, b in zip(got, wanted) if a is not None]
        found[label] = {"positions": len(told), "every": every,
                        "agree": sum(a == b for a, b in told) / max(len(told), 1)}
        say(f"{label}: {found[label]['agree']:.4f} of {len(told)} positions as float32")
    return found
