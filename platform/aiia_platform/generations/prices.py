"""What tokens cost, by the configured prices."""

from decimal import Decimal

from aiia_platform.config import config

MILLION = 1_000_000


def cost(model: str, prompt_tokens: int, completion_tokens: int) -> Decimal | None:
    """The cost of a request in the configured currency; None for a model without a price."""
    price = config().prices.get(model) or config().prices.get("*")
    if price is None:
        return None
    return (price.prompt * prompt_tokens + price.completion * completion_tokens) / MILLION
