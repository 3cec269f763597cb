# SPDX-License-Identifier: Apache-2.0
"""transformers_worker FOLDER THREADS float32|bfloat16: transformers with its key and value cache."""

import sys

import torch
from transformers import AutoModelForCausalLM

from workers.protocol import Engine, serve


class Transformers(Engine):
    def __init__(self):
        torch.set_num_threads(int(sys.argv[2]))
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[3])).eval()

    def generate(self, prompts, tokens):
        if len({len(ids) for ids in prompts}) > 1:
            return [self.generate([ids], tokens)[0] for ids in prompts]
        out = self.model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        rows = [out.logits[:, -1].argmax(-1)]
        for _ in range(tokens - 1):
            out = self.model(rows[-1][:, None], past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.logits[:, -1].argmax(-1))
        return torch.stack(rows, dim=1).tolist()


serve(Transformers)
