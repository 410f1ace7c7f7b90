"""`aiia test`."""


def run_tiers(arguments: list[str]) -> int:
    raise NotImplementedError
