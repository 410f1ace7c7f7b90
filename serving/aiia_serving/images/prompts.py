"""Prompts of any length, with weights: ``a (red:1.3) star, (bright), [dull]``.

``(x:1.3)`` counts 1.3 times, ``(x)`` 1.1 times, ``[x]`` one by 1.1; a backslash takes a bracket as it is, and so do
brackets without a partner. A weight moves a token's embedding away from what an empty prompt has in its place.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiia_serving.images.problem import ImageProblem

if TYPE_CHECKING:
    from aiia_serving.images.model import Model

STEP = 1.1
MAX_WEIGHT = 4.0
# Deeper brackets are text.
MAX_DEPTH = 16

_PIECE = re.compile(r"\\[()\[\]\\]|[(\[]|:\s*(\d{1,3}(?:\.\d{1,6})?)\s*\)|[)\]]|[^\\()\[\]:]+|[:\\]")


@dataclass(frozen=True)
class Weighted:
    """A piece of a prompt and how much it counts."""

    text: str
    weight: float


def parse(prompt: str) -> list[Weighted]:
    """The pieces of a prompt, in order; neighbours differ in weight."""
    texts: list[str] = []
    weights: list[float] = []
    open_at: list[int] = []
    for match in _PIECE.finditer(prompt):
        piece, number = match.group(), match.group(1)
        if piece in "([" and len(open_at) < MAX_DEPTH:
            open_at.append(len(texts))
        elif open_at and (piece == {"(": ")", "[": "]"}[texts[open_at[-1]]] or (number and texts[open_at[-1]] == "(")):
            start = open_at.pop()
            texts[start] = ""
            factor = float(number) if number else STEP if piece == ")" else 1 / STEP
            weights[start:] = [weight * factor for weight in weights[start:]]
            continue
        texts.append(piece[1:] if piece[0] == "\\" and len(piece) == 2 else piece)
        weights.append(1.0)
    return _joined(texts, weights)


def _joined(texts: list[str], weights: list[float]) -> list[Weighted]:
    pieces: list[Weighted] = []
    for text, weight in zip(texts, weights, strict=True):
        weight = round(min(weight, MAX_WEIGHT), 6)
        if text and pieces and pieces[-1].weight == weight:
            pieces[-1] = Weighted(pieces[-1].text + text, weight)
        elif text:
            pieces.append(Weighted(text, weight))
    return pieces


@dataclass(frozen=True)
class Tokens:
    """A prompt for one text encoder: ids without marks of beginning and end, and what each counts."""

    ids: list[int]
    weights: list[float]

    @property
    def weighted(self) -> bool:
        return any(weight != 1.0 for weight in self.weights)


def tokens(tokenizer: Any, prompt: str) -> Tokens:
    ids: list[int] = []
    weights: list[float] = []
    for piece in parse(prompt):
        found = tokenizer(piece.text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        ids += found
        weights += [piece.weight] * len(found)
    return Tokens(ids, weights)


def chunks(model: "Model", prompt: str, negative: str) -> int:
    """How many windows of the text encoder the prompts need, at least one. Raises ImageProblem if it is too much.

    Images can be one batch only if they need the same number.
    """
    if model.family.prompts == "plain":
        return 1
    if model.family.prompts == "flux":
        limit = model.family.limits.max_prompt_tokens - 1
        for name, text in (("prompt", prompt), ("negative_prompt", negative)):
            _bounded(len(tokens(model.components["tokenizer_2"], text).ids), limit, name)
        return 1
    window = _window(model.components["tokenizer"])
    needed = 1
    for name, text in (("prompt", prompt), ("negative_prompt", negative)):
        for tokenizer in _tokenizers(model):
            count = len(tokens(tokenizer, text).ids)
            _bounded(count, model.family.limits.max_prompt_tokens, name)
            needed = max(needed, -(-count // window))
    return needed


def _bounded(count: int, limit: int, param: str) -> None:
    if count > limit:
        raise ImageProblem(
            f"The prompt has {count} tokens; this model takes {limit}.", code="prompt_too_long", param=param
        )


def encode(model: "Model", device: Any, prompt: str, negative: str | None, windows: int) -> dict[str, Any]:
    """The arguments of the pipeline that stand for one image's prompts, tensors or lists of length one.

    ``negative`` None: without one. ``windows`` is what ``chunks`` said. LoRAs of text encoders must be set before.
    """
    import torch

    encoder = {"clip": _clip, "clip-pair": _clip_pair, "flux": _flux, "plain": _plain}[model.family.prompts]
    with torch.no_grad():
        return encoder(model, device, prompt, negative, windows)


def _plain(model: "Model", device: Any, prompt: str, negative: str | None, windows: int) -> dict[str, Any]:
    return {"prompt": [prompt]} | ({"negative_prompt": [negative]} if negative is not None else {})


def _clip(model: "Model", device: Any, prompt: str, negative: str | None, windows: int) -> dict[str, Any]:
    parts = model.components
    made = {"prompt_embeds": _windows(parts["tokenizer"], parts["text_encoder"], device, prompt, windows)[0]}
    if negative is not None:
        made["negative_prompt_embeds"] = _windows(parts["tokenizer"], parts["text_encoder"], device, negative, windows)[
            0
        ]
    return made


def _clip_pair(model: "Model", device: Any, prompt: str, negative: str | None, windows: int) -> dict[str, Any]:
    import torch

    embeds, pooled = _pair(model, device, prompt, windows)
    made = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    if negative is None:
        return made
    if not negative and model.pipe.config.get("force_zeros_for_empty_prompt"):
        against, pooled_against = torch.zeros_like(embeds), torch.zeros_like(pooled)
    else:
        against, pooled_against = _pair(model, device, negative, windows)
    return {**made, "negative_prompt_embeds": against, "negative_pooled_prompt_embeds": pooled_against}


def _pair(model: "Model", device: Any, prompt: str, windows: int) -> tuple[Any, Any]:
    import torch

    parts = model.components
    found = [
        _windows(parts[f"tokenizer{number}"], parts[f"text_encoder{number}"], device, prompt, windows, penultimate=True)
        for number in ("", "_2")
        if parts.get(f"text_encoder{number}") is not None
    ]
    return torch.cat([embeds for embeds, _ in found], dim=-1), found[-1][1]


def _flux(model: "Model", device: Any, prompt: str, negative: str | None, windows: int) -> dict[str, Any]:
    embeds, pooled = _t5(model, device, prompt), _clip_pooled(model, device, prompt)
    made = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    if negative is None:
        return made
    return {
        **made,
        "negative_prompt_embeds": _t5(model, device, negative),
        "negative_pooled_prompt_embeds": _clip_pooled(model, device, negative),
    }


def _clip_pooled(model: "Model", device: Any, prompt: str) -> Any:
    import torch

    tokenizer, encoder = model.components["tokenizer"], model.components["text_encoder"]
    found = tokens(tokenizer, prompt)
    ids = _framed(tokenizer, found.ids[: _window(tokenizer)])
    return encoder(torch.tensor([ids], device=device), output_hidden_states=False).pooler_output.to(encoder.dtype)


def _t5(model: "Model", device: Any, prompt: str) -> Any:
    import torch

    tokenizer, encoder = model.components["tokenizer_2"], model.components["text_encoder_2"]
    length = model.family.limits.max_prompt_tokens

    def run(ids: list[int]) -> Any:
        framed = [*ids[: length - 1], tokenizer.eos_token_id]
        framed += [tokenizer.pad_token_id] * (length - len(framed))
        return encoder(torch.tensor([framed], device=device), output_hidden_states=False)[0].to(encoder.dtype)

    found = tokens(tokenizer, prompt)
    embeds = run(found.ids)
    if not found.weighted:
        return embeds
    return _moved(embeds, run([]), [*found.weights[: length - 1]])


def _windows(
    tokenizer: Any, encoder: Any, device: Any, prompt: str, windows: int, *, penultimate: bool = False
) -> tuple[Any, Any]:
    """The embeddings of all windows, one after another, and the first one's pooled embedding."""
    import torch

    found = tokens(tokenizer, prompt)
    size = _window(tokenizer)

    def run(ids: list[int]) -> tuple[Any, Any]:
        framed = torch.tensor([_framed(tokenizer, ids)], device=device)
        output = encoder(framed, output_hidden_states=penultimate)
        embeds = output.hidden_states[-2] if penultimate else output[0]
        return embeds.to(encoder.dtype), output[0]

    empty = run([])[0] if found.weighted else None
    embeds, pooled = [], None
    for number in range(windows):
        start = number * size
        window, first = run(found.ids[start : start + size])
        if empty is not None:
            window = _moved(window, empty, [1.0, *found.weights[start : start + size]])
        embeds.append(window)
        pooled = first if pooled is None else pooled
    return torch.cat(embeds, dim=1), pooled


def _moved(embeds: Any, empty: Any, weights: list[float]) -> Any:
    import torch

    factors = torch.ones(embeds.shape[1], dtype=embeds.dtype, device=embeds.device)
    factors[: len(weights)] = torch.tensor(weights, dtype=embeds.dtype, device=embeds.device)
    return empty + (embeds - empty) * factors[None, :, None]


def _framed(tokenizer: Any, ids: list[int]) -> list[int]:
    framed = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return framed + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(framed))


def _window(tokenizer: Any) -> int:
    return int(tokenizer.model_max_length) - 2


def _tokenizers(model: "Model") -> list[Any]:
    names = ("tokenizer", "tokenizer_2") if model.family.prompts == "clip-pair" else ("tokenizer",)
    return [model.components[name] for name in names if model.components.get(name) is not None]
