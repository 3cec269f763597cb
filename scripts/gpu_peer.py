#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch and transformers on the shapes of the step table, random weights: decode at context 512 eagerly,
from a graph recorded by hand and by torch.compile(mode="reduce-overhead"); the naive pipeline (float32, no
cache, one at a time); and the machine's ceilings. One JSON object. Argument: seconds that may be spent."""

import json
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers

SHAPES = {
    "smollm2": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
                "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "llama1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                "head_dim": 64},
}
CONTEXT = 512


def median_ms(work, times):
    taken = []
    for _ in range(times):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


def ceilings():
    source = torch.randn(1 << 30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    copy = median_ms(lambda: target.copy_(source), 20)
    del source, target
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    product = median_ms(lambda: a @ a, 10)
    return {"copy_tb_s": 2 * 2 * (1 << 30) / copy / 1e9, "bf16_tflop_s": 2 * 8192**3 / product / 1e9}


def made(name):
    config = transformers.LlamaConfig(tie_word_embeddings=True, max_position_embeddings=2048,
                                      **SHAPES[name])
    return transformers.LlamaForCausalLM(config).cuda().eval()


def naive():
    model = made("smollm2").float()
    found = {}
    for length in (32, 128, 512):
        ids = torch.randint(0, 49152, (1, length), device="cuda")
        work = lambda: model(ids, use_cache=False).logits[:, -1].argmax(-1).item()
        work()
        found[length] = median_ms(work, 15)
    return found


def recorded(step):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def decode(model, batch, until):
    cache = transformers.StaticCache(config=model.config, max_batch_size=batch, max_cache_len=1024,
                                     device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(0, model.config.vocab_size, (batch, CONTEXT), device="cuda")
    model(ids, past_key_values=cache, cache_position=torch.arange(CONTEXT, device="cuda"),
          use_cache=True)
    one = ids[:, :1].clone()
    position = torch.tensor([CONTEXT], device="cuda")

    def step(forward=model):
        out = forward(one, past_key_values=cache, cache_position=position,
                      position_ids=position.expand(batch, 1), use_cache=True)
        return out.logits[:, -1].argmax(-1)

    found = {"batch": batch, "context": CONTEXT, "eager_ms": median_ms(step, 15)}
    try:
        found["graph_ms"] = median_ms(recorded(step), 40)
    except RuntimeError as failed:
        found["graph_error"] = str(failed)[:200]
    if time.time() < until:
        torch._dynamo.reset()
        compiled = torch.compile(model.forward, mode="reduce-overhead")
        for _ in range(4):
            step(compiled)
        found["compile_ms"] = median_ms(lambda: step(compiled), 40)
    return found


def main():
    until = time.time() + float(sys.argv[1])
    torch.manual_seed(0)
    found = {"torch": torch.__version__, "transformers": transformers.__version__,
             "device": torch.cuda.get_device_name(), "decode": {}}
    with torch.inference_mode():
        found["ceilings"] = ceilings()
        found["naive_ms"] = naive()
        for name in SHAPES:
            model = made(name).bfloat16()
            for batch in (1, 8, 64):
                if time.time() < until:
                    found["decode"].setdefault(name, []).append(decode(model, batch, until))
            del model
    print(json.dumps(found))


if __name__ == "__main__":
    main()
