# SPDX-License-Identifier: Apache-2.0
"""The same model in every form a peer runs best: made once from the one GGUF file, kept beside the peers."""

from install import llama_tool, python
from places import PEERS, model, run

FORMS = PEERS / "forms"
LLAMA_TYPES = ["Q4_0", "Q8_0", "BF16"]
OPENVINO_TYPES = ["int4", "int8"]


def llama_file(kind):
    """`kind`: the file itself (Q4_1), or one in which every tensor has that type."""
    if kind == "Q4_1":
        return model()
    path = FORMS / f"pure-{kind}.gguf"
    if not path.exists():
        FORMS.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        run(llama_tool("llama-quantize"), "--allow-requantize", "--pure", model(), partial, kind)
        partial.replace(path)
    return path


def made_by(script, folder, *words):
    """A folder that a script of workers/ makes; whole or not there."""
    path = FORMS / folder
    if not path.exists():
        FORMS.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        run(python(words[0]), "-m", f"workers.{script}", *words[1:], partial, cwd=__file__.rsplit("/", 1)[0])
        partial.replace(path)
    return path


def hugging_face():
    """The dequantised weights in float32, as transformers saves them."""
    return made_by("make_hugging_face", "hugging-face-f32", "transformers", model())


def w8a8():
    """int8 weights a row and int8 activations a token, in the compressed-tensors form that vLLM reads."""
    return made_by("make_w8a8", "w8a8", "transformers", hugging_face())


def ctranslate2(kind):
    return made_by("make_ctranslate2", f"ctranslate2-{kind}", "ctranslate2", hugging_face(), kind)


def openvino(kind):
    return made_by("make_openvino", f"openvino-{kind}", "openvino", hugging_face(), kind)
