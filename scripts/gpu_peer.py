#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch and transformers on the shapes of the step table, random weights. One JSON object.

  gpu_peer.py decode SECONDS   at context 512: eagerly, from a graph recorded by hand, and by
                               torch.compile(mode="reduce-overhead"); and the machine's ceilings
  gpu_peer.py naive SECONDS    without keys and values, one prediction at a time, float32 and bfloat16
  gpu_peer.py attention SECONDS  scaled_dot_product_attention of prompts, flash and cuDNN, us a layer

SECONDS: what may be spent; what is not reached is left out."""

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


def predictions(model, length):
    ids = torch.randint(0, model.config.vocab_size, (1, length), device="cuda")
    work = lambda: model(ids, use_cache=False).logits[:, -1].argmax(-1).item()
    work()
    return median_ms(work, 15)


def naive(until):
    """Milliseconds a prediction, by type and length of the prompt."""
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        model = made("smollm2").to(kind)
        for length in (32, 128, 512):
            if time.time() < until:
                found.setdefault(str(kind).split(".")[1], {})[length] = predictions(model, length)
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
        try:
            torch._dynamo.reset()
            compiled = torch.compile(model.forward, mode="reduce-overhead")
            for _ in range(4):
                step(compiled)
            found["compile_ms"] = median_ms(lambda: step(compiled), 40)
        except Exception as failed:  # it needs a C compiler on the machine
            found["compile_error"] = str(failed)[:200]
    return found


def decodes(until):
    found = {}
    for name in SHAPES:
        model = made(name).bfloat16()
        for batch in (1, 8, 64):
            if time.time() < until:
                found.setdefault(name, []).append(decode(model, batch, until))
        del model
    return found


def attention_us(shape, sequences, length, backend):
    """Microseconds a layer: one call a layer, all layers as one graph."""
    layers, heads, kv_heads = (shape[key] for key in
                               ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))
    fresh = lambda count: torch.randn(sequences, count, length, 64, dtype=torch.float16, device="cuda")
    q = fresh(heads)
    pairs = [(fresh(kv_heads), fresh(kv_heads)) for _ in range(layers)]

    def work():
        for k, v in pairs:
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    with torch.nn.attention.sdpa_kernel(backend):
        replay = recorded(work)
    times = []
    for _ in range(15):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        replay()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended))
    return 1e3 * statistics.median(times) / layers


def attentions(until):
    backends = {"flash": torch.nn.attention.SDPBackend.FLASH_ATTENTION,
                "cudnn": torch.nn.attention.SDPBackend.CUDNN_ATTENTION}
    found = []
    for name, shape in SHAPES.items():
        for rows, length in ((64, 32), (128, 32), (512, 32), (1024, 32), (2048, 32), (512, 512),
                             (2048, 512), (2048, 2048)):
            row = {"shape": name, "rows": rows, "prompt": length}
            for backend, choice in backends.items():
                if time.time() > until:
                    continue
                try:
                    row[backend] = attention_us(shape, rows // length, length, choice)
                except RuntimeError as failed:
                    row[backend + "_error"] = str(failed)[:200]
            found.append(row)
    return found


def main():
    part, until = sys.argv[1], time.time() + float(sys.argv[2])
    torch.manual_seed(0)
    found = {"torch": torch.__version__, "transformers": transformers.__version__,
             "device": torch.cuda.get_device_name()}
    with torch.inference_mode():
        if part == "decode":
            found["ceilings"] = ceilings()
            found["decode"] = decodes(until)
        elif part == "naive":
            found["naive_ms"] = naive(until)
        else:
            found["attention"] = attentions(until)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
