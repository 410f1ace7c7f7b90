"""HTTP of the image engine: jobs as streams of events, what the model can do, health and metrics."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aiia_serving import tracing
from aiia_serving.images.engine.engine import Engine, Event, Submission
from aiia_serving.images.engine.failures import problem_of
from aiia_serving.images.job import Job
from aiia_serving.images.problem import ImageProblem
from aiia_serving.replica import Traced

log = logging.getLogger(__name__)

_JOBS = "/v1/images/jobs"
# A proxy notices that the caller is gone when it writes.
_BEAT_S = 1.0


def http_application(engine: Engine, replica: str) -> Starlette:
    """The replica's contract (see ``aiia_serving.images``) over an engine of the loop that serves it.

    ``replica`` is its name among those of the same model.
    """
    metrics = _Metrics(engine)

    def refused(problem: ImageProblem) -> Response:
        metrics.jobs.labels("refused").inc()
        tracing.ended("refused" if problem.status < 500 else "failed")
        return JSONResponse(problem.body(), problem.status)

    async def jobs(request: Request) -> Response:
        try:
            job = Job.parse(json.loads(await request.body()))
            submission = await engine.submit(job, request.query_params.get("model"))
        except ValueError:
            return refused(ImageProblem("The body is not JSON.", code="invalid_json"))
        except Exception as error:
            return refused(problem_of(error))
        return _Events(submission, metrics)

    async def capabilities(request: Request) -> Response:
        try:
            return JSONResponse(await engine.capabilities(request.query_params.get("model")))
        except ImageProblem as problem:
            return refused(problem)

    async def states(_: Request) -> Response:
        return JSONResponse(
            {
                "replica": replica,
                "models": engine.memory.states(),
                "waiting": engine.waiting,
                "idle": engine.is_idle,
            }
        )

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route(_JOBS, jobs, methods=["POST"], middleware=[Middleware(Traced, f"POST {_JOBS}")]),
            Route("/v1/images/capabilities", capabilities),
            Route("/v1/images/states", states),
            Route("/health", health),
            Route("/metrics", show_metrics),
        ]
    )


class _Events(Response):
    """Server-sent events of one job. It is cancelled as soon as the caller is gone."""

    media_type = "text/event-stream"

    def __init__(self, submission: Submission, metrics: "_Metrics") -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._submission = submission
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "cancelled"
        watching = asyncio.create_task(self._until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for line in self._lines():
                await send({"type": "http.response.body", "body": line, "more_body": True})
            outcome = self._metrics.outcome(self._submission)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            outcome = "cancelled"
        finally:
            watching.cancel()
            self._submission.cancel()
            self._metrics.jobs.labels(outcome).inc()
            self._metrics.gpu_ms.inc(self._submission.gpu_ms)
            tracing.ended(outcome, gpu_ms=self._submission.gpu_ms)
            if outcome == "failed":
                # The engine, which computes for several at once, has told why.
                log.error("a job failed")

    async def _lines(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._submission.events()) as events:
            coming = asyncio.ensure_future(anext(events, None))
            while True:
                done, _ = await asyncio.wait({coming}, timeout=_BEAT_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                event: Event | None = coming.result()
                if event is None:
                    break
                yield b"".join(_data(one) for one in (event, *self._submission.at_hand()))
                coming = asyncio.ensure_future(anext(events, None))
        yield b"data: [DONE]\n\n"

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._submission.cancel()


def _data(event: Event) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


class _Metrics:
    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.jobs = Counter(
            "aiia_engine_requests", "Image jobs by how they ended", ["outcome"], registry=self._registry
        )
        self.gpu_ms = Counter("aiia_engine_gpu_ms", "Milliseconds that images had the device", registry=self._registry)
        waiting = Gauge("aiia_engine_waiting_images", "Images that wait in the replica", registry=self._registry)
        waiting.set_function(lambda: engine.waiting)
        memory = Gauge("aiia_engine_memory_bytes", "Bytes of models", ["place"], registry=self._registry)
        memory.labels("device").set_function(lambda: engine.memory.used()[0])
        memory.labels("main").set_function(lambda: engine.memory.used()[1])

    def outcome(self, submission: Submission) -> str:
        return "complete" if submission.complete else "failed"

    def text(self) -> bytes:
        found: bytes = generate_latest(self._registry)
        return found
