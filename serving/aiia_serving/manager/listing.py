"""``python -m aiia_serving catalogue``: what the manager answers to ``GET /catalogue``, without a manager."""

import json
import sys

from aiia_serving.catalogue.loader import catalogue_folders, load_catalogue
from aiia_serving.manager.offers import offers
from aiia_serving.settings import model_cache


def main() -> None:
    added = load_catalogue(catalogue_folders()).documents
    json.dump(offers(model_cache(), added.keys()), sys.stdout)
    sys.stdout.write("\n")
