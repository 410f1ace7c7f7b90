"""Who may go to a model, and when: the contract between the gateway and its queue.

A request enters the queue of its model with ``Queue.enter`` and holds a ``Ticket`` until it is over:

- A ticket waits first. Its ``position`` is 1 for the next to go, and ``eta_s`` estimates its wait in seconds, or is
  None while nothing is known yet.
- It is ``admitted`` when a slot is free. A slot belongs to the ticket until ``release``.
- ``release`` gives up the slot or the place, with the true cost where it is known. It is idempotent, and every ticket
  must come to it, whatever happens.
- The queue calls ``notify`` from the event loop after every change of a ticket's position, estimate or admission.

How many slots a model has is told with ``set_capacity``: the requests in flight for all its replicas, 0 while it is
not ready. Requests wait for a model of capacity 0 like for any other, which is what holds them while it starts.
Lowering the capacity takes no slot away from a ticket that has one.

An implementation orders the tickets; ``Work`` carries all that a fair order needs: user, class and cost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

WorkClass = Literal["interactive", "api", "batch"]
Unit = Literal["tokens", "gpu_ms"]

#: How many more than a model has slots may be in flight, as a share of them: for users who have nothing in flight.
EXPRESS = 1 / 8


@dataclass(frozen=True)
class Work:
    """What asks for a turn.

    ``cost`` is an estimate, in tokens (prompt + 2 x output) or, for images, in GPU milliseconds; one queue holds one
    ``unit``. ``weight`` is the user's share relative to others. ``id`` is the request's, for queries. ``deadline_s``
    bounds the wait. ``note`` is the caller's own, told again when the work is lost.
    """

    model: str
    user: str
    work_class: WorkClass
    cost: float
    unit: Unit = "tokens"
    weight: float = 1.0
    id: str = ""
    deadline_s: float | None = None
    note: str = ""


class QueueFullError(Exception):
    """The queue of the model is at its bound. ``retry_after_s`` says when it is worth another try."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"queue full, retry after {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class ClassLoad:
    """The waiting requests of one class; ``oldest_s`` is how long the first of them has waited."""

    waiting: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True)
class QueueLoad:
    """One model's queue over all gateways. ``work_s`` is the estimated time of all waiting work at the present speed,
    None while no speed is known; ``waiting_cost`` and ``running_cost`` are in the queue's unit."""

    waiting: int = 0
    running: int = 0
    slots: int = 0
    waiting_cost: float = 0.0
    running_cost: float = 0.0
    work_s: float | None = None
    classes: dict[WorkClass, ClassLoad] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One ticket of any gateway, for queries. ``position`` is 0 once it runs."""

    id: str
    model: str
    user: str
    work_class: WorkClass
    position: int
    eta_s: float | None
    waited_s: float


class Ticket(Protocol):
    """A place in the queue, then a slot. See the module's contract."""

    @property
    def admitted(self) -> bool: ...

    @property
    def expired(self) -> bool:
        """Whether its deadline passed while it waited; it has left the queue then."""
        ...

    @property
    def beside(self) -> int:
        """How many other requests of its user this gateway had in flight when it was admitted.

        Models that take a rank are told it: who asks one thing at a time does not wait in a model for those who ask
        many.
        """
        ...

    @property
    def position(self) -> int: ...

    @property
    def eta_s(self) -> float | None: ...

    def progress(self, cost: float) -> None:
        """Tells the cost so far, which is what counts if this gateway dies before ``release``."""
        ...

    def release(self, cost: float | None = None) -> None:
        """Gives the place or slot up. ``cost`` is the true one; None leaves the estimate, 0 means nothing was done."""
        ...


#: Called once, in one of the gateways, for each ticket whose gateway died: its work and the cost so far.
Abandoned = Callable[[Work, float], Any]


class Queue(Protocol):
    """The queues of all models. See the module's contract."""

    async def enter(self, work: Work, notify: Callable[[], None]) -> Ticket:
        """Takes a place, or a slot at once. Raises ``QueueFullError``."""
        ...

    def set_capacity(self, model: str, slots: int) -> None:
        """Sets the number of slots of a model."""
        ...

    async def load(self) -> dict[str, QueueLoad]:
        """Every model's queue."""
        ...

    async def places(self, user: str | None = None) -> list[Place]:
        """All tickets, or those of one user."""
        ...

    async def close(self) -> None:
        """Releases every ticket and ends the queue's own tasks."""
        ...
