#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What ptxas said about every kernel (scripts/keep_ptxas): prints the table of registers and fails on a
spill, a byte of stack, or a warning. Arguments: object files; those of another language are passed over."""

import pathlib
import re
import shutil
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
PROPERTIES = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def plain_names(names):
    """Mangled -> readable, when binutils are there."""
    if shutil.which("c++filt") is None or not names:
        return {name: name for name in names}
    shown = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True,
                           check=True).stdout.splitlines()
    return {name: re.sub(r"foretoken::gpu::|\(anonymous namespace\)::", "", each)
            for name, each in zip(names, shown)}


def read(path, table, faults):
    name = arch = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := ENTRY.search(line):
            name, arch = found.groups()
        elif (found := PROPERTIES.search(line)) and name:
            stack, stores, loads = map(int, found.groups())
            if stack or stores or loads:
                faults.append(f"{name} {arch}: {stack} bytes of stack, {stores + loads} spilled")
        elif (found := USED.search(line)) and name:
            table.setdefault(name, {})[arch] = int(found.group(1))
        elif "warning" in line.lower():
            faults.append(f"{path.stem}: {line.strip()}")


def main():
    table, faults = {}, []
    logs = [pathlib.Path(each + ".ptxas") for each in sys.argv[1:]]
    for log in filter(pathlib.Path.exists, logs):
        read(log, table, faults)
    names = plain_names(sorted(table))
    archs = sorted({arch for row in table.values() for arch in row})
    print(f"{'registers':60}", *(f"{arch:>8}" for arch in archs))
    for name, row in sorted(table.items(), key=lambda item: names[item[0]]):
        print(f"{names[name][:60]:60}", *(f"{row.get(arch, '-'):>8}" for arch in archs))
    for fault in faults:
        for name, shown in names.items():
            fault = fault.replace(name, shown)
        print("FAULT", fault)
    print(f"kernels: {len(table)}, {len(faults)} faults")
    return 1 if faults or not table else 0


if __name__ == "__main__":
    sys.exit(main())
