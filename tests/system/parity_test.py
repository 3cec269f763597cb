# SPDX-License-Identifier: Apache-2.0
"""The official clients and the plain ones stream the same text for the same seed."""

import asyncio
import json
import subprocess
import sys
import unittest

from server import MODEL, PROGRAM, SKIPPED, Lines, Server, main

try:
    import openai
    import websockets
except ImportError:
    print("skipped: the packages openai and websockets are not here (scripts/test makes build/venv)")
    sys.exit(SKIPPED)

PROMPT = "The lighthouse keeper opened the door and"
PARAMETERS = {"max_tokens": 40, "temperature": 0.9, "seed": 1234}
MESSAGES = [{"role": "user", "content": "Name three colours."}]


class ParityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--set", "log.level=warn")
        cls.client = openai.OpenAI(base_url=cls.server.base + "/v1", api_key="none", max_retries=0)
        cls.model = cls.client.models.list().data[0].id
        with Lines(cls.server) as lines:
            cls.text = lines.generate(PROMPT, **PARAMETERS)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__(None)

    def test_the_text_is_not_empty(self):
        self.assertGreater(len(self.text), 20)

    def test_openai_client_streams_the_same_text(self):
        chunks = self.client.completions.create(model=self.model, prompt=PROMPT, stream=True, **PARAMETERS)
        texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
        self.assertEqual("".join(texts), self.text)
        self.assertGreater(len(texts), 5)

    def test_openai_client_gets_the_same_text_whole(self):
        answer = self.client.completions.create(model=self.model, prompt=PROMPT, **PARAMETERS)
        self.assertEqual(answer.choices[0].text, self.text)
        self.assertEqual(answer.usage.completion_tokens + answer.usage.prompt_tokens,
                         answer.usage.total_tokens)

    def test_websocket_streams_the_same_text(self):
        async def run():
            async with websockets.connect(f"ws://{self.server.host}:{self.server.http_port}/v1/stream") as door:
                await door.send(json.dumps({"op": "generate", "id": "a", "prompt": PROMPT, **PARAMETERS}))
                text = ""
                while True:
                    event = json.loads(await door.recv())
                    if event["event"] == "done":
                        return text
                    text += event["text"]

        self.assertEqual(asyncio.run(run()), self.text)

    def test_curl_streams_the_same_text(self):
        body = json.dumps({"prompt": PROMPT, "stream": True, **PARAMETERS})
        run = subprocess.run(["curl", "-sSN", "--fail-with-body", self.server.base + "/v1/completions", "-H",
                              "Content-Type: application/json", "-d", body],
                             capture_output=True, text=True, check=True)
        events = [line[6:] for line in run.stdout.split("\n") if line.startswith("data: ")]
        self.assertEqual(events[-1], "[DONE]")
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        self.assertEqual("".join(choice["text"] for choice in choices), self.text)

    def test_the_program_completes_the_same_text(self):
        run = subprocess.run([PROGRAM, "complete", "--model", MODEL, "--max-tokens", "40", "--temperature",
                              "0.9", "--seed", "1234", PROMPT], capture_output=True, check=True)
        self.assertEqual(run.stdout.decode(), self.text)  # as bytes: text mode would change a CR

    def test_chat_is_the_same_by_openai_client_and_lines(self):
        chunks = self.client.chat.completions.create(model=self.model, messages=MESSAGES, stream=True, **PARAMETERS)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        with Lines(self.server) as lines:
            lines.send(op="chat", id="c", messages=MESSAGES, **PARAMETERS)
            self.assertEqual(lines.collect("c")[0], text)
        self.assertTrue(text)

    def test_a_bad_parameter_is_a_400_that_names_it(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.client.completions.create(model=self.model, prompt=PROMPT, temperature=-1)
        self.assertEqual(raised.exception.param, "temperature")


if __name__ == "__main__":
    main()
