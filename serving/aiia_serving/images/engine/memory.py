"""Several models within a budget of memory: loaded when needed, kept while there is room, never lost in use."""

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from aiia_serving.images.problem import ImageProblem

Place = Literal["away", "main", "device"]

# After that long without use, what a model was used for before counts half.
_HALF_LIFE_S = 600.0


class Held(Protocol):
    """A loaded model, as far as memory is concerned. ``but`` are keys of parts that others need where they are."""

    def to(self, device: object, but: Collection[Any] = ()) -> None: ...

    def drop(self, but: Collection[Any] = ()) -> None:
        """Frees its memory at once, whoever still refers to it."""


Model = TypeVar("Model", bound=Held)


@dataclass(frozen=True)
class Budget:
    """Bytes on the device and of main memory. ``main`` None: the device's memory is main memory, and counts once."""

    device: int
    main: int | None = None


@dataclass(eq=False)
class Slot(Generic[Model]):
    """One model: how to get it, what it takes, and where it is. ``load`` puts it into main memory.

    ``common`` are those of its bytes that other models may have too, by the parts' keys. ``how`` is told with its
    state, ``problem`` is why it could not be loaded the last time.
    """

    name: str
    load: Callable[[], Model]
    bytes: int
    common: Mapping[Hashable, int] = field(default_factory=dict)
    how: Mapping[str, object] = field(default_factory=dict)
    problem: ImageProblem | None = None
    more: int = 0
    place: Place = "away"
    model: Model | None = None
    users: int = 0
    uses: float = 0.0
    last_s: float = 0.0
    load_s: float | None = None
    move_s: float | None = None

    @property
    def own(self) -> int:
        """Bytes that no other model has."""
        return max(0, self.bytes - sum(self.common.values()))

    def worth(self, now: float) -> float:
        """Seconds that keeping it is likely to save, for each byte."""
        recent: float = self.uses * 0.5 ** ((now - self.last_s) / _HALF_LIFE_S)
        return recent * ((self.load_s or 1.0) + (self.move_s or 0.0)) / max(1, self.bytes)


