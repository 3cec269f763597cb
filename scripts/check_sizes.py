#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No source file is longer than 500 lines, unless one of its first lines states the reason as
`foretoken-size: <reason>`; every source file carries the SPDX line. Exit 1 on a violation."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["actors", "base", "bench", "cache", "config", "cpu", "examples", "gpu", "model", "net",
           "predict", "scheduler", "scripts", "tests", "tokenizer", "tools"]
SUFFIXES = {".hpp", ".cpp", ".inl", ".cu", ".cuh", ".py"}
LINES_MAX = 500
REASON = re.compile(r"foretoken-size: \S+ \S+")


def main():
    violations = []
    files = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            shown = path.relative_to(ROOT)
            if path.suffix not in SUFFIXES or shown.parts[:2] == ("tests", "data"):
                continue
            files += 1
            lines = path.read_text(encoding="utf-8").splitlines()
            head = "\n".join(lines[:10])
            if "SPDX-License-Identifier: Apache-2.0" not in head:
                violations.append(f"{shown}: no SPDX line at the top")
            if len(lines) > LINES_MAX and not REASON.search(head):
                violations.append(f"{shown}: {len(lines)} lines, more than {LINES_MAX}")
    for each in violations:
        print(each)
    print(f"sizes: {files} files, {len(violations)} violations")
    return 1 if violations or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
