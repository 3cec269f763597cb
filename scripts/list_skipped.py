#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists the tests that were skipped, with the reasons they printed, out of ctest's JUnit files named on
the command line. Exit 1 if there are any, so that nobody takes them for passed; only a test that needs a
GPU may be skipped where there is none."""

import pathlib
import sys
import xml.etree.ElementTree


def reasons(case):
    printed = (case.findtext("system-out") or "").splitlines()
    return [line.removeprefix("skipped: ") for line in printed if line.startswith("skipped: ")] or ["no reason given"]


NO_GPU = "needs a GPU"


def main():
    tests = skipped = without_gpu = 0
    for file in map(pathlib.Path, sys.argv[1:]):
        for case in xml.etree.ElementTree.parse(file).iter("testcase"):
            tests += 1
            if case.find("skipped") is None:
                continue
            skipped += 1
            without_gpu += all(reason.startswith(NO_GPU) for reason in reasons(case))
            for reason in reasons(case):
                print(f"skipped in {file.parent.name}: {case.get('name')}: {reason}")
    print(f"skipped: {skipped} of {tests} tests, {without_gpu} for want of a GPU")
    return 1 if skipped != without_gpu or tests == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
