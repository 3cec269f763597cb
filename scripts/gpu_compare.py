# SPDX-License-Identifier: Apache-2.0
"""Stages of gpu_run that measure others beside us on one machine, in one run: PyTorch's decode steps, the
ladder from the naive pipeline to ours, cuBLASLt's products and scaled_dot_product_attention."""

import glob
import json
import os
import re
import subprocess
import sys

NUMBER = r"([0-9.]+)%?"
PRODUCTS = ("qkv", "o", "gate_up", "down")
ROWS = (64, 128, 512, 1024, 2048)
OURS_CONTEXT = 512


def run(words, seconds):
    """(holds, stdout, stderr's end)"""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        return ended.returncode == 0, ended.stdout, ended.stderr[-2000:]
    except (OSError, subprocess.TimeoutExpired) as failed:
        return False, "", str(failed)[-2000:]


def peer(at, part, seconds):
    holds, out, err = run([sys.executable, str(at.scripts / "gpu_peer.py"), part, str(seconds)],
                          seconds + 60)
    return json.loads(out) | {"holds": True} if holds else {"holds": False, "said": err}


def rows_of(text, first, count):
    """Lines of a bench's table that begin with `first`, a pattern, followed by `count` numbers."""
    line = re.compile(rf"^\s*{first}\s+" + r"\s+".join([NUMBER] * count))
    return [found.groups() for found in map(line.match, text.splitlines()) if found]


def our_decode(at, shape):
    """Steps of the general path: batch -> us, and parts."""
    _, out, _ = run([at.program("gpu_step_bench"), "--decode", "--context", str(OURS_CONTEXT), "--rows",
                     "1,8,64,256", shape], 120)
    return [{"batch": int(b), "us": float(us), "tokens_per_second": float(rate)}
            for b, _, us, rate in rows_of(out, r"(\d+)\s+(\d+)", 2)]


def our_clusters(at):
    """lanes x rows of each -> us a step in a row, SmolLM2's shape at context 512."""
    found = []
    for lanes, rows in ((1, 1), (1, 8), (7, 1), (7, 8)):
        _, out, _ = run([at.program("cluster_step_bench"), str(lanes), str(rows), str(OURS_CONTEXT)], 60)
        line = re.search(rf"^{lanes} +{lanes * rows} +{OURS_CONTEXT} \|[^|]*\| *([0-9.]+) ", out, re.M)
        if line:
            found.append({"lanes": lanes, "rows": rows, "us": float(line.group(1)),
                          "tokens_per_second": 1e6 * lanes * rows / float(line.group(1))})
    return found


def stage_peer(at):
    found = peer(at, "decode", 240)
    found["ours"] = {shape: our_decode(at, shape) for shape in ("smollm2", "llama1b")}
    found["clusters"] = our_clusters(at)
    found["holds"] = found["holds"] and all(found["ours"].values()) and len(found["clusters"]) == 4
    return found


def our_prefill(at, shape, prompt, rows):
    """rows -> us a step and of attention a layer."""
    _, out, _ = run([at.program("gpu_step_bench"), "--prefill", "--prompt", str(prompt), "--rows",
                     ",".join(map(str, rows)), shape], 120)
    return {int(r): {"us": float(values[0]), "attention_us": float(values[5])}
            for r, *values in rows_of(out, r"(\d+)", 7) if int(r) in rows}


def stage_ladder(at):
    """The naive pipeline, and our steps over the same prompts of 32 tokens."""
    found = peer(at, "naive", 60)
    found["prompts"] = {rows // 32: row["us"]
                        for rows, row in our_prefill(at, "smollm2", 32, (32, 2048)).items()}
    found["holds"] = found["holds"] and len(found["prompts"]) == 2
    return found


def library_environment():
    """Where cuBLASLt may be when it is not in the system's list of libraries."""
    pattern = os.path.join(os.path.dirname(os.path.dirname(sys.executable)),
                           "lib/python3*/site-packages/nvidia/*/lib")
    known = ["/usr/local/cuda/lib64", *glob.glob(pattern), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, known))


def stage_products(at):
    """cuBLASLt and our kernels, us a layer; ours have their epilogues, the library's products none."""
    library_environment()
    holds, out, err = run([at.program("gpu_library_bench")], 240)
    found = {"holds": holds, "said": err, "library": [], "pinned": [], "chains": [], "ours": {}}
    for line in out.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "product":
            found["library"].append({"shape": words[1], "product": words[2], "rows": int(words[3]),
                                     "first_us": float(words[4]), "best_us": float(words[5])})
        elif words[0] == "chain":
            found["chains"].append(line)
        elif words[0] == "pinned":
            found["pinned"].append({"shape": words[1], "product": words[2], "chosen_for": int(words[3]),
                                    "bits": words[4], "us": words[5:]})
    for shape in ("smollm2", "llama1b"):
        _, out, _ = run([at.program("gpu_step_bench"), "--chosen", "--rows", ",".join(map(str, ROWS)),
                         shape], 120)
        found["ours"][shape] = {rows: dict(zip(PRODUCTS, map(float, us)))
                                for rows, *us in rows_of(out, r"(\d+) chosen", 4)}
        found["holds"] = found["holds"] and len(found["ours"][shape]) == len(ROWS)
    return found


