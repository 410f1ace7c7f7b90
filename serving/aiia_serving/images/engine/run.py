"""One batch from its loading to its pixels, in a thread of its own."""

import base64
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from aiia_serving.images.engine import checks
from aiia_serving.images.engine.failures import free_cached, out_of_memory
from aiia_serving.images.engine.gate import Turn
from aiia_serving.images.engine.memory import Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.engine.previews import Projection, encoded, projection, unpacked
from aiia_serving.images.engine.progress import Pace, Watch
from aiia_serving.images.job import Job
from aiia_serving.images.model import Model
from aiia_serving.images.problem import NAN, ImageProblem
from aiia_serving.images.recipe import recipe
from aiia_serving.images.works import Batch, Call, Ready, assemble, prepare

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """A finished image: base64 of a PNG, and what makes it again."""

    call: Call
    png: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step ended. ``previews`` has base64 of a JPEG for each image of the batch, or nothing."""

    done: int
    eta_s: float | None
    previews: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loading:
    """The batch waits until this is in memory."""

    what: str
    eta_s: float | None


@dataclass(frozen=True)
class Phase:
    """``preempted``, ``resumed``, ``decoding``, or ``again``: from the first step, in a wider precision."""

    name: str


News = Step | Loading | Phase


def check(
    job: Job,
    name: str,
    turn: Turn,
    memory: Memory[Placed],
    words: threading.Lock,
    tell: Callable[[News], None],
) -> Ready:
    """Loads the model and checks the job against it. Blocks. Raises ImageProblem, or ``Cancelled``."""
    with _using(name, turn, memory, tell) as placed, words:
        turn.check()
        return prepare(job, placed.model)


@contextmanager
def _using(name: str, turn: Turn, memory: Memory[Placed], tell: Callable[[News], None]) -> Iterator[Placed]:
    if not memory.is_ready(name):
        tell(Loading(name, memory.eta_s(name)))
    with memory.using(name, turn.check) as placed:
        yield placed


class Run:
    """``previews`` is every how many steps there are some; 0 for none. ``tell`` is called in the run's thread."""

    def __init__(
        self,
        calls: Sequence[Call],
        name: str,
        previews: int,
        turn: Turn,
        memory: Memory[Placed],
        pace: Pace,
        words: threading.Lock,
    ) -> None:
        self._calls = list(calls)
        self._name = name
        self._previews = previews
        self._turn = turn
        self._memory = memory
        self._pace = pace
        self._words = words

    def compute(self, tell: Callable[[News], None]) -> list[Picture]:
        """The pictures, in the order of the calls. Blocks. Raises ``Cancelled``, or what went wrong."""
        try:
            with _using(self._name, self._turn, self._memory, tell) as placed:
                self._turn.check()
                return self._pictures(placed, tell)
        except BaseException as error:
            if out_of_memory(error):
                # The error's frames hold what was computed so far.
                error.__traceback__ = None
                self._memory.free_idle()
                free_cached()
            raise

    def _pictures(self, placed: Placed, tell: Callable[[News], None]) -> list[Picture]:
        model = placed.model
        precision = placed.precision
        try:
            images = self._drawn(placed, tell)
        except ImageProblem as problem:
            if problem.code != NAN or len(self._calls) > 1 or not placed.can_widen:
                raise
            # Once more from its seed, with the same weights in numbers that hold larger values.
            with self._memory.more(self._name, placed.widening) as there:
                if not there:
                    raise
                tell(Phase("again"))
                images = self._drawn(placed, tell, wide=True)
            precision = "float32"
        return [
            Picture(call, _png(image), recipe(call, model, precision))
            for call, image in zip(self._calls, images, strict=True)
        ]

    def _drawn(self, placed: Placed, tell: Callable[[News], None], *, wide: bool = False) -> list["Image"]:
        model, batch = placed.model, assemble(placed.model, self._calls)
        call = self._calls[0]
        shape = (self._name, call.key and call.key[:3], len(self._calls), wide)
        watch = Watch(self._pace, shape, batch.steps)
        # Time for previews, which is none of a step's.
        aside_s = 0.0
        is_wide = False

        def widen() -> None:
            nonlocal is_wide
            if wide:
                placed.widen()
                is_wide = True

        def narrow() -> None:
            nonlocal is_wide
            # Another that has the device now may have widened them for itself.
            if is_wide:
                placed.narrow()
                is_wide = False

        def step(pipe: Any, _number: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal aside_s
            before_s = self._turn.held_s
            eta_s = watch.step(before_s - aside_s)
            ended = watch.done >= batch.steps
            shown: tuple[str, ...] = ()
            if self._previews and watch.done % self._previews == 0 and not ended and "latents" in tensors:
                shown = _previews(model, pipe, tensors["latents"], call)
                aside_s += self._turn.held_s - before_s
            tell(Step(watch.done, eta_s, shown))
            if self._turn.step(away=away):
                batch.activate()
                widen()
                tell(Phase("resumed"))
            if ended:
                tell(Phase("decoding"))
            return {}

        def away() -> None:
            # Others compute in the precision that was chosen.
            narrow()
            tell(Phase("preempted"))

        self._turn.enter()
        try:
            with checks.watched(self._turn):
                images = self._called(batch, step, widen)
            watch.end(self._turn.held_s - aside_s)
            return images
        finally:
            narrow()
            self._turn.leave()

    def _called(self, batch: Batch, step: Callable[..., dict[str, Any]], widen: Callable[[], None]) -> list["Image"]:
        if batch.pipe is None:
            return batch.run(step)
        with self._words:
            # LoRAs are loaded before, so that they are widened too.
            batch.activate()
            widen()
            arguments = batch.kwargs(step)
        return batch.finish(batch.pipe(**arguments).images)


# One for each model, for as long as that is in memory; computed by whoever has the device.
_projections: WeakKeyDictionary[Model, Projection | None] = WeakKeyDictionary()


def _previews(model: Model, pipe: Any, latents: Any, call: Call) -> tuple[str, ...]:
    """One for each image; none where the model's latents can't be shown."""
    if model not in _projections:
        _projections[model] = projection(model)
    found = _projections[model]
    if found is None:
        return ()
    return tuple(encoded(_part(image, call)) for image in found.images(unpacked(pipe, latents, *call.canvas)))


def _part(preview: "Image", call: Call) -> "Image":
    """The result's part of a preview of the whole canvas."""
    width, height = call.canvas
    sides = (preview.width * call.width // width, preview.height * call.height // height)
    return preview.crop((0, 0, max(1, sides[0]), max(1, sides[1])))


def _png(image: "Image") -> str:
    buffer = io.BytesIO()
    # More compression takes longer than most small models take for a step.
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
