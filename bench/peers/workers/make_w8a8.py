# SPDX-License-Identifier: Apache-2.0
"""make_w8a8 HUGGING_FACE_FOLDER FOLDER: linear layers as int8 with one scale a row, activations quantised
to int8 a token when it runs. The head stays as it is."""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
folder.mkdir()
for file in source.iterdir():
    if file.suffix != ".safetensors":
        shutil.copy(file, folder)
tensors = {}
for name, value in load_file(source / "model.safetensors").items():
    if name.endswith("_proj.weight"):
        scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
        tensors[name] = torch.round(value / scale).to(torch.int8)
        tensors[name.replace("weight", "weight_scale")] = scale.to(torch.bfloat16)
    else:
        tensors[name] = value.to(torch.bfloat16)
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

integers = {"num_bits": 8, "type": "int", "symmetric": True}
config = json.loads((folder / "config.json").read_text())
config["dtype"] = config["torch_dtype"] = "bfloat16"
config["quantization_config"] = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {**integers, "strategy": "channel", "dynamic": False},
        "input_activations": {**integers, "strategy": "token", "dynamic": True}}}}
(folder / "config.json").write_text(json.dumps(config, indent=1))
