"""The parts of the image engine that need no model: whose turn it is, times, batches, memory, placement."""

import queue
import random
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiia_serving.images.engine.batch import first_batch
from aiia_serving.images.engine.gate import Cancelled, Gate, Rank
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Numbers, plan
from aiia_serving.images.engine.progress import Pace, Watch
from aiia_serving.images.problem import ImageProblem

pytestmark = pytest.mark.serving


class Thread:
    """Does in a thread what it is told, and says what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._outcome: queue.Queue[object] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self._outcome.put(work())
        except BaseException as error:
            self._outcome.put(error)

    def outcome(self) -> object:
        return self._outcome.get(timeout=30)

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()


def test_the_most_urgent_goes_first_and_takes_over_between_steps() -> None:
    gate = Gate()
    order: list[str] = []
    batch, urgent = gate.turn((2, 0)), gate.turn((0, 1))
    batch.enter()
    assert not batch.step()

    def hurry() -> None:
        urgent.enter()
        order.append("urgent")
        urgent.leave()

    other = Thread(hurry)
    handed_over: list[bool] = []
    while not any(handed_over):
        handed_over.append(batch.step(away=lambda: order.append("away")))
    order.append("back")
    other.outcome()
    batch.leave()
    assert order == ["away", "urgent", "back"]
    assert gate.idle


def test_an_equal_one_waits_until_the_end() -> None:
    gate = Gate()
    first, second = gate.turn((1, 0)), gate.turn((1, 1))
    first.enter()
    other = Thread(second.enter)
    assert not any(first.step() for _ in range(1000))
    first.leave()
    assert other.outcome() is None
    second.leave()


def test_who_is_cancelled_ends_where_it_waits_and_between_steps() -> None:
    gate = Gate()
    holder, waiting = gate.turn((1, 0)), gate.turn((1, 1))
    holder.enter()
    other = Thread(waiting.enter)
    waiting.cancel()
    assert isinstance(other.outcome(), Cancelled)
    holder.cancel()
    with pytest.raises(Cancelled):
        holder.step()
    holder.leave()
    assert gate.idle


def test_only_the_time_with_the_device_counts() -> None:
    now = [0.0]
    gate = Gate(lambda: now[0])
    turn = gate.turn((2, 0))
    turn.enter()
    now[0] = 2

    def between() -> None:
        urgent = gate.turn((0, 1))
        urgent.enter()
        now[0] = 5
        urgent.leave()

    other = Thread(between)
    while not turn.step():
        pass
    other.outcome()
    now[0] = 6
    turn.leave()
    assert turn.held_s == 3


def test_time_left_is_measured_and_kept_for_the_next() -> None:
    pace = Pace()
    first = Watch(pace, "64x64", 4)
    # The first step takes longer.
    assert first.step(3.0) is None
    assert first.step(4.0) == pytest.approx(2 + 1)
    assert first.step(5.0) == pytest.approx(1 + 1)
    assert first.step(6.0) == pytest.approx(1)
    first.end(8.0)
    again = Watch(pace, "64x64", 4)
    assert again.step(1.0) == pytest.approx(3 + 2)
    assert Watch(pace, "96x96", 4).step(1.0) is None


@dataclass(frozen=True)
class Waiting:
    rank: Rank
    key: str | None


def test_a_batch_is_of_one_kind_and_one_urgency() -> None:
    some = [Waiting((1, 3), "a"), Waiting((1, 1), "a"), Waiting((1, 2), "b"), Waiting((2, 0), "a")]
    assert first_batch(some, 4) == [some[1], some[0]]
    assert first_batch(some, 1) == [some[1]]
    alone = [Waiting((1, 0), None), Waiting((1, 1), None)]
    assert first_batch(alone, 4) == [alone[0]]
    assert first_batch([], 4) == []


class World:
    """The memory itself: what the models in it say they take."""

    def __init__(self, budget: Budget) -> None:
        self._lock = threading.RLock()
        self._budget = budget
        self.on: dict[str, int] = {"device": 0, "cpu": 0}
        self.most = 0

    def change(self, place: str, size: int) -> None:
        with self._lock:
            self.on[place] += size
            self.most = max(self.most, self.on["device"])


class Piece:
    """Weights that count in a world until they are dropped."""

    def __init__(self, world: World, size: int) -> None:
        self._world, self._size, self.place = world, size, ["cpu"]
        world.change("cpu", size)

    def to(self, device: str) -> None:
        self._world.change(self.place[0], -self._size)
        self.place[0] = device
        self._world.change(device, self._size)

    def drop(self) -> None:
        self._world.change(self.place.pop(), -self._size)


class Held:
    """A model of a piece of its own and of these, which others may find on the ``shelf``: sizes by keys."""

    def __init__(
        self, world: World, size: int, common: dict[str, int] | None = None, shelf: dict[str, Piece] | None = None
    ) -> None:
        self._shelf = shelf if shelf is not None else {}
        self.common = common or {}
        for key, taken in self.common.items():
            if key not in self._shelf:
                self._shelf[key] = Piece(world, taken)
        self._own = Piece(world, size - sum(self.common.values()))

    @property
    def place(self) -> list[str]:
        """Where all of it is."""
        return sorted({where for piece in self._pieces().values() for where in piece.place})

    def to(self, device: object, but: Collection[str] = ()) -> None:
        for key, piece in self._pieces().items():
            if key not in but:
                piece.to(str(device))

    def drop(self, but: Collection[str] = ()) -> None:
        for key, piece in self._pieces().items():
            if key not in but:
                piece.drop()
                self._shelf.pop(key, None)

    def _pieces(self) -> dict[str, Piece]:
        return {"": self._own, **{key: self._shelf[key] for key in self.common}}


COMMON = {"encoder": 3, "vae": 2}


@settings(max_examples=25, deadline=None)
@given(
    models=st.lists(st.tuples(st.integers(1, 10), st.sets(st.sampled_from(sorted(COMMON)))), min_size=5, max_size=5),
    device=st.integers(15, 30),
    main=st.none() | st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_the_budget_holds_and_nothing_in_use_is_lost(
    models: list[tuple[int, set[str]]], device: int, main: int | None, seed: int
) -> None:
    budget = Budget(device, main)
    world = World(budget)
    shelf: dict[str, Piece] = {}
    memory: Memory[Held] = Memory(budget, "device")
    for number, (own, keys) in enumerate(models):
        common = {key: COMMON[key] for key in keys}
        size = own + sum(common.values())
        memory.add(
            str(number),
            lambda size=size, common=common: Held(world, size, common, shelf),  # type: ignore[misc]
            size,
            common=common,
        )

    def ask(random_: random.Random) -> None:
        for _ in range(50):
            with memory.using_if_there(str(random_.randrange(5))) as found:
                assert found is None or found.place == ["device"]
            name, more = str(random_.randrange(5)), random_.randrange(8)
            with memory.using(name) as model, memory.more(name, more) as there:
                assert model.place == ["device"]
                # As weights that are widened for one image.
                world.change("device", more if there else 0)
                world.change("device", -more if there else 0)
                for other in memory.states() if random_.random() < 0.2 else ():
                    assert isinstance(other["bytes"], int)
                assert model.place == ["device"]

    threads = [Thread(lambda number=number: ask(random.Random(seed + number))) for number in range(4)]  # type: ignore[misc]
    assert [thread.outcome() for thread in threads] == [None] * 4
    assert world.most <= device
    on_device, in_main = memory.used()
    assert (world.on["device"], world.on["cpu"]) == (on_device, in_main)
    assert in_main <= (main or 0)
    assert all(state["users"] == 0 for state in memory.states())


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can, so that what may happen between two lines does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
def test_what_is_to_leave_is_nobodys_any_more() -> None:
    world = World(Budget(10))
    memory: Memory[Held] = Memory(Budget(10), "device")
    for name in "abc":
        memory.add(name, lambda: Held(world, 6), 6)

    def bring() -> None:
        for name in "abc" * 400:
            with memory.using(name) as model:
                assert model.place == ["device"]

    def use() -> None:
        for name in "abc" * 2000:
            with memory.using_if_there(name) as found:
                assert found is None or found.place == ["device"]

    threads = [Thread(work) for work in (bring, bring, use, use)]
    assert [thread.outcome() for thread in threads] == [None] * 4
    assert world.most <= 10


class Slow(Held):
    """Stops at each move, until it is let go."""

    def __init__(self, world: World, size: int) -> None:
        super().__init__(world, size)
        self.moving, self.go = threading.Event(), threading.Event()

    def to(self, device: object, but: Collection[str] = ()) -> None:
        self.moving.set()
        assert self.go.wait(30)
        super().to(device, but)


def test_nobody_waits_for_a_move_who_does_not_need_it() -> None:
    world = World(Budget(10, 10))
    memory: Memory[Held] = Memory(Budget(10, 10), "device")
    slow = Slow(world, 6)
    slow.go.set()
    memory.add("slow", lambda: slow, 6)
    for name, size in {"small": 4, "large": 6}.items():
        memory.add(name, lambda size=size: Held(world, size), size)  # type: ignore[misc]
    for name in ("slow", "small"):
        with memory.using(name):
            pass
    slow.moving.clear()
    slow.go.clear()

    def bring() -> None:
        with memory.using("large"):
            pass

    def look() -> dict[object, object]:
        with memory.using("small"), memory.using_if_there("slow") as found:
            assert found is None
            return {state["name"]: state["place"] for state in memory.states()} | {"used": memory.used()}

    with memory.using("small"):
        bringing = Thread(bring)
        assert slow.moving.wait(30)
        places = Thread(look).outcome()
        slow.go.set()
        assert bringing.outcome() is None
    assert places == {"slow": "main", "small": "device", "large": "away", "used": (4, 6)}
    assert memory.used() == (10, 6)


def test_the_least_useful_goes_first_and_comes_back_from_main_memory() -> None:
    now = [0.0]
    world = World(Budget(10, 10))
    memory: Memory[Held] = Memory(Budget(10, 10), "device", lambda: now[0])
    for name in "abc":
        memory.add(name, lambda: Held(world, 5), 5)
    for name in "aaab":
        now[0] += 1
        with memory.using(name):
            pass
    with memory.using("c"):
        places = {str(state["name"]): state["place"] for state in memory.states()}
        assert places == {"a": "device", "b": "main", "c": "device"}
    with memory.using("b"):
        assert world.on == {"device": 10, "cpu": 5}


def test_a_model_that_never_fits_is_refused_and_one_that_fails_leaves_no_trace() -> None:
    memory: Memory[Held] = Memory(Budget(10))
    with pytest.raises(ImageProblem, match="memory"):
        memory.add("huge", lambda: Held(World(Budget(0)), 11), 11)

    def broken() -> Held:
        raise OSError("torn")

    memory.add("broken", broken, 5)
    for _ in range(2):
        with pytest.raises(OSError, match="torn"), memory.using("broken"):
            pass
    assert memory.used() == (0, 0)


def test_more_beside_a_model_takes_the_place_of_those_that_are_idle_alone() -> None:
    world = World(Budget(10))
    memory: Memory[Held] = Memory(Budget(10), "device")
    for name in "ab":
        memory.add(name, lambda: Held(world, 4), 4)
        with memory.using(name):
            pass
    with memory.using("a"), memory.using("b"), memory.more("a", 4) as there:
        assert not there
    assert memory.used() == (8, 0)
    with memory.using("a"), memory.more("a", 6) as there:
        assert there
        assert memory.used() == (10, 0)
        with memory.using_if_there("b") as found:
            assert found is None
    assert memory.used() == (4, 0)


def test_who_is_cancelled_waits_for_no_room_and_brings_nothing() -> None:
    memory: Memory[Held] = Memory(Budget(10), "device")
    for name in "ab":
        memory.add(name, lambda: Held(World(Budget(10)), 6), 6)
    turn = Gate().turn((0, 0))
    waits = threading.Event()

    def check() -> None:
        turn.check()
        waits.set()

    def wait() -> None:
        with memory.using("b", check):
            pass

    with memory.using("a"):
        waiting = Thread(wait)
        assert waits.wait(30)
        turn.cancel()
        memory.wake()
        assert isinstance(waiting.outcome(), Cancelled)
    assert [state["place"] for state in memory.states()] == ["device", "away"]


@pytest.mark.parametrize(("size", "fits"), [(4, True), (5, False)])
def test_more_waits_for_a_model_that_is_brought_and_for_none_that_is_used(size: int, fits: bool) -> None:
    world = World(Budget(10))
    memory: Memory[Held] = Memory(Budget(10), "device")
    slow = Slow(world, 2)
    memory.add("a", lambda: Held(world, 4), 4)
    memory.add("slow", lambda: slow, 2)
    over = threading.Event()

    def bring() -> None:
        with memory.using("slow"):
            assert over.wait(30)

    def widen() -> bool:
        with memory.using("a"), memory.more("a", size) as there:
            return there

    with memory.using("a"):
        bringing = Thread(bring)
        assert slow.moving.wait(30)
        widening = Thread(widen)
        assert widening.goes_on
        slow.go.set()
        assert widening.outcome() is fits
        over.set()
        assert bringing.outcome() is None


def test_one_that_is_refused_is_known_with_its_reason() -> None:
    memory: Memory[Held] = Memory(Budget(10))
    memory.refuse("torn", ImageProblem("Its end is missing.", code="bad_weights", status=422))
    with pytest.raises(ImageProblem, match="Its end"), memory.using("torn"):
        pass
    (state,) = memory.states()
    assert (state["place"], state["problem"]) == ("away", "Its end is missing.")


SDXL = Numbers(network=2_567_000_000, encoders=818_000_000, others=84_000_000)
FLUX = Numbers(network=11_900_000_000, encoders=4_885_000_000, others=84_000_000)


@pytest.mark.parametrize(
    ("numbers", "family", "gigabytes", "quantization", "offload", "tiling"),
    [
        (SDXL, "sdxl", 24, "none", "none", False),
        (SDXL, "sdxl", 10, "none", "none", True),
        (SDXL, "sdxl", 8, "none", "encoders", True),
        (FLUX, "flux", 80, "none", "none", False),
        (FLUX, "flux", 32, "none", "encoders", True),
        (FLUX, "flux", 24, "fp8", "encoders", True),
        (FLUX, "flux", 12, "none", "blocks", True),
    ],
)
def test_what_fits_is_chosen_quality_first(
    numbers: Numbers, family: str, gigabytes: int, quantization: str, offload: str, tiling: bool
) -> None:
    found = plan(numbers, family, int(gigabytes * 1e9), {})
    assert (found.device, found.dtype) == ("cuda", "bfloat16")
    assert (found.quantization, found.offload, found.vae_tiling) == (quantization, offload, tiling)


def test_the_document_has_the_last_word_and_a_processor_is_exact() -> None:
    assert plan(SDXL, "sdxl", None, {}).dtype == "float32"
    found = plan(SDXL, "sdxl", 80 * 10**9, {"precision": "float16", "quantization": "fp8", "offload": "blocks"})
    assert (found.dtype, found.quantization, found.offload) == ("float16", "fp8", "blocks")
    assert plan(SDXL, "sdxl", 80 * 10**9, {"vae_tiling": True}).vae_tiling
