"""``python -m aiia_serving.catalogue.vllm_arguments``: writes the list of vLLM's engine arguments anew.

To be run where the wanted version of vLLM is installed; a test compares the list with what is.
"""

import dataclasses
from pathlib import Path


def installed() -> list[str]:
    """The names of the arguments of the vLLM that is installed."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return sorted(field.name for field in dataclasses.fields(AsyncEngineArgs))


def main() -> None:
    Path(__file__).with_suffix(".txt").write_text("\n".join(installed()) + "\n")


if __name__ == "__main__":
    main()
