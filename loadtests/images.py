"""Images by the whole stack beside plain diffusers, sixteen at once, and how soon the device changes hands.

``python -m loadtests.images [--pipeline FOLDER] [--rounds 10] [--write]`` starts Ray, Serve, the manager and a gateway
around one image model, by default the packaged one. Plain diffusers draws with the same pipeline in a process of
its own, in turns with the stack, so that both have the same machine.
"""

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines.diffusers import places
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.job import Job
from loadtests import report
from tests.fakes import ROOT
from tests.fakes.control import FakeControl
from tests.fakes.gateway import GatewayProcess
from tests.support.cluster import Cluster

_MODEL = "bench"
_KEY = "sk-benchmark"
_PROMPT = "a yellow star on a purple background"
_STEPS = 25
# Of an image that takes about as long as one of a real model on a GPU does.
_LONG_STEPS = 150
_TOGETHER = 16
_TRIALS = 20


class Stack(Cluster):
    """An image model behind Serve, started by the manager."""

    def __init__(self, folder: Path, pipeline: Path, control: FakeControl) -> None:
        super().__init__(folder, gateway_url=control.url)
        self.start_head(control.url)
        spec = {
            "task": "image",
            "engine": "diffusers",
            "source": {"path": str(pipeline)},
            "scaling": {"maxInFlight": _TOGETHER},
            "diffusers": {"batchSize": _TOGETHER},
        }
        document = {"apiVersion": "aiia.dev/v1", "kind": "Model", "metadata": {"name": _MODEL}, "spec": spec}
        self.manager.request("PUT", f"/models/{_MODEL}", json=document).raise_for_status()
        self.manager.wait_state(_MODEL, "ready", 240)


# One for all, since making one takes longer than asking.
_client = httpx.Client(timeout=600, limits=httpx.Limits(keepalive_expiry=2))


def ask(gateway: GatewayProcess, seed: int, steps: int = _STEPS) -> str:
    body = {"model": _MODEL, "prompt": _PROMPT, "seed": seed, "steps": steps, "response_format": "b64_json"}
    headers = {"Authorization": f"Bearer {_KEY}"}
    answer = _client.post(f"{gateway.base_url}/images/generations", json=body, headers=headers)
    answer.raise_for_status()
    image: str = answer.json()["data"][0]["b64_json"]
    return image


_drawing: dict[str, Any] = {}


def _load(pipeline: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    # Processors are divided between sessions; the replica has one of its own as well.
    os.setsid()
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, dtype=torch.float32, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    _drawing["pipe"] = pipe


def _draw(seed: int, steps: int) -> None:
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    _drawing["pipe"](_PROMPT, num_inference_steps=steps, generator=generator).images[0].tobytes()


@contextmanager
def plain(pipeline: Path) -> Iterator[Callable[[int, int], None]]:
    """Draws with diffusers alone, as its documentation does, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_load, initargs=(pipeline,)) as pool:
        yield lambda seed, steps: pool.submit(_draw, seed, steps).result()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def whole_time(pipeline: Path, gateway: GatewayProcess, rounds: int) -> list[list[str]]:
    rows = []
    with plain(pipeline) as draw:
        for steps in (_STEPS, _LONG_STEPS):
            ask(gateway, 0, steps)
            draw(0, steps)
            pairs = [
                (timed(partial(draw, seed, steps)), timed(partial(ask, gateway, seed, steps))) for seed in range(rounds)
            ]
            bare, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(mine / theirs for theirs, mine in pairs)
            rows.append([f"one image, {steps} steps", f"{bare:.2f}", f"{ours:.2f}", f"{ratio:.3f}"])
    return rows


def together(gateway: GatewayProcess) -> list[str]:
    seeds = range(100, 100 + _TOGETHER)
    with ThreadPoolExecutor(_TOGETHER) as pool:
        list(pool.map(lambda seed: ask(gateway, seed), seeds))
        at_once = timed(lambda: list(pool.map(lambda seed: ask(gateway, seed), seeds)))
    one_by_one = timed(lambda: [ask(gateway, seed) for seed in seeds])
    rates = (_TOGETHER / one_by_one, _TOGETHER / at_once)
    return [f"{rates[0]:.2f}", f"{rates[1]:.2f}", f"{rates[1] / rates[0]:.2f}"]


async def latencies(pipeline: Path) -> list[list[str]]:
    options = DiffusersOptions()
    loader = Loader(_MODEL, pipeline, options.model_dump() | places(options, pipeline))
    memory: Memory[Placed] = Memory(Budget(10**10))
    memory.add(_MODEL, loader.load, loader.bytes)
    return await until_it_ends(memory, _MODEL, Job(work="generate", prompt=_PROMPT, steps=_STEPS, seed=0))


async def until_it_ends(memory: Memory[Placed], model: str, job: Job) -> list[list[str]]:
    """Steps that ``job`` still makes after an urgent one came, and after it was cancelled, at random moments: what,
    times tried, p50, most."""
    moment = random.Random(0)
    with memory.using(model) as placed:
        steps = [0]
        placed.model.network.register_forward_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
        found: dict[str, list[int]] = {"preemption": [], "cancel": []}
        for trial in range(_TRIALS * 2):
            kind = "preemption" if trial % 2 else "cancel"
            found[kind].append(await _latency(Engine(memory, model, news_every_s=0), job, steps, moment, kind))
    return [
        [kind, str(len(values)), f"{statistics.median(values):.0f}", str(max(values))] for kind, values in found.items()
    ]


async def _latency(engine: Engine, job: Job, steps: list[int], moment: random.Random, kind: str) -> int:
    patient = await engine.submit(job.model_copy(update={"priority": "batch"}))
    events = patient.events()
    after = moment.randrange(1, max(2, (job.steps or _STEPS) - 3))
    async for event in events:
        if event["type"] == "step" and event["step"] == after:
            break
    # At any place within a step.
    await asyncio.sleep(moment.random() * 0.02)
    if kind == "cancel":
        before = steps[0]
        patient.cancel()
        await engine.idle()
        return steps[0] - before
    urgent = await engine.submit(job.model_copy(update={"steps": 1, "seed": 1, "priority": "interactive"}))
    before = steps[0]
    async for event in urgent.events():
        if event["type"] == "step":
            break
    made = steps[0] - before - 1
    await engine.idle()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, default=ROOT / "models" / "aiia-shapes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pipeline = options.pipeline.resolve()
    about = report.machine()
    with tempfile.TemporaryDirectory() as folder, FakeControl() as control:
        control.add_key(_KEY, "bench")
        stack = Stack(Path(folder), pipeline, control)
        try:
            with GatewayProcess(control.url, stack.manager.url) as gateway:
                whole = whole_time(pipeline, gateway, options.rounds)
                many = together(gateway)
        finally:
            stack.stop()
    hands = asyncio.run(latencies(pipeline))
    text = "\n\n".join(
        (
            f"{about}, no GPU, one thread. {pipeline.name}, {_STEPS} steps where nothing else is said.",
            report.table(["", "plain diffusers (s)", "through the gateway (s)", "ratio"], whole),
            report.table(
                ["", "one by one (images/s)", "at once (images/s)", "times"], [[f"{_TOGETHER} requests", *many]]
            ),
            report.table(["steps until", "times tried", "p50", "most"], hands),
        )
    )
    print(text)
    if options.write:
        report.write("images", text)


if __name__ == "__main__":
    main()
