"""Modules that lie beside their data and in no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(file: Path, name: str) -> ModuleType:
    """The module in this file, loaded anew under this name."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look for the module that they are in.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