def stage_attention(at):
    """Attention of whole prompts, us a layer."""
    found = peer(at, "attention", 120)
    for shape in ("smollm2", "llama1b"):
        for prompt, rows in ((32, ROWS), (512, (512, 2048)), (2048, (2048,))):
            ours = our_prefill(at, shape, prompt, rows)
            for row in found.get("attention", []):
                if (row["shape"], row["prompt"]) == (shape, prompt) and row["rows"] in ours:
                    row["ours"] = ours[row["rows"]]["attention_us"]
    compared = [row for row in found.get("attention", []) if "ours" in row]
    found["holds"] = found["holds"] and bool(compared)
    return found


STAGES = {"peer": stage_peer, "ladder": stage_ladder, "products": stage_products,
          "attention": stage_attention}


# ---- the short table


def rungs(found):
    """(what, ms a prediction, predictions a second): SmolLM2's shape, from naive to ours."""
    naive = found.get("ladder", {}).get("naive_ms", {})
    torch_steps = {row["batch"]: row
                   for row in found.get("peer", {}).get("decode", {}).get("smollm2", [])}
    one = lambda what, ms, count=1: [(what, ms, 1e3 * count / ms)] if ms else []
    out = one("prompt of 512, float32, no cache", naive.get("float32", {}).get("512"))
    out += one("the same in bfloat16", naive.get("bfloat16", {}).get("512"))
    first = torch_steps.get(1, {})
    out += one("keys and values kept", first.get("eager_ms"))
    out += one("recorded as a graph", first.get("graph_ms"))
    out += one("torch.compile reduce-overhead", first.get("compile_ms"))
    for row in found.get("peer", {}).get("ours", {}).get("smollm2", []):
        out += one(f"our general path, {row['batch']} rows", row["us"] / 1e3, row["batch"])
    for row in found.get("peer", {}).get("clusters", []):
        out += one(f"our clusters, {row['lanes']} x {row['rows']} rows", row["us"] / 1e3,
                   row["lanes"] * row["rows"])
    out += one("prompt of 32, float32, no cache", naive.get("float32", {}).get("32"))
    for prompts, us in found.get("ladder", {}).get("prompts", {}).items():
        out += one(f"our step of {prompts} such prompts", us / 1e3, int(prompts))
    return out


def shown(row, key):
    """A time; why there is none stands in the JSON file (graph_error, compile_error)."""
    return f"{row[key]:7.2f}" if key in row else "      -"


def print_tables(found):
    if "ladder" in found:
        for what, ms, rate in rungs(found):
            print(f"  {what:36} {ms:9.3f} ms {rate:11.0f} predictions/s")
    for name, rows in found.get("peer", {}).get("decode", {}).items():
        ours = {row["batch"]: row["us"] / 1e3 for row in found["peer"]["ours"][name]}
        for row in rows:
            print(f"  {name} B={row['batch']:3}: eager {row['eager_ms']:7.2f} ms, graph "
                  f"{shown(row, 'graph_ms')}, compile {shown(row, 'compile_ms')}, ours "
                  f"{ours.get(row['batch'], 0):7.3f}")
    for row in found.get("products", {}).get("library", []):
        ours = found["products"]["ours"][row["shape"]].get(str(row["rows"]), {}).get(row["product"], 0)
        print(f"  {row['shape']} {row['product']:8} {row['rows']:5}: first {row['first_us']:7.2f} us, best "
              f"{row['best_us']:7.2f}, ours {ours:7.2f}")
    for row in found.get("products", {}).get("pinned", []):
        print(f"  {row['shape']} {row['product']:8} pinned for {row['chosen_for']:5}: {row['bits']} bits, "
              f"{' '.join(row['us'])}")
    for line in found.get("products", {}).get("chains", []):
        print(f"  {line}")
    for row in found.get("attention", {}).get("attention", []):
        print(f"  {row['shape']} {row['rows']:5} rows of {row['prompt']:5}: flash {row.get('flash', 0):7.2f} us, "
              f"cudnn {row.get('cudnn', 0):7.2f}, ours {row.get('ours', 0):7.2f}")
