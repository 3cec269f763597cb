# SPDX-License-Identifier: Apache-2.0
"""ctranslate2_worker FOLDER THREADS: CTranslate2's generator."""

import sys

import ctranslate2
from transformers import AutoTokenizer

from workers.protocol import Engine, serve


class CTranslate2(Engine):
    def __init__(self):
        self.generator = ctranslate2.Generator(sys.argv[1], device="cpu", intra_threads=int(sys.argv[2]))
        self.words = AutoTokenizer.from_pretrained(sys.argv[3])

    def generate(self, prompts, tokens):
        asked = [self.words.convert_ids_to_tokens(ids) for ids in prompts]
        done = self.generator.generate_batch(asked, max_length=tokens, min_length=tokens, sampling_topk=1,
                                             include_prompt_in_result=False)
        return [each.sequences_ids[0] for each in done]


serve(CTranslate2)
