"""Who may go to a model, and when: the contract between the gateway and its queue.

A request enters the queue of its model with ``Queue.enter`` and holds a ``Ticket`` until it is over:

- A ticket waits first. Its ``position`` is 1 for the next to go, and ``eta_s`` estimates its wait in seconds, or is
  None while nothing is known yet.
- It is ``admitted`` when a slot is free. A slot belongs to the ticket until ``release``.
- ``release`` gives up the slot or the place. It is idempotent, and every ticket must come to it, whatever happens.
- The queue calls ``notify`` from the event loop after every change of a ticket's position or admission.

How many slots a model has is told with ``set_capacity``: the requests in flight for all its replicas, 0 while it is
not ready. Requests wait for a model of capacity 0 like for any other, which is what holds them while it starts.
Lowering the capacity takes no slot away from a ticket that has one.

An implementation orders the tickets; ``Work`` carries all that a fair order needs: user, class and cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

WorkClass = Literal["interactive", "api", "batch"]


@dataclass(frozen=True)
class Work:
    """What asks for a turn. ``cost`` is an estimate in tokens: prompt + 2 x output."""

    model: str
    user: str
    work_class: WorkClass
    cost: float


class QueueFullError(Exception):
    """The queue of the model is at its bound. ``retry_after_s`` says when it is worth another try."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"queue full, retry after {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class Ticket(Protocol):
    """A place in the queue, then a slot. See the module's contract."""

    @property
    def admitted(self) -> bool: ...

    @property
    def position(self) -> int: ...

    @property
    def eta_s(self) -> float | None: ...

    def release(self) -> None: ...


class Queue(Protocol):
    """The queues of all models. See the module's contract."""

    def enter(self, work: Work, notify: Callable[[], None]) -> Ticket:
        """Takes a place, or a slot at once. Raises ``QueueFullError``."""
        ...

    def set_capacity(self, model: str, slots: int) -> None:
        """Sets the number of slots of a model."""
        ...
