"""An engine that costs nothing: replicas that count for as long as they are told, and can sleep.

Run as a program it is the manager, with this engine in the place of ours.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from aiia_serving.autoscaling.decision import Rules
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.engines.autoscaling import scaled


class Server:
    """`GET …/count/<seconds>` streams numbers, ten a second, then `[DONE]`. Asleep it answers 503.

    `GET …/enough` ends all streams of now, as if they had come to their end.
    """

    def __init__(self, start_s: float) -> None:
        import time

        time.sleep(start_s)
        self._asleep = False
        self._enough = 0

    async def sleep(self) -> None:
        self._asleep = True

    async def wake_up(self) -> None:
        self._asleep = False

    async def __serve_build_asgi_app__(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[Route("/{path:path}", self._answer)])

    async def _answer(self, request: Any) -> Any:
        from starlette.responses import Response, StreamingResponse

        if self._asleep:
            return Response(status_code=503)
        if request.url.path.endswith("/enough"):
            self._enough += 1
            return Response()
        numbers = self._count(float(request.url.path.rsplit("/", 1)[1]))
        return StreamingResponse(numbers, media_type="text/event-stream")

    async def _count(self, seconds: float) -> Any:
        before = self._enough
        for number in range(int(seconds * 10)):
            if self._enough != before:
                break
            yield f"data: {json.dumps({'pid': os.getpid(), 'number': number})}\n\n"
            await asyncio.sleep(0.1)
        yield "data: [DONE]\n\n"


def build(args: dict[str, Any]) -> Any:
    from ray import serve

    options = {"max_ongoing_requests": 1000, "graceful_shutdown_timeout_s": 600, "health_check_period_s": 1}
    deployment = serve.deployment(serve.ingress()(Server), name=f"Server:{args['model']}", **options)
    return deployment.bind(args["start_s"])


def application(document: ModelDocument, cache: Path, rules: Rules) -> dict[str, Any]:
    return {
        "name": document.id,
        "route_prefix": f"/{document.id}",
        "import_path": "tests.serving.cheap:build",
        "args": {"model": document.id, "start_s": float(document.metadata.annotations.get("start-s", "0"))},
        "deployments": [scaled(document, rules)],
    }


async def main() -> None:
    from aiia_serving.engines.environment import RaySettings
    from aiia_serving.logs import configure_logging
    from aiia_serving.manager.__main__ import serve
    from aiia_serving.manager.board import Board
    from aiia_serving.manager.local import LocalModels
    from aiia_serving.manager.manager import Manager
    from aiia_serving.manager.wishes import Wishes

    configure_logging()
    settings, board = RaySettings.from_environment(), Board()
    wishes = Wishes(settings.data_dir / "manager" / "wishes.json")
    await serve(Manager(settings, LocalModels(board, settings, wishes, application), board, wishes))


if __name__ == "__main__":
    asyncio.run(main())
