"""The engine of one replica: takes jobs, gives each its events, and computes their images on one device."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiia_serving.images.engine.batch import first_batch
from aiia_serving.images.engine.courier import Courier
from aiia_serving.images.engine.failures import again_alone, out_of_memory, problem_of
from aiia_serving.images.engine.gate import Cancelled, Gate, Rank, Turn
from aiia_serving.images.engine.memory import Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.engine.progress import Pace
from aiia_serving.images.engine.run import Loading, News, Phase, Picture, Run, Step, check
from aiia_serving.images.engine.workers import Workers
from aiia_serving.images.job import Job
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.works import Call, Ready, prepare

_RANKS = {"interactive": 0, "api": 1, "batch": 2}
# One whose model has to be brought first lets others go before it for so many times as long as that takes.
_PATIENCE = 2.0
# Steps that are shorter are told several at a time.
NEWS_EVERY_S = 0.05

Event = dict[str, Any]


class Submission:
    """A job in the engine. Its events end after the last image, or after an error."""

    def __init__(self, engine: "Engine", job: Job, model: str, rank: Rank) -> None:
        self._engine = engine
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.job = job
        self.model = model
        self.rank = rank
        self.gpu_ms = 0.0
        self.over = False
        self.complete = False
        self._steps = 0
        self._done: dict[int, int] = {}
        self._missing = 0
        self._place = 0

    def images(self, ready: Ready) -> list["Image"]:
        """Its images, now that it was checked."""
        self._steps = ready.cost_steps
        self._done = dict.fromkeys(range(len(ready.calls)), 0)
        self._missing = len(ready.calls)
        return [Image(self, call) for call in ready.calls]

    async def events(self) -> AsyncGenerator[Event, None]:
        """What happens, by the replica's contract. Closing the iterator early cancels the job."""
        try:
            while (event := await self._events.get()) is not None:
                yield event
        finally:
            self.cancel()

    def at_hand(self) -> list[Event]:
        """The events that have happened and were not taken yet; ``events`` goes on after them."""
        found: list[Event] = []
        while not self._events.empty():
            event = self._events.get_nowait()
            if event is None:
                self._events.put_nowait(None)
                break
            found.append(event)
        return found

    def cancel(self) -> None:
        """Its images are not computed on after the step that runs. Does nothing when it is over."""
        if not self.over:
            self._end()
            self._engine._forget(self)

    def wait_at(self, place: int) -> None:
        """It has this place among the waiting jobs, counted from 1."""
        if place != self._place:
            self._place = place
            self._tell({"type": "waiting", "position": place})

    def hear(self, calls: Sequence[tuple[int, Call]], news: News, begun: "_Begun") -> None:
        """What happened to these of its images, which have these places in their batch."""
        match news:
            case Loading(what, eta_s):
                self._tell({"type": "loading", "what": what, "eta_s": eta_s})
            case Phase(name):
                self._tell({"type": name})
            case Step(done, eta_s, previews):
                self._done.update((call.index, done) for _, call in calls)
                steps = sum(self._done.values())
                if eta_s is not None:
                    # Its images that are still to come take as long as those of this batch.
                    eta_s += begun.each_s(eta_s) * (self._missing - len(calls))
                self._tell({"type": "step", "step": steps, "steps": self._steps, "eta_s": eta_s})
                if previews and self.job.previews:
                    for place, call in calls:
                        self._tell({"type": "preview", "index": call.index, "step": done, "image": previews[place]})

    def deliver(self, picture: Picture) -> None:
        """One of its images is finished; with the last, the job is."""
        self._tell(
            {
                "type": "image",
                "index": picture.call.index,
                "image": picture.png,
                "seed": picture.call.seed,
                "recipe": picture.recipe,
            }
        )
        self._missing -= 1
        if not self._missing and not self.over:
            self.complete = True
            self._tell({"type": "usage", "gpu_ms": round(self.gpu_ms, 3), "steps": self._steps})
            self._end()

    def fail(self, problem: ImageProblem) -> None:
        """It ends with this; its other images are given up."""
        self._tell(problem.event())
        self.cancel()

    def _tell(self, event: Event) -> None:
        if not self.over:
            self._events.put_nowait(event)

    def _end(self) -> None:
        self.over = True
        self._events.put_nowait(None)


