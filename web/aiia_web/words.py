"""What the interface says about models and answers. Short, plain, figures instead of adjectives."""

from typing import Any

from aiia_platform.catalogue.manager import ManagedModel
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
        case "summarising":
            return "Summarising older messages"
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
            return "Asleep, starts with the first message" if model.starts_on_demand else "Unloaded"
        case "draining":
            return "Stopping"
        case _:
            return ": ".join(filter(None, ("Failed", sentence(model.reason))))


def managed_model(model: ManagedModel) -> str:
    """A model's state, with what its queue does."""
    words = [model_state(model)]
    if model.state == "ready" and model.replicas != 1 and model.max_replicas > 1:
        words.append(f"{model.replicas} replicas")
    if queue := model.queue:
        if running := queue.get("running"):
            words.append(f"{running} running")
        if waiting := queue.get("waiting"):
            work = queue.get("work_s")
            words.append(f"{waiting} waiting, about {span(work)}" if work else f"{waiting} waiting")
    return " · ".join(words)


def model_facts(model: ManagedModel) -> str:
    """What a model is: `qwen3-8b · chat · 32,768 tokens of context`."""
    parts = [model.id, model.task]
    kind = "on the replicas" if model.task == "image" else "an adapter"
    parts.append(f"{kind} of {model.base}" if model.base else "")
    parts.append("at a remote endpoint" if model.engine == "openai" else "")
    parts.append(f"{model.max_model_len:,} tokens of context" if model.max_model_len else "")
    return " · ".join(filter(None, parts))


def bounds(model: ManagedModel) -> str:
    """How many replicas a model may have: `0 to 2`."""
    low, high = model.min_replicas, model.max_replicas
    return f"{low}" if low == high else f"{low} to {high}"


def size(number: float) -> str:
    """Bytes as `1.2 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def machine(found: dict[str, Any]) -> str:
    """A machine as the catalogue describes it."""
    gpus = ", ".join(f"{gpu['name']} with {size(gpu['memory_bytes'])}" for gpu in found["gpus"]) or "No GPU"
    memory, disk = size(found["memory_bytes"]), size(found["disk_free_bytes"])
    return f"{gpus}, {found['cpu_count']} processors, {memory} of memory, {disk} of disk free."


def catalogue_entry(entry: dict[str, Any]) -> str:
    """What a ready document is and takes."""
    parts = [entry["id"], entry["task"]]
    if parameters := entry.get("parameters"):
        parts.append(
            f"{parameters / 1e9:.1f} B parameters" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M parameters"
        )
    if memory := entry.get("memory_bytes"):
        precision = f" in {entry['precision']}" if entry.get("precision") else ""
        parts.append(f"{size(memory)} of memory{precision}")
    if download := entry.get("download_bytes"):
        parts.append(f"{size(download)} to download")
    if context := entry.get("max_model_len"):
        parts.append(f"{context:,} tokens of context")
    parts.append(entry.get("license") or "")
    parts.append("accept its licence on the hub, and set HF_TOKEN" if entry.get("gated") else "")
    return " · ".join(filter(None, parts))


def held(model: ManagedModel) -> list[str]:
    """Where each replica has an image model, how it is loaded, why so, and what bringing it back costs."""
    return [_held(one) for one in model.held]


def _held(one: dict[str, Any]) -> str:
    if one.get("problem"):
        return f"Not loaded: {sentence(one['problem'])}"
    memory = "On the GPU" if one["device"] == "cuda" else "In memory"
    place = {"device": memory, "main": "In main memory", "away": "Not in memory"}[one["place"]]
    parts = [place, f"{size(one['bytes'])} as {one['precision']}"]
    common = one.get("common_bytes")
    parts.append(f"{size(common)} of it also other models'" if common else "")
    parts.append("network in 8 bits" if one["quantization"] == "fp8" else "")
    offloaded = {"encoders": "text encoders in main memory", "blocks": "block by block from main memory"}
    parts.append(offloaded.get(one["offload"], ""))
    cost = one.get("move_s") if one["place"] == "main" else one.get("load_s")
    parts.append(f"brought in {span(cost)}" if cost else "")
    parts.append(sentence(one["why"]))
    return " · ".join(filter(None, parts))
