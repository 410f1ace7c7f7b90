"""Which requests go to one replica: those of a conversation, since it has the conversation's beginning cached."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiia_serving.state import ModelState

# So many parts of what a replica takes may be of one beginning before the next goes elsewhere.
_PARTS = 4


class Sessions:
    """Counts this gateway's requests at work by what they begin with."""

    def __init__(self) -> None:
        self._at_work: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def name(self, session: str, model: ModelState) -> Iterator[str]:
        """What the router knows a request of ``session`` by. The same beginning many times at once has several names,
        so that one replica does not get them all while others are idle."""
        key = (model.id, session)
        before = self._at_work[key]
        self._at_work[key] += 1
        window = model.max_in_flight // max(1, model.replicas)
        part = before // max(1, window // _PARTS) if model.replicas > 1 else 0
        try:
            yield f"{session}.{part}" if part else session
        finally:
            self._at_work[key] -= 1
            if not self._at_work[key]:
                del self._at_work[key]
