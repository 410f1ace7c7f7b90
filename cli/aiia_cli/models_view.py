"""What `aiia models` prints: models, the catalogue and events as lines."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from aiia_cli.amounts import columns, size, span

Json = Mapping[str, Any]


def models(found: Sequence[Json]) -> Iterator[str]:
    """One line for each model: state, replicas, queue, and why it is as it is."""
    if not found:
        yield "No models yet. `aiia models fit` shows which this machine can hold."
        return
    rows = [("MODEL", "STATE", "REPLICAS", "QUEUE", "")]
    rows += [(model["id"], model["state"], _replicas(model), _queue(model), detail(model)) for model in found]
    yield from columns(rows)


def detail(model: Json) -> str:
    """Why a model is in its state and how long that takes: `Loading weights, 62 %, about 40 s left`."""
    parts = [str(model["reason"]).rstrip(".")] if model.get("reason") else []
    if model.get("progress") is not None:
        parts.append(f"{model['progress'] * 100:.0f} %")
    if model.get("eta_s"):
        parts.append(f"about {span(model['eta_s'])} left")
    if model.get("base"):
        parts.append(f"on the replicas of {model['base']}")
    parts += map(_held, model.get("held") or ())
    return ", ".join(parts)


def _held(one: Json) -> str:
    """Where a replica has an image model and how: `5.1 GB on the device as bfloat16 (why)`."""
    if one.get("problem"):
        return f"not loaded: {str(one['problem']).rstrip('.')}"
    place = {"device": "on the device", "main": "in main memory", "away": "not in memory"}[one["place"]]
    how = f"as {one['precision']}"
    how += f", weights in {one['quantization']}" if one["quantization"] != "none" else ""
    how += f", {one['offload']} offloaded" if one["offload"] != "none" else ""
    how += f", {size(one['common_bytes'])} of it also other models'" if one.get("common_bytes") else ""
    return f"{size(one['bytes'])} {place} {how} ({one['why']})"


def _replicas(model: Json) -> str:
    if model["engine"] == "openai" or model.get("base"):
        return "-"
    low, high = model["min_replicas"], model["max_replicas"]
    return f"{model['replicas']} ({low if low == high else f'{low}-{high}'})"


def _queue(model: Json) -> str:
    queue = model.get("queue")
    if not queue or not (queue["slots"] or queue["waiting"]):
        return "-"
    words = f"{queue['running']} of {queue['slots']} run"
    if queue["waiting"]:
        words += f", {queue['waiting']} wait"
        words += f" (about {span(queue['work_s'])})" if queue.get("work_s") else ""
    return words


def catalogue(answer: Json) -> Iterator[str]:
    """The machine, and a line for each ready document: those that fit first, then why the others do not."""
    machine = answer["machine"]
    gpus = ", ".join(f"{gpu['name']} ({size(gpu['memory_bytes'])})" for gpu in machine["gpus"]) or "no GPU"
    memory, disk = size(machine["memory_bytes"]), size(machine["disk_free_bytes"])
    yield f"This machine: {gpus}, {machine['cpu_count']} processors, {memory} of memory, {disk} of disk free."
    yield ""
    rows = [("MODEL", "FITS", "TASK", "MEMORY", "DOWNLOAD", "CONTEXT", "")]
    for model in sorted(answer["models"], key=lambda model: (not model["fits"], model["task"] != "chat")):
        context = f"{model['max_model_len']:,}" if model.get("max_model_len") else "-"
        rows.append(
            (
                model["id"],
                "yes" if model["fits"] else "no",
                model["task"],
                size(model.get("memory_bytes")),
                size(model.get("download_bytes")),
                context,
                _note(model),
            )
        )
    yield from columns(rows)


def _note(model: Json) -> str:
    parts = ["added"] if model.get("added") else []
    parts += [str(model["precision"])] if model["fits"] and model.get("precision") else []
    parts += [str(model["reason"]).rstrip(".")] if model.get("reason") else []
    # What does not fit need not be asked for.
    parts += ["gated: accept its licence on the hub, set HF_TOKEN"] if model["fits"] and model.get("gated") else []
    return "; ".join(parts)


def event(found: Json) -> str:
    """One event: `19:05:12  qwen3-8b  starting (was cold): Loading weights`."""
    at = datetime.fromtimestamp(found["at"]).astimezone().strftime("%H:%M:%S")
    was = f" (was {found['previous']})" if found["previous"] else ""
    why = f": {found['reason']}" if found["reason"] else ""
    return f"{at}  {found['model']}  {found['state'] or 'gone'}{was}{why}"
