"""``python -m aiia_serving prepare [--json] [PACKAGE …]``: makes packaged models ready to load, once per machine.

Without packages: those of the catalogue. With ``--json`` each line of output is ``{"progress": 0.4, "reason": "…"}``.
"""

import argparse
import json
import sys

from aiia_serving.catalogue.loader import catalogue_folders, load_catalogue
from aiia_serving.engines.packaged import prepare
from aiia_serving.settings import model_cache


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aiia_serving prepare")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--json", action="store_true", help="progress as JSON lines")
    options = parser.parse_args()

    def say(fraction: float, reason: str) -> None:
        line = json.dumps({"progress": fraction, "reason": reason}) if options.json else f"{fraction:4.0%} {reason}"
        print(line, flush=True)

    for package in options.packages or _wanted():
        try:
            folder = prepare(package, model_cache(), say)
        except (LookupError, OSError) as error:
            sys.exit(f"{package}: {error}")
        if not options.json:
            print(folder)


def _wanted() -> list[str]:
    documents = load_catalogue(catalogue_folders()).documents.values()
    return sorted({document.spec.source.package for document in documents if document.spec.source.package})
