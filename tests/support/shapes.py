"""The world of the packaged image pipeline, whose module lies beside its weights and not in a package."""

from functools import cache
from pathlib import Path
from types import ModuleType

from tests.support.beside import load

FOLDER = Path(__file__).resolve().parents[2] / "models" / "aiia-shapes"


@cache
def world() -> ModuleType:
    """``models/aiia-shapes/shapes.py``: scenes, pictures of them, and what is to be seen in a picture."""
    return load(FOLDER / "shapes.py", "aiia_shapes_world")
