"""``python -m aiia_serving <role>``: catalogue, gateway, manager, models, prepare or schema."""

import importlib
import sys

# Imported only when named: the gateway must start without Ray, and every role without the others.
_ROLES = {
    "catalogue": "aiia_serving.manager.listing",
    "gateway": "aiia_serving.gateway.__main__",
    "manager": "aiia_serving.manager.__main__",
    "models": "aiia_serving.engines.head",
    "prepare": "aiia_serving.engines.prepare",
    "schema": "aiia_serving.catalogue.schema",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in _ROLES:
        sys.exit(f"usage: python -m aiia_serving {{{','.join(_ROLES)}}}")
    importlib.import_module(_ROLES[sys.argv.pop(1)]).main()


if __name__ == "__main__":
    main()
