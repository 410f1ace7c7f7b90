"""A gateway that says what a test tells it to: real answers at a set speed, every phase, every failure."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MARKDOWN = """Rome was not built in a day, but **three days** are enough to see its heart. Start early: the light is \
better and the queues are short.

## Three days

1. *Ancient Rome*: the Forum, the Palatine and the Colosseum
2. *The Vatican*: the museums first, then the dome of St Peter's
3. *Trastevere*: no plan at all

Booking tickets can be scripted:

```python
from datetime import date, timedelta

def days(start: date, count: int = 3) -> list[date]:
    # One entry per day, the first included.
    return [start + timedelta(days=i) for i in range(count)]

print(days(date(2027, 4, 12)))
```

| Sight | Opens | Price in € |
| --- | --- | --: |
| Colosseum | 08:30 | 18.00 |
| Vatican Museums | 08:00 | 20.00 |
| Pantheon | 09:00 | 5.00 |

> Wear shoes that you trust.

More at [the city's own pages](https://www.turismoroma.it/), or run `trip --city rome`.
"""

READY = {"state": "ready", "reason": "", "progress": None, "eta_s": None}


@dataclass
class Script:
    """What the gateway does, settable while it runs. Times in seconds."""

    text: str = MARKDOWN
    reasoning: str = ""
    #: What it says instead to a conversation that has a text in it: `{text: answer}`.
    says: dict[str, str] = field(default_factory=dict)
    tokens_per_second: float = 2000
    #: Status events before the answer.
    phases: list[dict[str, Any]] = field(default_factory=list)
    #: Waits after them until the test says so.
    hold: threading.Event | None = None
    #: An error that ends the stream after `error_after` tokens.
    error: str = ""
    error_after: int = 0
    model: dict[str, Any] = field(default_factory=lambda: dict(READY))


class ScriptedGateway:
    """`/v1/models` and `/v1/chat/completions` on a port of its own, in a thread."""

    def __init__(self) -> None:
        self.script = Script()
        #: Streams that somebody is reading.
        self.running = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def start(self) -> "ScriptedGateway":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def wait_idle(self, timeout: float = 5) -> None:
        """Until nobody reads a stream."""
        deadline = time.monotonic() + timeout
        while self.running:
            assert time.monotonic() < deadline, f"{self.running} streams are being read"
            time.sleep(0.02)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def _models(self, request: web.Request) -> web.Response:
        more = {"title": "Scripted", "task": "chat", "max_model_len": 8192, "exact_continuation": False}
        model = {"id": "scripted", "object": "model", "aiia": more | self.script.model}
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            for phase in script.phases:
                await self._send(response, phase, "aiia.status")
            if script.hold:
                await asyncio.to_thread(script.hold.wait)
            await self._send(response, {"phase": "running"}, "aiia.status")
            tokens = [("reasoning_content", t) for t in _tokens(script.reasoning)]
            asked = await request.text()
            said = next((said for text, said in script.says.items() if text in asked), script.text)
            tokens += [("content", t) for t in _tokens(said)]
            for number, (channel, token) in enumerate(tokens):
                if script.error and number >= script.error_after:
                    break
                await self._send(response, {"choices": [{"index": 0, "delta": {channel: token}}]})
                await asyncio.sleep(1 / script.tokens_per_second)
            if script.error:
                error = {"message": script.error, "type": "invalid_request_error", "param": None}
                await self._send(response, {"error": error | {"code": "context_length_exceeded", "status": 400}})
                return response
            usage = {"prompt_tokens": 12, "completion_tokens": len(tokens)}
            await self._send(
                response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
            )
            await response.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
        return response

    async def _send(self, response: web.StreamResponse, data: object, event: str = "") -> None:
        head = f"event: {event}\n" if event else ""
        await response.write(f"{head}data: {json.dumps(data)}\n\n".encode())


def _tokens(text: str) -> list[str]:
    """Pieces of a few characters, as a model makes them."""
    return [text[i : i + 4] for i in range(0, len(text), 4)]
