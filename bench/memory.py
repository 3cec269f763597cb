#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of `foretoken serve` with a KV pool of 64 MiB, after its start and after requests
that touch much of the pool, for a first start (the model file is repacked) and a later one (packed weights
from disk).

    bench/memory.py [--check MB] [FLAG ...]     FLAGs go to the server; --check: exit 1 above that many MB

Needs build/release/bin/foretoken and the real model; exit 77 without."""

import concurrent.futures
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/system"))
from server import MODEL, PROGRAM, SKIPPED, Server  # noqa: E402

STREAMS = 8
TEXT = "The harbour was quiet that morning, and the boats lay still. " * 16  # about 220 tokens


def resident(server):
    """(now, the most so far) in MB of 10^6 bytes."""
    found = dict(line.split(":", 1) for line in
                 pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if ":" in line)
    return tuple(int(found[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))


def load(server):
    """Requests side by side: prompts that share nothing, so that each takes pages of its own."""
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(server.completion, f"{i} {TEXT}", max_tokens=16, temperature=0)
                   for i in range(STREAMS)]
    for each in running:
        each.result()  # nothing was measured when one failed


def measure(flags):
    """The peaks of a first and a later start."""
    peaks = []
    with tempfile.TemporaryDirectory() as place:
        for start in ("first start", "later start"):
            with Server("--device", "cpu", "--kv-bytes", "64MiB", "--set",
                        f"cpu.packed_cache_folder={place}/kept", *flags) as server:
                _, ready = resident(server)
                load(server)
                now, most = resident(server)
            print(f"{start}: ready at most {ready:.0f} MB, after {STREAMS} requests {now:.0f} MB, at most "
                  f"{most:.0f} MB", flush=True)
            peaks.append(most)
    return peaks


def main():
    words = sys.argv[1:]
    limit = None
    if words[:1] == ["--check"]:
        limit, words = float(words[1]), words[2:]
    for what in (PROGRAM, MODEL):
        if not pathlib.Path(what).exists():
            print(f"skipped: no {what}")
            return SKIPPED
    peaks = measure(words)
    if limit is not None and max(peaks) > limit:
        print(f"more than {limit:.0f} MB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
