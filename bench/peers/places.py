# SPDX-License-Identifier: Apache-2.0
"""Where things are: the project, the model, the folder of the peers; and how commands are run."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))
from server import MODEL, SKIPPED  # noqa: E402

REFERENCE = ROOT / "tests" / "data" / "reference"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "foretoken"
PEERS = pathlib.Path(os.environ.get("FORETOKEN_PEERS") or CACHE / "peers")
PROGRAM = pathlib.Path(os.environ.get("FORETOKEN_PROGRAM") or ROOT / "build/release/bin/foretoken")
THREADS = min(2, os.cpu_count() or 1)
# No engine may look a model up on a network: everything is made here.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
           "TOKENIZERS_PARALLELISM": "false"}


def environment(**more):
    return {**os.environ, **OFFLINE, **more}


def model():
    """The GGUF file that every form is made from."""
    out = subprocess.run([ROOT / "scripts" / "model"], check=True, capture_output=True, text=True)
    return pathlib.Path(out.stdout.strip())


def skip_without_model():
    """For tests: ends as skipped where the model is not on the machine, instead of getting it."""
    if not pathlib.Path(MODEL).exists():
        say(f"skipped: no {MODEL}")
        sys.exit(SKIPPED)


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, **more):
    """Runs a command, its output into PEERS/log; raises with that output's end when it fails."""
    words = [str(word) for word in command]
    say("+ " + " ".join(words))
    PEERS.mkdir(parents=True, exist_ok=True)
    with open(PEERS / "log", "a", encoding="utf-8") as log:
        done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment(), **more)
    if done.returncode != 0:
        with open(PEERS / "log", encoding="utf-8", errors="replace") as log:
            say("".join(log.readlines()[-12:]))
        raise subprocess.CalledProcessError(done.returncode, words[0])


def text_of(*command):
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True,
                          env=environment())
    return done.stdout


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
