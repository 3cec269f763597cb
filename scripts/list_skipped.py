#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the tests that were skipped, with the reasons they printed, out of ctest's JUnit files named on
the command line. Exit 1 if there are any, so that nobody takes them for passed."""

import pathlib
import sys
import xml.etree.ElementTree


def reasons(case):
    printed = (case.findtext("system-out") or "").splitlines()
    return [line.removeprefix("skipped: ") for line in printed if line.startswith("skipped: ")] or ["no reason given"]


def main():
    tests = skipped = 0
    for file in map(pathlib.Path, sys.argv[1:]):
        for case in xml.etree.ElementTree.parse(file).iter("testcase"):
            tests += 1
            if case.find("skipped") is None:
                continue
            skipped += 1
            for reason in reasons(case):
                print(f"skipped in {file.parent.name}: {case.get('name')}: {reason}")
    print(f"skipped: {skipped} of {tests} tests")
    return 1 if skipped or tests == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
