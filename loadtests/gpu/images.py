"""Image pipelines of real sizes with random weights on a GPU: eager, with compiled blocks, and in eight bits.

``python -m loadtests.gpu.images [--shape sdxl] [--shape flux] [--steps 20] [--write]``; with ``--toy`` tiny pipelines
try it on any machine. No weights are downloaded: random ones cost what real ones do. Each way is measured in a fresh
model, once it is warm, by the engine that replicas run and by the bare pipeline beside it; then sixteen jobs one by one
and at once, and how many steps a job still makes after a more urgent one has come, or after it was cancelled.
"""

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiia_serving.catalogue.machine import gpus
from aiia_serving.images.controls import Controls
from aiia_serving.images.depth import Depths
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.failures import out_of_memory
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed, Placement
from aiia_serving.images.engine.tuning import tune
from aiia_serving.images.families import families
from aiia_serving.images.job import Job
from aiia_serving.images.loras import Loras
from aiia_serving.images.model import Model
from aiia_serving.images.sources import load_model
from aiia_serving.images.upscale import Upscalers
from aiia_serving.images.works import assemble, prepare
from loadtests import report
from loadtests.images import until_it_ends
from tests.support import pipelines

_ROUNDS = 5
_TOGETHER = 16
_WAYS: dict[str, dict[str, Any]] = {
    "eager": {"quantization": "none", "compile": "never"},
    "compiled": {"quantization": "none", "compile": "always"},
    "fp8, eager": {"quantization": "fp8", "compile": "never"},
    "fp8, compiled": {"quantization": "fp8", "compile": "always"},
}


def sdxl() -> dict[str, Any]:
    """The components of SDXL at its published sizes."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    )
    return {
        "vae": _vae(AutoencoderKL, 4, scaling_factor=0.13025),
        "text_encoder": CLIPTextModel(_clip_large()),
        "text_encoder_2": CLIPTextModelWithProjection(large),
        "tokenizer": pipelines.clip_tokenizer(),
        "tokenizer_2": pipelines.clip_tokenizer(),
        "unet": unet.to(torch.get_default_dtype()),
        "scheduler": _on_processor(EulerDiscreteScheduler, beta_schedule="scaled_linear", steps_offset=1),
    }


def flux() -> dict[str, Any]:
    """The components of FLUX.1 at its published sizes."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_ff=10240, d_kv=64, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return {
        "vae": _vae(AutoencoderKL, 16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                    use_post_quant_conv=False),
        "text_encoder": CLIPTextModel(_clip_large()),
        "text_encoder_2": T5EncoderModel(t5),
        "tokenizer": pipelines.clip_tokenizer(),
        "tokenizer_2": pipelines.t5_tokenizer(),
        "transformer": FluxTransformer2DModel(guidance_embeds=True),
        "scheduler": _on_processor(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True),
    }  # fmt: skip


_SHAPES: dict[str, Callable[[], dict[str, Any]]] = {"sdxl": sdxl, "flux": flux}


def _on_processor(kind: Any, **options: Any) -> Any:
    """A scheduler, which computes its tables with numpy, in single precision."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            return kind(**options)
    finally:
        torch.set_default_dtype(before)


def _vae(kind: Any, channels: int, **more: Any) -> Any:
    return kind(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=1024,
        **more,
    )


def _clip_large() -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)


def build(shape: str, device: str, toy: bool) -> Model:
    """A model with random weights, on its device."""
    import torch

    if toy:
        with tempfile.TemporaryDirectory() as folder:
            return load_model(pipelines.make(shape, Path(folder) / shape))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            components = _SHAPES[shape]()
    finally:
        torch.set_default_dtype(before)
    for part in components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    family = families()[shape]
    return Model(shape, family, components, Loras({}), Controls({}, family), Upscalers({}), Depths({}), {})


@dataclass(frozen=True)
class Measured:
    """Rows of the tables: times of one image, of many, and steps until the device is another's."""

    whole: list[str]
    many: list[str]
    hands: list[list[str]]


async def measure(shape: str, way: str, steps: int, toy: bool) -> Measured:
    """Seconds of the bare pipeline and of the engine for an image, their ratio, and GB at most; images/s one by one and
    at once; steps."""
    import torch

    options = _WAYS[way]
    device = "cpu" if toy else "cuda"
    model = build(shape, device, toy)
    placed = Placed(model, Placement(device, "float32" if toy else "bfloat16", options["quantization"]))
    tune(model, "native", options["compile"])
    memory: Memory[Placed] = Memory(Budget(10**12), device)
    memory.add(shape, lambda: placed, model.bytes())
    engine = Engine(memory, shape)
    side = pipelines.SIZE if toy else None
    job = Job(work="generate", prompt="a star", seed=0, steps=steps, width=side, height=side)

    async def ours(seed: int = 0) -> float:
        started = time.perf_counter()
        async for event in (await engine.submit(job.model_copy(update={"seed": seed}))).events():
            if event["type"] == "error":
                raise RuntimeError(event["message"])
        return time.perf_counter() - started

    async def rate(work: Awaitable[object]) -> float:
        started = time.perf_counter()
        await work
        return _TOGETHER / (time.perf_counter() - started)

    async def one_by_one() -> None:
        for seed in range(_TOGETHER):
            await ours(seed)

    def bare() -> float:
        started = time.perf_counter()
        assemble(model, prepare(job, model).calls).run()
        return time.perf_counter() - started

    if not toy:
        torch.cuda.reset_peak_memory_stats()
    await ours()
    bare()
    pairs = [(bare(), await ours()) for _ in range(_ROUNDS)]
    peak = "" if toy else f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"
    theirs, mine = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(ours / bare for bare, ours in pairs)
    alone, at_once = await rate(one_by_one()), await rate(asyncio.gather(*map(ours, range(_TOGETHER))))
    name = f"{shape}, {way}"
    return Measured(
        [name, f"{theirs:.2f}", f"{mine:.2f}", f"{ratio:.3f}", peak],
        [name, f"{alone:.2f}", f"{at_once:.2f}", f"{at_once / alone:.2f}"],
        [[f"{name}: {row[0]}", *row[1:]] for row in await until_it_ends(memory, shape, job)],
    )


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=list(_SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found: list[Measured] = []
    for shape in options.shape or list(_SHAPES):
        for way in _WAYS:
            try:
                found.append(asyncio.run(measure(shape, way, options.steps, options.toy)))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                found.append(Measured([f"{shape}, {way}", *["does not fit"] * 4], [], []))
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    names = ", ".join(gpu.name for gpu in gpus()) or "no GPU"
    text = "\n\n".join(
        (
            f"{report.machine()}; {names}; {options.steps} steps.",
            report.table(
                ["", "bare pipeline (s)", "engine (s)", "ratio", "memory, most (GB)"], [one.whole for one in found]
            ),
            report.table(
                [f"{_TOGETHER} jobs", "one by one (images/s)", "at once (images/s)", "times"],
                [one.many for one in found if one.many],
            ),
            report.table(["steps until", "times tried", "p50", "most"], [row for one in found for row in one.hands]),
        )
    )
    print(text)
    if options.write:
        report.write("gpu/images", text)


if __name__ == "__main__":
    main()
