"""One batch from its loading to its pixels, in a thread of its own."""

import base64
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from aiia_serving.images.engine import checks
from aiia_serving.images.engine.failures import free_cached, out_of_memory
from aiia_serving.images.engine.gate import Turn
from aiia_serving.images.engine.memory import Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.engine.previews import Projection, encoded, unpacked
from aiia_serving.images.engine.progress import Pace, Watch
from aiia_serving.images.model import Model
from aiia_serving.images.recipe import recipe
from aiia_serving.images.works import Batch, Call, assemble

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """A finished image: base64 of a PNG, and what makes it again."""

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
    """``preempted``, ``resumed`` or ``decoding``."""

    name: str


News = Step | Loading | Phase


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

    @property
    def gpu_ms(self) -> float:
        """Milliseconds that it has had the device, so far."""
        return self._turn.held_s * 1000

    def cancel(self) -> None:
        """From any thread; ``compute`` then raises ``Cancelled``."""
        self._turn.cancel()

    def compute(self, tell: Callable[[News], None]) -> list[Picture]:
        """The pictures, in the order of the calls. Blocks. Raises ``Cancelled``, or what went wrong."""
        if not self._memory.is_ready(self._name):
            tell(Loading(self._name, self._memory.eta_s(self._name)))
        try:
            with self._memory.using(self._name) as placed:
                model = placed.model
                self._turn.check()
                batch = assemble(model, self._calls)
                images = self._drawn(model, batch, tell)
                return [
                    Picture(_png(image), recipe(call, model)) for call, image in zip(self._calls, images, strict=True)
                ]
        except BaseException as error:
            if out_of_memory(error):
                # The error's frames hold what was computed so far.
                error.__traceback__ = None
                self._memory.free_idle()
                free_cached()
            raise

    def _drawn(self, model: Model, batch: Batch, tell: Callable[[News], None]) -> list["Image"]:
        call = self._calls[0]
        shape = (self._name, call.key and call.key[:3], len(self._calls))
        watch = Watch(self._pace, shape, batch.steps)
        # Time for previews, which is none of a step's.
        aside_s = 0.0

        def step(pipe: Any, _number: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal aside_s
            before_s = self._turn.held_s
            eta_s = watch.step(before_s - aside_s)
            ended = watch.done >= batch.steps
            shown: tuple[str, ...] = ()
            if self._previews and watch.done % self._previews == 0 and not ended and "latents" in tensors:
                latents = unpacked(pipe, tensors["latents"], call.width, call.height)
                shown = tuple(encoded(image) for image in _projection(model).images(latents))
                aside_s += self._turn.held_s - before_s
            tell(Step(watch.done, eta_s, shown))
            if self._turn.step(away=lambda: tell(Phase("preempted"))):
                batch.activate()
                tell(Phase("resumed"))
            if ended:
                tell(Phase("decoding"))
            return {}

        self._turn.enter()
        try:
            with checks.watched(self._turn):
                images = self._called(batch, step)
            watch.end(self._turn.held_s - aside_s)
            return images
        finally:
            self._turn.leave()

    def _called(self, batch: Batch, step: Callable[..., dict[str, Any]]) -> list["Image"]:
        if batch.pipe is None:
            return batch.run(step)
        with self._words:
            batch.activate()
            arguments = batch.kwargs(step)
        return batch.finish(batch.pipe(**arguments).images)


# One for each model, for as long as that is in memory; computed by whoever has the device.
_projections: WeakKeyDictionary[Model, Projection] = WeakKeyDictionary()


def _projection(model: Model) -> Projection:
    if model not in _projections:
        _projections[model] = Projection(model)
    return _projections[model]


def _png(image: "Image") -> str:
    buffer = io.BytesIO()
    # More compression takes longer than most small models take for a step.
    image.save(buffer, "PNG", compress_level=4)
    return base64.b64encode(buffer.getvalue()).decode()
