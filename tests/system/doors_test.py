# SPDX-License-Identifier: Apache-2.0
"""What the doors promise beside the text: answers in order and in bounded memory, scores with their text."""

import asyncio
import json
import socket
import threading
import unittest

from server import TINY, Lines, Server, main

try:
    import websockets
except ImportError:
    websockets = None

PROMPT = "The lighthouse keeper wrote the name of every ship in a book. " * 40
ECHO = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}


class DoorsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--set", "log.level=warn")

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None)

    def test_any_number_of_pipelined_requests_is_answered_in_bounded_memory(self):
        count = 3000
        ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        before = self.server.metric("process_resident_memory_bytes")
        with socket.create_connection((self.server.host, self.server.http_port), timeout=60) as peer:
            writer = threading.Thread(target=peer.sendall, args=(ask * count,))
            writer.start()
            with peer.makefile("rb") as answers:
                for _ in range(count):
                    self.assertEqual(answers.readline(), b"HTTP/1.1 200 OK\r\n")
                    length = 0
                    while (line := answers.readline()) != b"\r\n":
                        if line.startswith(b"Content-Length: "):
                            length = int(line[16:])
                    self.assertEqual(len(answers.read(length)), length)
            writer.join()
        grown = self.server.metric("process_resident_memory_bytes") - before
        if not TINY:  # a sanitizer keeps what was freed for a while
            self.assertLess(grown, 16 << 20)

    def check_pieces(self, pieces):
        """Every piece's tokens are its text, and the scores are those of the whole answer."""
        for text, logprobs in pieces:
            self.assertEqual("".join(logprobs["tokens"]), text)
        status, whole = self.server.post("/v1/completions", ECHO)
        self.assertEqual(status, 200)
        choice = whole["choices"][0]
        self.assertTrue(choice["text"].startswith(PROMPT))
        self.assertEqual("".join(text for text, _ in pieces), choice["text"])
        for key, values in choice["logprobs"].items():
            self.assertEqual([one for _, logprobs in pieces for one in logprobs[key]], values)

    def test_echoed_scores_come_with_their_text_as_events(self):
        status, data = self.server.request("POST", "/v1/completions", {**ECHO, "stream": True})
        self.assertEqual(status, 200)
        events = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
        choices = [json.loads(event)["choices"][0] for event in events[:-1]]
        self.check_pieces([(choice["text"], choice["logprobs"]) for choice in choices if choice["text"]])

    def test_echoed_scores_come_with_their_text_as_lines(self):
        with Lines(self.server) as lines:
            lines.send(op="generate", id=1, **ECHO)
            pieces = []
            while (event := lines.receive())["event"] == "token":
                pieces.append((event["text"], event["logprobs"]))
        self.check_pieces(pieces)

    @unittest.skipIf(websockets is None, "the package websockets is not here")
    def test_echoed_scores_come_with_their_text_as_messages(self):
        async def run():
            url = f"ws://{self.server.host}:{self.server.http_port}/v1/stream"
            async with websockets.connect(url) as door:
                await door.send(json.dumps({"op": "generate", "id": 1, **ECHO}))
                pieces = []
                while (event := json.loads(await door.recv()))["event"] == "token":
                    pieces.append((event["text"], event["logprobs"]))
                return pieces

        self.check_pieces(asyncio.run(run()))

    def test_bytes_of_a_partial_character_are_the_tokens_own(self):
        status, answer = self.server.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Write one emoji \U0001F600\U0001F600"}],
            "max_tokens": 12, "temperature": 0, "logprobs": True})
        self.assertEqual(status, 200)
        choice = answer["choices"][0]
        data = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"])
        self.assertEqual(data.decode(errors="replace"), choice["message"]["content"])
        self.assertIn("\ufffd", "".join(token["token"] for token in choice["logprobs"]["content"]))


if __name__ == "__main__":
    main()