class Memory(Generic[Model]):
    """For any number of threads. One of them moves models at a time, so the budget also holds while it does.

    Nobody waits for a move who only uses what is there, or asks what is.
    """

    def __init__(self, budget: Budget, device: object = "cpu", clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._device = device
        self._clock = clock
        self._changed = threading.Condition()
        self._slots: dict[str, Slot[Model]] = {}
        self._busy = False

    def add(
        self,
        name: str,
        load: Callable[[], Model],
        size: int,
        how: Mapping[str, object] | None = None,
        common: Mapping[Any, int] | None = None,
    ) -> None:
        """Makes a model known. ``size`` is what it takes at most, in bytes; ``how`` is told with its state.

        ``common`` has what parts of it take, by their keys: models with the same key have the same part, which is in
        memory once.

        Raises ImageProblem for one that alone is more than the budget.
        """
        if size > self.budget.device:
            raise ImageProblem(
                f"'{name}' takes {size / 1e9:.2f} GB, and the memory for image models is"
                f" {self.budget.device / 1e9:.2f} GB.",
                code="out_of_memory",
                status=422,
                advice="Choose a narrower precision, a quantisation or offload in the Model document.",
            )
        with self._changed:
            self._slots[name] = Slot(name, load, size, common or {}, how or {})

    def refuse(self, name: str, problem: ImageProblem) -> None:
        """Makes a model known that cannot be loaded: who wants to use it is told why."""

        def load() -> Model:
            raise problem

        with self._changed:
            self._slots[name] = Slot(name, load, 0, problem=problem)

    @property
    def names(self) -> list[str]:
        return list(self._slots)

    def is_ready(self, name: str) -> bool:
        """Whether it could be used at once."""
        return self._slots[name].place == "device"

    def eta_s(self, name: str) -> float | None:
        """How long it took to load, or to move to the device, the last time."""
        slot = self._slots[name]
        return slot.move_s if slot.place == "main" else slot.load_s

    def fit(self, names: Iterable[str]) -> bool:
        """Whether these can be in use at the same time, with what is set apart beside them."""
        return _bytes(self._slots[name] for name in names) <= self.budget.device

    @contextmanager
    def using(self, name: str, check: Callable[[], None] = lambda: None) -> Iterator[Model]:
        """The model on the device; until the end of the block it stays there. Waits while others need the room.

        ``check`` ends the wait by what it raises; it is called at its begin, at each change, and after ``wake``.
        Raises KeyError for a name that is not known, and what its loader raises.
        """
        slot = self._slots[name]
        model = self._take(slot, check)
        try:
            yield model
        finally:
            with self._changed:
                slot.users -= 1
                slot.last_s = self._clock()
                self._changed.notify_all()

    @contextmanager
    def using_if_there(self, name: str) -> Iterator[Model | None]:
        """As ``using`` for a model that is on the device; None, at once, for one that is not."""
        slot = self._slots[name]
        with self._changed:
            model = slot.model if slot.place == "device" else None
            slot.users += model is not None
        try:
            yield model
        finally:
            with self._changed:
                slot.users -= model is not None
                self._changed.notify_all()

    @contextmanager
    def more(self, name: str, size: int) -> Iterator[bool]:
        """Sets ``size`` bytes beside a model in use apart for it, if others leave them. Whether they do.

        Waits while a model is brought. Who holds a model and waited for room could wait for one who does the same.
        """
        slot = self._slots[name]
        leaving: list[Slot[Model]] = []
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            there = _bytes(self._in_use()) + size <= self.budget.device
            if there:
                slot.more += size
                self._busy = True
                leaving = self._leaving()
        try:
            if there:
                with self._done_after():
                    self._put_away(leaving)
            yield there
        finally:
            with self._changed:
                slot.more -= size if there else 0
                self._changed.notify_all()

    def wake(self) -> None:
        """Those that wait ``check`` whether they still have to."""
        with self._changed:
            self._changed.notify_all()

    def states(self) -> list[dict[str, object]]:
        """Every model: where it is, its bytes, those of them that others have too, its users, what bringing it back
        costs in seconds, how it is loaded."""
        with self._changed:
            return [
                {
                    "name": slot.name,
                    "place": slot.place,
                    "bytes": slot.bytes,
                    "common_bytes": sum(slot.common[key] for key in self._had_by_others(slot)),
                    "users": slot.users,
                    "load_s": slot.load_s,
                    "move_s": slot.move_s,
                    "problem": slot.problem and slot.problem.message,
                    **slot.how,
                }
                for slot in self._slots.values()
            ]

    def used(self) -> tuple[int, int]:
        """Bytes that models take on the device and in main memory."""
        with self._changed:
            return _bytes(self._at("device")), self._in_main()

    def free_idle(self) -> int:
        """Removes every model that is not in use from the device; how many bytes that were."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._busy = True
            before = _bytes(self._at("device"))
            leaving = [slot for slot in self._at("device") if not slot.users]
            for slot in leaving:
                slot.place = "main"
            freed = before - _bytes(self._at("device"))
        with self._done_after():
            self._put_away(leaving)
        return freed

    def _at(self, place: Place) -> list[Slot[Model]]:
        return [slot for slot in self._slots.values() if slot.place == place]

    def _in_use(self) -> list[Slot[Model]]:
        return [slot for slot in self._at("device") if slot.users]

    def _take(self, slot: Slot[Model], check: Callable[[], None]) -> Model:
        def may() -> bool:
            check()
            return slot.place == "device" or (not self._busy and self._room(slot))

        with self._changed:
            # Whoever waits for room keeps nothing, so two that wait cannot block each other.
            self._changed.wait_for(may)
            slot.users += 1
            slot.uses = slot.uses * 0.5 ** ((self._clock() - slot.last_s) / _HALF_LIFE_S) + 1
            slot.last_s = self._clock()
            if slot.place == "device" and slot.model is not None:
                return slot.model
            self._busy = True
            # Chosen before anyone else can take them.
            leaving = self._leaving(slot)
        with self._done_after():
            try:
                self._put_away(leaving, slot)
                return self._bring(slot)
            except BaseException as error:
                self._drop(slot)
                with self._changed:
                    slot.users -= 1
                    slot.problem = error if isinstance(error, ImageProblem) else slot.problem
                raise

    @contextmanager
    def _done_after(self) -> Iterator[None]:
        """Around what the one who moves does, without the lock."""
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _bring(self, slot: Slot[Model]) -> Model:
        started = self._clock()
        if slot.model is None:
            slot.model = slot.load()
            slot.load_s = self._clock() - started
            started = self._clock()
        slot.model.to(self._device)
        if self.budget.main is not None:
            slot.move_s = self._clock() - started
        with self._changed:
            slot.place, slot.problem = "device", None
            return slot.model

    def _room(self, slot: Slot[Model]) -> bool:
        """Whether there is room, or would be without what is not in use."""
        return _bytes([*self._in_use(), slot]) <= self.budget.device

    def _leaving(self, *coming: Slot[Model]) -> list[Slot[Model]]:
        """Those that make room on the device, the least useful first. From now on they count in main memory."""
        leaving = []
        while _bytes([*self._at("device"), *coming]) > self.budget.device:
            idle = [other for other in self._at("device") if not other.users]
            least = min(idle, key=lambda other: other.worth(self._clock()))
            least.place = "main"
            leaving.append(least)
        return leaving

    def _put_away(self, leaving: Sequence[Slot[Model]], *coming: Slot[Model]) -> None:
        """From the device to main memory, or away; those that are ``coming`` stay where they are."""
        main = self.budget.main
        there = [other for other in self._at("main") if other not in coming and other not in leaving]
        there.sort(key=lambda other: other.worth(self._clock()))
        for other in (*there, *leaving):
            if main is None or self._in_main() > main:
                self._drop(other)
        for slot in leaving:
            if slot.model is not None:
                slot.model.to("cpu", _keys(self._at("device")))

    def _drop(self, slot: Slot[Model]) -> None:
        others = [other for other in self._slots.values() if other is not slot and other.place != "away"]
        if slot.model is not None:
            if _keys([slot]) & _keys(others):
                slot.model.to("cpu", _keys(self._at("device")))
            slot.model.drop(_keys(others))
        slot.place, slot.model = "away", None

    def _had_by_others(self, slot: Slot[Model]) -> set[Hashable]:
        return _keys([slot]) & _keys(other for other in self._slots.values() if other is not slot)

    def _in_main(self) -> int:
        on_device = self._at("device")
        return _bytes([*on_device, *self._at("main")]) - _bytes(on_device)


def _keys(slots: Iterable[Slot[Any]]) -> set[Hashable]:
    return {key for slot in slots for key in slot.common}


def _bytes(slots: Iterable[Slot[Any]]) -> int:
    """What models take together; parts with the same key count once."""
    each = list(slots)
    common = {key: size for slot in each for key, size in slot.common.items()}
    return sum(slot.own + slot.more for slot in each) + sum(common.values())
