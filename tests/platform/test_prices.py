from decimal import Decimal

import pytest

from aiia_platform.config import Price, config
from aiia_platform.generations.prices import cost

pytestmark = pytest.mark.unit


def test_cost_by_model_and_without_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"qwen3-8b": Price(prompt=Decimal("0.1"), completion=Decimal("0.4"))}
    monkeypatch.setattr(config(), "prices", prices)
    assert cost("qwen3-8b", 1_000_000, 500_000) == Decimal("0.3")
    assert cost("other", 1, 1) is None
    prices["*"] = Price(completion=Decimal(1))
    assert cost("other", 5, 1_000_000) == 1
