"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from aiia_cli.datadir import DataDir, default_data_dir

DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        help="Folder of the instance's data.",
        default_factory=default_data_dir,
        show_default=str(default_data_dir()),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def data_of(path: Path) -> DataDir:
    """The data directory that an option names."""
    return DataDir(path.expanduser().absolute())
