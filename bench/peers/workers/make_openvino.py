# SPDX-License-Identifier: Apache-2.0
"""make_openvino HUGGING_FACE_FOLDER int4|int8 FOLDER: weights compressed as the exporter does by default."""

import subprocess
import sys

source, kind, folder = sys.argv[1:]
command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", source,
           "--task", "text-generation-with-past", "--weight-format", kind]
if kind == "int4":
    command += ["--group-size", "32", "--ratio", "1.0"]
sys.exit(subprocess.run([*command, folder]).returncode)
