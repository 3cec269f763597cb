#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Streams a completion over TCP lines, with nothing but the standard library.

    python3 examples/tcp_client.py 127.0.0.1:8081 "The capital of France is"
"""

import json
import socket
import sys


def stream(address, prompt, **parameters):
    """Yields the pieces of text as they come; raises when the server reports an error."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        request = {"op": "generate", "id": "1", "prompt": prompt, **parameters}
        connection.sendall(json.dumps(request).encode() + b"\n")
        for line in connection.makefile("r", encoding="utf-8", newline="\n"):
            event = json.loads(line)
            if event["event"] == "token":
                yield event["text"]
            elif event["event"] == "done":
                return
            else:
                raise RuntimeError(event["error"]["message"])
        raise RuntimeError("the server closed the connection early")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for text in stream(sys.argv[1], sys.argv[2], max_tokens=48, temperature=0):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
