# SPDX-License-Identifier: Apache-2.0
"""Measures foretoken beside the other engines on this machine.

  python3 bench/peers                     installs what is missing, makes the forms, measures everything
  python3 bench/peers --only llama,foretoken --rounds 3 --skip servers
  python3 bench/peers --smoke             one short round of what is installed

Agreement does not depend on the minute: what was found is kept in agreement.json of the results' folder, and a later
run that skips it still shows it.

Needs the release build (scripts/run or scripts/test makes it). Installs into FORETOKEN_PEERS (several GB;
default: peers/ in the cache folder), never into the repository; builds llama.cpp from its Python package."""

import argparse
import json
import pathlib
import sys

import engines
import install
import report
import rounds
import servers
from places import PEERS, PROGRAM, THREADS, say, skip_without_model, write_json


def arguments():
    parser = argparse.ArgumentParser(prog="bench/peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="engines whose name contains one of these, comma-separated")
    parser.add_argument("--skip", default="", help="stages: install, speed, agreement, servers")
    parser.add_argument("--every", type=int, default=16, help="agreement: every N-th position of the texts")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=PEERS / "results")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/performance.md")
    return parser.parse_args()


def main():
    asked = arguments()
    only = [word for word in asked.only.split(",") if word]
    skipped = set(asked.skip.split(","))
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not built: scripts/run builds it")
    if asked.smoke:
        skip_without_model()
    turns = 1 if asked.smoke else asked.rounds
    missing = {} if asked.smoke or "install" in skipped else install.install(only)
    results = {**report.stamp(turns, THREADS), "speed": {}, "peaks": [], "broken": {}, "missing": missing,
               "agreement": {}, "servers": {}, "resources": {}}
    kept = asked.out / "agreement.json"
    results["agreement"] = json.loads(kept.read_text()) if kept.exists() else {}
    if not {"speed", "agreement"} <= skipped:
        running, not_there = engines.start(only)
        results["missing"].update(not_there)
        try:
            if "speed" not in skipped:
                results["speed"], results["peaks"], results["broken"] = rounds.measure(running, turns, asked.smoke)
            if "agreement" not in skipped and not asked.smoke:
                for label, found in rounds.agreement(running, asked.every).items():
                    results["agreement"][label] = {**found, **report.stamp(turns, THREADS)}
                write_json(kept, results["agreement"])
            results["resources"] = {label: {"peak_bytes": engine.peak_bytes} for label, engine in running.items()}
        finally:
            for engine in running.values():
                engine.close()
    if "servers" not in skipped:
        results["servers"] = servers.measure(1 if asked.smoke else min(turns, 3), only, asked.smoke)
    report.write(results, asked.out, install.python("transformers"))
    if asked.docs:
        report.into_docs(results, asked.out)
    say(f"written to {asked.out}")


if __name__ == "__main__":
    main()
