"""What a Model document may say of a model's place."""

import pytest

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.images.engine.placement import Numbers, plan

pytestmark = pytest.mark.serving


@pytest.mark.parametrize("offload", ["none", "encoders", "blocks"])
def test_each_offload_that_may_be_chosen_may_be_said(offload: str) -> None:
    options = DiffusersOptions.model_validate({"offload": offload})
    numbers = Numbers(network=10**9, encoders=10**8, others=10**8)
    assert plan(numbers, "sdxl", 80 * 10**9, options.model_dump()).offload == offload
