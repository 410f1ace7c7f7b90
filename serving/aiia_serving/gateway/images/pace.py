"""What an image costs, learnt from what images have cost: estimates for the queue."""

from collections import OrderedDict
from dataclasses import dataclass

from aiia_serving.images.job import Job

_NEWEST = 0.3
_MOST_MODELS = 500
# Of a model that has drawn nothing yet: a plain guess, which the first image corrects.
_FIRST_SIDE = 512
_FIRST_STEPS = 25
_FIRST_MS = 400.0


@dataclass
class _Pace:
    """GPU milliseconds per step and million pixels, and what jobs without sizes and steps turn out to be."""

    ms: float = _FIRST_MS
    width: int = _FIRST_SIDE
    height: int = _FIRST_SIDE
    steps: int = _FIRST_STEPS
    learnt: bool = False


def _key(model: str, job: Job) -> tuple[str, bool]:
    # An upscaler has nothing in common with the model that it stands beside.
    return model, job.work == "upscale"


class Paces:
    """By model. The last ones used are remembered."""

    def __init__(self) -> None:
        self._paces: OrderedDict[tuple[str, bool], _Pace] = OrderedDict()

    def estimate(self, model: str, job: Job) -> float:
        """GPU milliseconds that ``job`` will cost."""
        pace = self._paces.get(_key(model, job), _Pace())
        pixels = (job.width or pace.width) * (job.height or pace.height)
        return max(1.0, pace.ms * (job.steps or pace.steps * job.effort) * job.n * pixels / 1e6)

    def learn(self, model: str, job: Job, gpu_ms: float, size: tuple[int, int], steps: int) -> None:
        """``steps`` are those of one image, ``size`` is its width and height."""
        key = _key(model, job)
        pace = self._paces.setdefault(key, _Pace())
        self._paces.move_to_end(key)
        while len(self._paces) > _MOST_MODELS:
            self._paces.popitem(last=False)
        work = max(1, steps) * job.n * size[0] * size[1] / 1e6
        ms = gpu_ms / work
        pace.ms = pace.ms + _NEWEST * (ms - pace.ms) if pace.learnt else ms
        pace.learnt = True
        if job.width is None or job.height is None:
            pace.width, pace.height = size
        if job.steps is None:
            pace.steps = max(1, round(steps / job.effort))
