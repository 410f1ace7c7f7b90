"""``python -m aiia_serving schema [FILE]``: the JSON schema of Model documents, for editors and for the chart."""

import json
import sys
from pathlib import Path

from aiia_serving.catalogue.document import ModelDocument


def schema_text() -> str:
    """The schema as it stands in ``models/schema.json``."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://aiia.dev/schemas/model.json",
        **ModelDocument.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(schema_text())
    else:
        sys.stdout.write(schema_text())
