# SPDX-License-Identifier: Apache-2.0
"""From the figures to tables (Markdown) and a plot (PNG)."""

import datetime
import platform
import statistics

from places import ROOT, run, text_of, write_json
from rounds import OURS, ratios

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def processor():
    for line in open("/proc/cpuinfo", encoding="utf-8"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def header(results):
    peaks = results["peaks"]
    def spread(key):
        values = [each[key] for each in peaks if each.get(key)]
        return f"{min(values):.0f} to {max(values):.0f}" if values else "not measured"
    return (f"`python3 bench/peers`, {processor()}, {results['threads']} threads, {results['date']}, commit "
            f"{results['commit']}; medians of {results['rounds']} interleaved rounds. Of the same rounds: "
            f"integer multiply-add peak {spread('gmac_per_second')} GMAC/s, reading 96 MiB on huge pages "
            f"{spread('stream_gb_per_second')} GB/s.")


def speed_table(results):
    points = results["speed"]
    labels = list(next(iter(points.values())))
    lines = ["| tokens/s | " + " | ".join(points) + " | agrees with float32 |",
             "|---" * (len(points) + 2) + "|"]
    for label in labels:
        cells = [f"{statistics.median(row[label]):.0f}" if row[label] else "" for row in points.values()]
        found = results["agreement"].get(label)
        cells.append(f"{100 * found['agree']:.1f} %" if found else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    for ours in [label for label in labels if label.startswith(OURS)]:
        cells = []
        for row in points.values():
            found = ratios(row, ours)
            cells.append(f"{found[1]:.2f}x {found[0]}" if found else "")
        lines.append(f"| *{ours} to the best peer* | " + " | ".join(cells) + " | |")
    return lines


def server_table(results):
    lines = ["| server | ready | fresh 16 ids: p50 / p99 ms | typed: p50 / p99 ms | 64 clients: requests/s, p50 ms |",
             "|---|---|---|---|---|"]
    for label, rows in results["servers"].items():
        def of(load, key):
            return statistics.median(row[load][key] for row in rows)
        ready = statistics.median(row["ready_seconds"] for row in rows)
        lines.append(f"| {label} | {ready:.1f} s | {of('fresh', 'p50_ms'):.1f} / {of('fresh', 'p99_ms'):.1f} | "
                     f"{of('typed', 'p50_ms'):.1f} / {of('typed', 'p99_ms'):.1f} | "
                     f"{of('crowd', 'requests_per_second'):.0f}, {of('crowd', 'p50_ms'):.0f} |")
    return lines


def memory_table(results):
    lines = ["| engine | peak resident memory |", "|---|---|"]
    for label, found in results["resources"].items():
        lines.append(f"| {label} | {found['peak_bytes'] / 2**20:.0f} MiB |")
    return lines


def markdown(results):
    parts = [header(results)]
    if results["speed"]:
        parts.append("\n".join(speed_table(results)))
        parts.append("\n".join(memory_table(results)))
    if results["servers"]:
        parts.append("\n".join(server_table(results)))
    left_out = {**results["missing"], **results["broken"]}
    if left_out:
        parts.append("Left out: " + "; ".join(f"{label} ({str(why).splitlines()[0][:120]})"
                                              for label, why in left_out.items()) + ".")
    return "\n\n".join(parts)


def write(results, folder, plot_python):
    """results.json, report.md and speed.png in `folder`."""
    write_json(folder / "results.json", results)
    (folder / "report.md").write_text(markdown(results) + "\n", encoding="utf-8")
    if results["speed"] and plot_python.exists():
        run(plot_python, ROOT / "bench/peers/plot.py", folder / "results.json", folder / "speed.png")
    print(markdown(results))


def into_docs(results, folder):
    """Replaces the marked part of docs/performance.md."""
    page = ROOT / "docs" / "performance.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}", encoding="utf-8")
    plot = folder / "speed.png"
    if plot.exists():
        (ROOT / "docs" / "performance.png").write_bytes(plot.read_bytes())


def stamp(rounds, threads):
    return {"date": datetime.date.today().isoformat(), "rounds": rounds, "threads": threads,
            "commit": text_of("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()}
