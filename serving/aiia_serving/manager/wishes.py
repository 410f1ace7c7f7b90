"""What administrators asked of models while they run: on top of the documents, and kept over a restart."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aiia_serving.catalogue.document import Scaling
from aiia_serving.manager.stored import read_stored, write_stored


class Wish(BaseModel):
    """One model's: no replica at all, or other bounds than its document's. What is None stands in the document."""

    model_config = ConfigDict(frozen=True)

    unloaded: bool = False
    min_replicas: int | None = None
    max_replicas: int | None = None

    def bounds(self, scaling: Scaling) -> tuple[int, int]:
        """The least and most replicas of a model that is not unloaded."""
        most = scaling.max_replicas if self.max_replicas is None else self.max_replicas
        least = scaling.min_replicas if self.min_replicas is None else self.min_replicas
        return min(least, most), most


class Wishes:
    """Wishes by the name of the model."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wishes: dict[str, Wish] = {}
        for name, content in read_stored(path).items():
            try:
                self._wishes[name] = Wish.model_validate(content)
            except ValidationError:
                continue

    def get(self, name: str) -> Wish:
        return self._wishes.get(name, Wish())

    def put(self, name: str, wish: Wish) -> None:
        if wish == self.get(name):
            return
        if wish == Wish():
            del self._wishes[name]
        else:
            self._wishes[name] = wish
        write_stored(self._path, {name: wish.model_dump(exclude_defaults=True) for name, wish in self._wishes.items()})