@dataclass(eq=False)
class Image:
    """One image that is wanted. ``alone``: not with others any more; ``again``: it is tried for the last time.

    ``call`` None stands for all images of a job that is not checked yet, because its model is not in memory.
    """

    submission: Submission
    call: Call | None
    alone: bool = False
    again: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def rank(self) -> Rank:
        return self.submission.rank

    @property
    def key(self) -> Hashable | None:
        if self.alone or self.call is None or self.call.key is None:
            return None
        return (self.submission.model, self.call.key)

    @property
    def model(self) -> str:
        return self.submission.model


class Engine:
    """Belongs to one event loop; what a ``Run`` does is done in a thread for each batch that has begun.

    What happens in the thread is told every ``news_every_s`` seconds at most.
    """

    def __init__(
        self, memory: Memory[Placed], default: str, batch_size: int = 1, news_every_s: float = NEWS_EVERY_S
    ) -> None:
        self._memory = memory
        self._default = default
        self._batch_size = batch_size
        self._news_every_s = news_every_s
        self._known_to_do: dict[str, dict[str, Any]] = {}
        self._gate = Gate()
        self._pace = Pace()
        self._waiting: list[Image] = []
        self._begun: list[_Begun] = []
        self._arrivals = itertools.count()
        self._workers = Workers()
        # Tokenizers are not for two threads at once.
        self._words = threading.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def memory(self) -> Memory[Placed]:
        return self._memory

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and no thread computes."""
        return self._idle.is_set()

    async def idle(self) -> None:
        """Returns when it ``is_idle``."""
        await self._idle.wait()

    async def capabilities(self, model: str | None = None) -> dict[str, Any]:
        """What a model can do; loads it the first time. Raises ``ImageProblem`` for a name that is not known."""
        name = self._known(model)

        def ask() -> dict[str, Any]:
            with self._memory.using(name) as held:
                return held.model.capabilities()

        if name not in self._known_to_do:
            self._known_to_do[name] = await asyncio.to_thread(ask)
        return self._known_to_do[name]

    async def submit(self, job: Job, model: str | None = None) -> Submission:
        """The job, in the queue. Raises ``ImageProblem`` for one that cannot be done; nothing has started then.

        If its model is not in memory it is checked when its turn has come, and may then end with the same problem.
        """
        name = self._known(model)

        def check_now() -> Ready | None:
            with self._memory.using_if_there(name) as held:
                if held is None:
                    return None
                with self._words:
                    return prepare(job, held.model)

        ready = await asyncio.to_thread(check_now)
        submission = Submission(self, job, name, (_RANKS[job.priority], next(self._arrivals)))
        self._waiting += [Image(submission, None)] if ready is None else submission.images(ready)
        self._go_on()
        return submission

    def _known(self, model: str | None) -> str:
        name = model or self._default
        if name not in self._memory.names:
            raise ImageProblem(f"There is no model '{name}' here.", code="unknown_model", param="model", status=404)
        return name

    def _go_on(self) -> None:
        """Begins what may begin."""
        batch = self._next()
        if batch:
            self._begin(batch)
        self._tell_places()
        if self._waiting or self._begun:
            self._idle.clear()
        else:
            self._idle.set()

    def _next(self) -> list[Image]:
        """The batch to begin, if one may: of the most urgent images, those whose model is there may pass others."""
        urgency = min((image.rank[0] for image in self._waiting), default=0)
        urgent = [image for image in self._waiting if image.rank[0] == urgency]
        possible = {model for model in {image.model for image in urgent} if self._may_begin(model, urgency)}
        waiting = [image for image in urgent if image.model in possible]
        if not waiting:
            return []
        first = min(waiting, key=lambda image: image.rank)
        bringing_s = 0.0 if self._memory.is_ready(first.model) else self._memory.eta_s(first.model) or 0.0
        if time.monotonic() - first.since < _PATIENCE * bringing_s:
            there = [image for image in waiting if self._memory.is_ready(image.model)]
            waiting = there or waiting
        return first_batch(waiting, self._batch_size)

    def _may_begin(self, model: str, urgency: int) -> bool:
        """Whether there is room beside all that has begun, and nothing runs that is as urgent."""
        begun = {one.model for one in self._begun}
        # A thread that waited for room could not take the device from the one that has it.
        if model not in begun and not self._memory.fit({model, *begun}):
            return False
        running = [one for one in self._begun if not one.abandoned and one.rank[0] <= urgency]
        # Those that wait for their model hold up none whose model is there.
        return all(self._memory.is_ready(model) and not self._memory.is_ready(one.model) for one in running)

    def _begin(self, images: list[Image]) -> None:
        self._waiting = [image for image in self._waiting if image not in images]
        first = images[0].submission
        turn = self._gate.turn(first.rank)
        work: Callable[[Callable[[News], None]], Ready | list[Picture]]
        calls = [image.call for image in images if image.call is not None]
        if calls:
            wanted = [image.submission.job.previews for image in images if image.submission.job.previews]
            work = Run(calls, first.model, min(wanted, default=0), turn, self._memory, self._pace, self._words).compute
        else:
            work = partial(check, first.job, first.model, turn, self._memory, self._words)
        begun = _Begun(turn, images)
        self._begun.append(begun)
        courier = Courier(partial(self._happened, begun), self._news_every_s)

        def ended(outcome: Ready | list[Picture] | BaseException) -> None:
            courier.deliver()
            self._ended(begun, outcome)

        def compute() -> Ready | list[Picture] | BaseException:
            try:
                return work(courier.send)
            except BaseException as error:
                return error

        self._workers.do(compute, partial(courier.call, ended))

    def _happened(self, begun: "_Begun", news: News) -> None:
        of_each: dict[Submission, list[tuple[int, Call]]] = {}
        for place, image in enumerate(begun.images):
            calls = of_each.setdefault(image.submission, [])
            if image.call is not None:
                calls.append((place, image.call))
        for submission, calls in of_each.items():
            submission.hear(calls, news, begun)

    def _ended(self, begun: "_Begun", outcome: Ready | list[Picture] | BaseException) -> None:
        self._begun.remove(begun)
        share = begun.turn.held_s * 1000 / len(begun.images)
        for image in begun.images:
            image.submission.gpu_ms += share
        if isinstance(outcome, Ready):
            checked = begun.images[0].submission
            if not checked.over:
                self._waiting += checked.images(outcome)
        elif isinstance(outcome, list):
            for image, picture in zip(begun.images, outcome, strict=True):
                image.submission.deliver(picture)
        elif not isinstance(outcome, Cancelled):
            self._failed(begun.images, outcome)
        self._go_on()

    def _failed(self, images: list[Image], error: BaseException) -> None:
        # What is not understood is in the log also if each of them succeeds alone.
        problem = problem_of(error)
        if again_alone(error, len(images)) or (out_of_memory(error) and not images[0].again):
            for image in images:
                if not image.submission.over:
                    image.alone = image.again = True
                    self._waiting.append(image)
            return
        for image in images:
            image.submission.fail(problem)

    def _forget(self, submission: Submission) -> None:
        self._waiting = [image for image in self._waiting if image.submission is not submission]
        for begun in self._begun:
            if begun.abandoned:
                begun.turn.cancel()
        self._memory.wake()
        self._go_on()

    def _tell_places(self) -> None:
        ranks = sorted({image.rank for image in self._waiting})
        running = {image.rank for begun in self._begun for image in begun.images}
        for image in self._waiting:
            if image.rank not in running:
                image.submission.wait_at(ranks.index(image.rank) + 1)


@dataclass(eq=False)
class _Begun:
    turn: Turn
    images: list[Image]

    @property
    def rank(self) -> Rank:
        return self.images[0].rank

    @property
    def model(self) -> str:
        return self.images[0].model

    @property
    def abandoned(self) -> bool:
        return all(image.submission.over for image in self.images)

    def each_s(self, left_s: float) -> float:
        """How long each of its images takes, if there are so many seconds left."""
        return (self.turn.held_s + left_s) / len(self.images)
