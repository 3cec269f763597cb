#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the layers: a file includes only from its own folder or from rows below, and each third-party
library is included only by the folders it is confined to. Prints every violation; exit 1 if any."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each folder may include, besides itself (docs/architecture.md has the picture).
DOMAIN = {"base", "tokenizer", "model", "cache"}
DEVICES = DOMAIN | {"cpu", "gpu"}
DECISIONS = DOMAIN | {"scheduler", "predict"}
BELOW = {
    "base": set(),
    "tokenizer": {"base"},
    "model": {"base", "tokenizer"},
    "cache": {"base", "model"},
    "cpu": DOMAIN,
    "gpu": DOMAIN,
    "scheduler": DOMAIN,
    "predict": DOMAIN | {"scheduler"},
    "actors": DEVICES | DECISIONS,
    "net": {"base", "actors"},
    "config": DEVICES | DECISIONS | {"actors", "net"},
    "tools": DEVICES | DECISIONS | {"actors", "net", "config"},
}

# net sees the rest of the house only through the embedding API and what that API speaks.
NET_MAY_INCLUDE = {"actors/engine.hpp", "actors/request.hpp", "actors/options.hpp"}

# First part of an include path (or the whole path) -> folders that may use the library.
CONFINED = {
    "caf": {"actors"},
    "prometheus": {"actors"},
    "uv.h": {"net"},
    "wslay": {"net"},
    "boost": {"net"},
    "http_parser.h": {"net"},
    "openssl": {"base", "net"},
    "cuda.h": {"gpu"},
    "cuda_runtime.h": {"gpu"},
    "cublas_v2.h": {"gpu"},
    "cublasLt.h": {"gpu"},
    "nccl.h": {"gpu"},
    "toml++": {"config"},
    "CLI": {"tools"},
    "nlohmann": {"net", "model"},
    "simdjson.h": {"net", "model"},
    "utf8proc.h": {"tokenizer"},
    "immintrin.h": {"cpu"},
    "doctest": {"tests"},
}
# spdlog stays in base; the formatting library that comes with it may be used anywhere.
SPDLOG_ANYWHERE = {"spdlog/fmt/fmt.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')
DEVICE_SWITCH = re.compile(r"^\s*#\s*(if|ifdef|elif)\b.*\bFORETOKEN_CUDA\b")
SUFFIXES = {".hpp", ".cpp", ".inl", ".cu", ".cuh"}


def includes(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = INCLUDE.match(line)
        if found:
            yield number, found.group(1) == '"', found.group(2)


def library(name):
    return name if name in CONFINED else name.split("/")[0]


def check_own(folder, path, name):
    """A quoted include of ours: the reason it is wrong, or None."""
    target = name.split("/")[0]
    if not (ROOT / name).exists():
        return f'"{name}" is not a path from the root of the repository'
    if folder not in BELOW or target == folder:
        return None
    if target not in BELOW[folder] and not (folder == "net" and target in DOMAIN):
        return f"{folder}/ must not include {target}/"
    if folder == "net" and target == "actors" and name not in NET_MAY_INCLUDE:
        return f"net/ sees the actors through actors/engine.hpp only, not {name}"
    return None


def check_library(folder, name):
    if name.split("/")[0] == "spdlog":
        ok = folder == "base" or name in SPDLOG_ANYWHERE
        return None if ok else f"<{name}>: spdlog is confined to base/"
    allowed = CONFINED.get(library(name))
    if allowed is None or folder in allowed or folder in {"tests", "bench", "examples"}:
        return None
    return f"<{name}> is confined to {', '.join(sorted(allowed))}"


def main():
    violations = []
    files = 0
    folders = sorted(set(BELOW) | {"tests", "bench", "examples"})
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            files += 1
            shown = path.relative_to(ROOT)
            for number, own, name in includes(path):
                if folder in {"tests", "bench"} and not (ROOT / name).exists():
                    own = own and not (path.parent / name).exists()  # a neighbour of the test
                    wrong = None if not own else check_library(folder, name)
                elif folder == "examples":
                    wrong = None  # examples use the installed library
                else:
                    wrong = check_own(folder, path, name) if own else check_library(folder, name)
                if wrong:
                    violations.append(f"{shown}:{number}: {wrong}")
            switches = [line for line in path.read_text(encoding="utf-8").splitlines()
                        if DEVICE_SWITCH.match(line)]
            if switches and str(shown) != "actors/devices.cpp":
                violations.append(f"{shown}: only actors/devices.cpp may ask for FORETOKEN_CUDA")
    for each in violations:
        print(each)
    print(f"layers: {files} files, {len(violations)} violations")
    return 1 if violations or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
