#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A chat through the official `openai` client.

    python3 examples/openai_client.py 127.0.0.1:8080 "Why is the sky blue?"
"""

import sys

import openai


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    client = openai.OpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="none")
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": sys.argv[2]}],
        max_tokens=64, temperature=0, stream=True)
    for chunk in answer:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
