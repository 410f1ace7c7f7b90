"""The world of the packaged image pipeline, whose module lies beside its weights and not in a package."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "models" / "aiia-shapes"


@cache
def world() -> ModuleType:
    """``models/aiia-shapes/shapes.py``: scenes, pictures of them, and what is to be seen in a picture."""
    spec = importlib.util.spec_from_file_location("aiia_shapes_world", FOLDER / "shapes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
