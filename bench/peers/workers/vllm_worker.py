# SPDX-License-Identifier: Apache-2.0
"""vllm_worker FOLDER: vLLM's CPU build."""

import sys

from vllm import LLM, SamplingParams

from workers.protocol import Engine, serve


class Vllm(Engine):
    def __init__(self):
        self.engine = LLM(model=sys.argv[1], dtype="bfloat16", max_model_len=2048, max_num_seqs=64,
                          enable_prefix_caching=False, disable_log_stats=True)

    def generate(self, prompts, tokens):
        how = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True,
                             detokenize=False)
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return [list(each.outputs[0].token_ids)
                for each in self.engine.generate(asked, how, use_tqdm=False)]


if __name__ == "__main__":
    serve(Vllm)
