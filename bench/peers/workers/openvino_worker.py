# SPDX-License-Identifier: Apache-2.0
"""openvino_worker FOLDER THREADS: OpenVINO GenAI's continuous batching pipeline."""

import sys

import numpy
import openvino
import openvino_genai as genai

from workers.protocol import Engine, serve


class OpenVino(Engine):
    def __init__(self):
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = 4096
        scheduler.max_num_seqs = 64
        scheduler.enable_prefix_caching = False
        self.pipeline = genai.ContinuousBatchingPipeline(
            sys.argv[1], scheduler, "CPU",
            {"INFERENCE_NUM_THREADS": int(sys.argv[2]), "PERFORMANCE_HINT": "LATENCY"})

    def generate(self, prompts, tokens):
        how = genai.GenerationConfig()
        how.max_new_tokens = how.min_new_tokens = tokens
        how.do_sample = False
        how.ignore_eos = True
        inputs = [openvino.Tensor(numpy.array([ids], dtype=numpy.int64)) for ids in prompts]
        return [list(each.m_generation_ids[0]) for each in self.pipeline.generate(inputs, [how] * len(inputs))]


serve(OpenVino)
