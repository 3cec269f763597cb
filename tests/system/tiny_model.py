# SPDX-License-Identifier: Apache-2.0
"""Makes a folder with a tiny model that the system tests can run on, from the random checkpoint that is
kept for the architecture's own tests. Usage: tiny_model.py FOLDER

It knows no language; what it says for a prompt and a seed is as fixed as any model's. Beside the
checkpoint it has what the tests ask of a model: room for long prompts, a chat template, no BOS."""

import json
import pathlib
import shutil
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[1] / "data/reference/architectures/qwen2"
CONTEXT = 8192
VOCABULARY = 320
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
          "'<|im_end|>' + '\\n'}}{% endfor %}")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                 "tokenizer_config.json"]:
        shutil.copyfile(SOURCE / name, folder / name)
    edit(folder / "config.json", max_position_embeddings=CONTEXT)
    edit(folder / "tokenizer_config.json", chat_template=CHATML)


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
