"""What the interface says about models and answers. Short, plain, figures instead of adjectives."""

from typing import Any

from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation


def ordinal(number: int) -> str:
    """`3` to `3rd`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def span(seconds: float) -> str:
    """A length of time in one unit: `40 s`, `4 min`, `2 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{round(seconds / 3600)} h"


def sentence(text: str) -> str:
    """Without the full stop at its end, since the interface joins its words itself."""
    return text.strip().rstrip(".")


def starting(name: str, detail: dict[str, Any]) -> str:
    """How far a model is that is not ready: `Starting qwen3-8b, about 40 s`, `Downloading 62 %, 4 min left`."""
    eta, progress = detail.get("eta_s"), detail.get("progress")
    if detail.get("state") == "downloading":
        words = "Downloading" if progress is None else f"Downloading {progress * 100:.0f} %"
        return f"{words}, {span(eta)} left" if eta else words
    return f"Starting {name}, about {span(eta)}" if eta else f"Starting {name}"


def status(detail: dict[str, Any], model: str) -> str:
    """The phase of a running answer."""
    match detail.get("phase"):
        case "queued":
            words = f"Queued: {ordinal(position)}" if (position := detail.get("position")) else "Queued"
            return f"{words}, about {span(eta)}" if (eta := detail.get("eta_s")) else words
        case "starting":
            return starting(model, detail)
        case "thinking":
            return f"Thinking, {seconds:.0f} s" if (seconds := detail.get("seconds")) else "Thinking"
        case "writing":
            return f"Writing, {speed:.0f} tok/s" if (speed := detail.get("tokens_per_s")) else "Writing"
        case "interrupted":
            return f"{sentence(detail.get('reason') or 'The worker stopped')}. Continuing"
        case _:
            return "Working"


def outcome(generation: Generation) -> str:
    """How an answer ended."""
    match generation.state:
        case Generation.State.DONE:
            parts = [generation.model]
            if tokens := generation.completion_tokens:
                parts.append(f"{tokens:,} token{'' if tokens == 1 else 's'}")
            if (seconds := generation.duration_s) is not None:
                parts.append(f"{seconds:.1f} s")
            return " · ".join(parts)
        case Generation.State.STOPPED:
            return "Stopped by you"
        case _:
            return ". ".join(filter(None, map(sentence, (generation.error or "The answer failed", generation.advice))))


def model_state(model: ModelInfo) -> str:
    """A model's state."""
    match model.state:
        case "ready":
            return "Ready"
        case "starting" | "downloading":
            detail = {"state": model.state, "progress": model.progress, "eta_s": model.eta_s}
            return starting(model.title, detail)
        case "registered":
            return "Waiting to start"
        case "cold":
            return "Asleep, starts with the first message"
        case "draining":
            return "Stopping"
        case _:
            return ": ".join(filter(None, ("Failed", sentence(model.reason))))
