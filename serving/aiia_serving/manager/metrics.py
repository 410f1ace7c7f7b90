"""What the manager tells Prometheus, read off the board when it asks."""

from prometheus_client import Counter, Gauge, Histogram

from aiia_serving.manager.board import Board
from aiia_serving.state import State

_START_S = (1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 240, 480, 960)

model_state = Gauge("aiia_model_state", "1 for the state that the model is in, 0 for the others.", ["model", "state"])
model_replicas = Gauge("aiia_model_replicas", "Replicas that run.", ["model"])
model_max_replicas = Gauge("aiia_model_max_replicas", "Replicas that there may be.", ["model"])
model_progress = Gauge("aiia_model_progress", "0 to 1, of a model that is fetched, prepared or started.", ["model"])
transitions = Counter("aiia_model_transitions", "Changes of a model's state, by the new one.", ["model", "state"])
starts = Histogram(
    "aiia_model_start_seconds", "Time from a model's start to its being ready.", ["model"], buckets=_START_S
)


class Scrape:
    """Brings the metrics up to date with ``board``; one per board, since it remembers what it has counted."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._counted = 0
        self._starting: dict[str, float] = {}

    def __call__(self) -> None:
        for gauge in (model_state, model_replicas, model_max_replicas, model_progress):
            gauge.clear()
        for model in self._board.report().models:
            for state in State:
                model_state.labels(model.id, state.value).set(model.state is state)
            model_replicas.labels(model.id).set(model.replicas)
            model_max_replicas.labels(model.id).set(model.max_replicas)
            if model.progress is not None:
                model_progress.labels(model.id).set(model.progress)
        report = self._board.events(self._counted)
        self._counted = report.last
        for event in report.events:
            transitions.labels(event.model, event.state.value if event.state else "gone").inc()
            if event.state is State.STARTING:
                self._starting[event.model] = event.at
            elif (since := self._starting.pop(event.model, None)) is not None and event.state is State.READY:
                starts.labels(event.model).observe(event.at - since)
