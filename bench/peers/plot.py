# SPDX-License-Identifier: Apache-2.0
"""plot RESULTS.json OUT.png: tokens a second at every point, one bar an engine (its best type)."""

import json
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

speed = json.load(open(sys.argv[1], encoding="utf-8"))["speed"]
points = list(speed)
labels = list(next(iter(speed.values())))
engines = {}
for label in labels:
    engines.setdefault(label if label.startswith("foretoken") else label.split()[0], []).append(label)

figure, axes = pyplot.subplots(figsize=(14, 5), layout="constrained")
width = 0.85 / len(engines)
for index, (engine, kinds) in enumerate(engines.items()):
    heights = [max((statistics.median(speed[point][kind]) for kind in kinds if speed[point][kind]), default=0)
               for point in points]
    axes.bar([at + index * width for at in range(len(points))], heights, width, label=engine)
axes.set_xticks([at + 0.42 for at in range(len(points))], points, rotation=30, ha="right")
axes.set_ylabel("tokens/s (median)")
axes.legend(ncols=4, frameon=False)
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.3)
figure.savefig(sys.argv[2], dpi=120)
