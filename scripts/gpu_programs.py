# SPDX-License-Identifier: Apache-2.0
"""Where gpu_run's programs and references are, and how a stage runs one."""

import json
import os
import pathlib
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
STAGE_SECONDS = 480


class Place:
    """Where the programs and references are: a bundle, or a source tree with a build."""

    def __init__(self, model, settings=()):
        bundle = (HERE / "bin").exists()
        self.bin = HERE / "bin" if bundle else HERE / "build/cuda/bin"
        self.data = HERE / "data" if bundle else HERE / "tests/data/reference"
        self.scripts = HERE / "scripts"
        self.model = model
        self.settings = [word for each in settings for word in ("--set", each)]  # of every server

    def program(self, name):
        return str(self.bin / name)


def run(words, seconds=STAGE_SECONDS, **settings):
    """(exit code, stdout, stderr's end); 124 when it took too long. `settings`: added to the environment."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False,
                               env=os.environ | settings)
        return ended.returncode, ended.stdout, ended.stderr[-4000:]
    except OSError as missing:
        return 127, "", str(missing)
    except subprocess.TimeoutExpired as late:
        out = late.stdout or ""
        return 124, out if isinstance(out, str) else out.decode("utf-8", "replace"), "took too long"


class Clock:
    """What is left of a stage's time."""

    def __init__(self, seconds=STAGE_SECONDS):
        self.end = time.monotonic() + seconds

    def left(self):
        return max(1.0, self.end - time.monotonic())


def loaded(text):
    try:
        return json.loads(text)
    except ValueError:
        return {"holds": False, "output": text[-2000:]}
