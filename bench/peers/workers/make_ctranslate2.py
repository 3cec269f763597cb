# SPDX-License-Identifier: Apache-2.0
"""make_ctranslate2 HUGGING_FACE_FOLDER TYPE FOLDER"""

import sys

from ctranslate2.converters import TransformersConverter

TransformersConverter(sys.argv[1], load_as_float16=False).convert(sys.argv[3], quantization=sys.argv[2])
