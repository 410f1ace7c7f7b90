"""Which of the waiting images are computed together."""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

from aiia_serving.images.engine.gate import Rank


class Candidate(Protocol):
    """A waiting image. Those with equal keys can be computed together; one whose key is None is alone."""

    @property
    def rank(self) -> Rank: ...

    @property
    def key(self) -> Hashable | None: ...


Waiting = TypeVar("Waiting", bound=Candidate)


def first_batch(waiting: Sequence[Waiting], size: int) -> list[Waiting]:
    """The most urgent image with up to ``size - 1`` more that go with it and are as urgent; in order."""
    if not waiting:
        return []
    ordered = sorted(waiting, key=lambda one: one.rank)
    first = ordered[0]
    if first.key is None:
        return [first]
    # A less urgent one would make the more urgent wait for it.
    return [one for one in ordered if one.key == first.key and one.rank[0] == first.rank[0]][:size]
