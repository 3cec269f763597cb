#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two streams at once over one WebSocket, told apart by their ids. Needs the package `websockets`.

    python3 examples/websocket_client.py 127.0.0.1:8080
"""

import asyncio
import json
import sys

import websockets

PROMPTS = {"sea": "The sea is", "sky": "The sky is"}


async def main(address):
    async with websockets.connect(f"ws://{address}/v1/stream") as connection:
        for name, prompt in PROMPTS.items():
            await connection.send(json.dumps({"op": "generate", "id": name, "prompt": prompt,
                                              "max_tokens": 24, "temperature": 0}))
        texts = dict.fromkeys(PROMPTS, "")
        running = set(PROMPTS)
        while running:
            event = json.loads(await connection.recv())
            if event["event"] == "token":
                texts[event["id"]] += event["text"]
                continue
            running.discard(event["id"])
            if event["event"] == "error":
                sys.exit(event["error"]["message"])
        for name, text in texts.items():
            print(f"{PROMPTS[name]}{text}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
