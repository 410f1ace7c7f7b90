"""From files to a model: a folder of diffusers or one safetensors file, recognised and checked before it is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiia_serving.images.controls import Controls
from aiia_serving.images.depth import Depths
from aiia_serving.images.families import Family, families, family_of, other_family
from aiia_serving.images.loras import Loras
from aiia_serving.images.model import Model
from aiia_serving.images.parts import Shelf
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.upscale import Upscalers
from aiia_serving.images.weights import Tensor, tensors

# Each file is looked for by keys that no other family has.
_SDXL = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
_UNET = "model.diffusion_model.input_blocks.0.0.weight"
_FLUX = "double_blocks.0.img_attn.norm.key_norm.scale"
_OTHERS = {
    "SDXL's refiner": "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias",
    "Stable Diffusion 3": "joint_blocks.0.context_block.adaLN_modulation.1.bias",
    "FLUX.2": "single_stream_modulation.lin.weight",
    "Chroma": "distilled_guidance_layer.in_proj.bias",
}
# Where the parts beside the network begin in a single file, with the families that have them.
_BESIDE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vae": (("sd15", "sdxl", "flux"), ("first_stage_model.", "vae.")),
    "text_encoder": (
        ("sd15", "sdxl", "flux"),
        ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    ),
    "text_encoder_2": (("sdxl", "flux"), ("conditioner.embedders.1.", "text_encoders.t5xxl.")),
}
_LIBRARIES = ("diffusers", "transformers", None)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack")


def recognise(path: Path) -> Family:
    """The family of a pipeline's folder or single file, from what it says of itself; no weights are read.

    Raises ImageProblem, with the reason, for what is pickled, torn, incomplete or of no known family.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise _bad(f"{path.name} is not there.")
    return _of_file(path, tensors(path))


def lacking(path: Path) -> list[str]:
    """The parts that a single file does not hold: those of FLUX often have the transformer alone. Of a folder none."""
    if path.is_dir():
        return []
    found = tensors(path)
    family = _of_file(path, found).name
    return [
        part
        for part, (families_, starts) in _BESIDE.items()
        if family in families_ and not any(name.startswith(starts) for name in found)
    ]


def load_model(
    source: Path,
    *,
    id: str = "",  # noqa: A002  # the catalogue's word
    family: str | None = None,
    dtype: Any = None,
    device: Any = "cpu",
    vae: Path | None = None,
    config: Path | None = None,
    loras: Mapping[str, Path] | None = None,
    controls: Mapping[str, Path] | None = None,
    upscalers: Mapping[str, Path] | None = None,
    depths: Mapping[str, Path] | None = None,
    limits: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
    shelf: Shelf | None = None,
) -> Model:
    """The model of a folder or single file. Raises ImageProblem if it can't be loaded.

    ``family`` is asked for where a file does not tell. ``dtype`` is torch's, float32 if None. ``config`` is a folder
    with the configuration and tokenizers of a single file, and with the parts that it lacks; without it diffusers asks
    the hub, or what is kept of it here. ``vae`` is a folder, or a file that is built as the model's own. ``limits`` and
    ``defaults`` replace the family's. ``options`` go to diffusers' loader, such as ``quantization_config``.
    ``parts`` are components that are loaded already, and the ``shelf`` is where further parts are looked for and put.
    """
    import diffusers
    import torch

    known = _family(source, family)
    dtype = dtype or torch.float32
    shelf = shelf or Shelf()
    extra: dict[str, Any] = {**(options or {}), "torch_dtype": dtype, **(parts or {})}
    if vae is not None and "vae" not in extra:
        extra["vae"] = _vae(vae, dtype, source if source.is_dir() else config)
    kind = getattr(diffusers, known.classes["generate"])
    # An original checkpoint may hold an inpainting network, which only its own class loads as it is.
    try:
        pipe = _from_folder(kind, source, extra) if source.is_dir() else _from_file(kind, source, config, extra)
    except ImageProblem:
        raise
    except NotImplementedError as error:
        # torch's word on weights that no file has filled.
        raise _bad(f"{source.name} is incomplete: it lacks weights of a {known.title}.") from error
    except Exception as error:
        raise _bad(f"{source.name} can't be loaded as {known.title}: {_short(error)}") from error
    components = {name: part for name, part in pipe.components.items() if name != "safety_checker"}
    for name, part in components.items():
        # A part that was there may be in use, wherever it is.
        if isinstance(part, torch.nn.Module) and name not in (parts or {}):
            _complete(source, name, part)
            part.eval().requires_grad_(False).to(device)
    known = known.variant(dict(components[known.network].config)).changed(limits or {}, defaults or {})
    if known.defaults.scheduler not in known.schedulers:
        names = ", ".join(known.schedulers)
        raise _bad(f"There is no scheduler '{known.defaults.scheduler}' for {known.title}. Schedulers: {names}.")
    config_names = ("force_zeros_for_empty_prompt", "requires_aesthetics_score")
    return Model(
        id or source.stem,
        known,
        components,
        Loras(loras or {}),
        Controls(controls or {}, known, shelf),
        Upscalers(upscalers or {}, shelf),
        Depths(depths or {}, shelf),
        {name: pipe.config[name] for name in config_names if name in pipe.config}
        | {"requires_safety_checker": False, "add_watermarker": False},
        shelf,
    )


def _family(source: Path, name: str | None) -> Family:
    if name is not None and name not in families():
        raise _bad(f"There is no family '{name}'. Families: {', '.join(families())}.")
    found = recognise(source)
    if name is not None and name != found.name:
        raise _bad(f"{source.name} is of the family {found.name}, not {name}.")
    return found


def _of_folder(folder: Path) -> Family:
    try:
        index = json.loads((folder / "model_index.json").read_text())
        pipeline = index["_class_name"]
        parts = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    except FileNotFoundError:
        raise _bad(f"{folder.name} is no pipeline of diffusers: it has no model_index.json.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad(f"{folder.name} has a damaged model_index.json.") from error
    family = _known(pipeline, parts) if isinstance(pipeline, str) else None
    if family is None:
        known = ", ".join(f"{one.title} ({one.classes['generate']})" for one in families().values() if one.classes)
        raise _bad(f"{folder.name} is a {pipeline}, which no family here loads. Families: {known}.")
    for name, (library, _) in parts.items():
        if library not in _LIBRARIES and library != "stable_diffusion":
            raise _bad(f"The part {name} of {folder.name} wants code of its own, from '{library}'; none is run.")
        if library is not None and name not in ("scheduler", "safety_checker", "feature_extractor", "image_encoder"):
            _check_part(folder, name)
    return family


def _known(pipeline: str, parts: Mapping[str, Any]) -> Family | None:
    return family_of(pipeline) or other_family(pipeline, "unet" if "unet" in parts else "transformer")


def _check_part(folder: Path, name: str) -> None:
    part = folder / name
    if not part.is_dir():
        raise _bad(f"{folder.name} is incomplete: it has no folder {name}.")
    if name.startswith("tokenizer"):
        return
    weights = sorted(part.glob("*.safetensors"))
    if not weights:
        pickled = next((file.name for file in sorted(part.iterdir()) if file.suffix in _PICKLED), None)
        if pickled:
            raise _bad(
                f"{name}/{pickled} holds pickled data, which can run code when it is loaded; convert it to safetensors."
            )
        raise _bad(f"{folder.name} is incomplete: {name} has no weights.")
    for file in weights:
        tensors(file)


def _of_file(path: Path, found: dict[str, Tensor]) -> Family:
    names = {name.removeprefix("model.diffusion_model.") for name in found}
    for title, key in _OTHERS.items():
        if key in names:
            raise _bad(f"{path.name} is a checkpoint of {title}, which no family here loads.")
    if _SDXL in found:
        return families()["sdxl"]
    if _FLUX in names:
        return families()["flux"]
    if _UNET in found:
        return families()["sd15"]
    if any("lora" in name for name in found):
        raise _bad(f"{path.name} is a LoRA; it is added to a model, not one itself.")
    if any(name.startswith(("control_model.", "controlnet_cond_embedding.")) for name in found):
        raise _bad(f"{path.name} is a ControlNet; it is added to a model, not one itself.")
    raise _bad(f"{path.name} is of no family that is known here: {', '.join(families())}.")


def _from_folder(kind: Any, folder: Path, extra: dict[str, Any]) -> Any:
    index = json.loads((folder / "model_index.json").read_text())
    # A part that is given as None is not looked for.
    extra |= {
        name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if index.get(name) is not None
    }
    network = folder / ("unet" if "unet" in index else "transformer")
    plain = [file for file in network.glob("*.safetensors") if ".fp16." not in file.name]
    if not plain:
        extra["variant"] = "fp16"
    return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **extra)


def _from_file(kind: Any, path: Path, config: Path | None, extra: dict[str, Any]) -> Any:
    absent = [part for part in lacking(path) if part not in extra]
    if absent and config is None:
        raise _bad(f"{path.name} holds no {', no '.join(absent)}; give a folder that does as its config.")
    if config is not None:
        extra |= {"config": str(config), "local_files_only": True}
        extra |= _parts(kind, config, absent, extra["torch_dtype"])
    try:
        return kind.from_single_file(str(path), **extra)
    except OSError as error:
        if config is not None:
            raise
        raise _unsaid(path) from error


def _parts(kind: Any, folder: Path, names: list[str], dtype: Any) -> dict[str, Any]:
    """These parts of a pipeline's folder."""
    if not names:
        return {}
    for name in names:
        _check_part(folder, name)
    known = kind._get_signature_keys(kind)[0]
    others = {part: None for part in ("unet", "transformer", *_BESIDE) if part in known and part not in names}
    pipe = kind.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **others)
    return {name: getattr(pipe, name) for name in names}


def _complete(source: Path, name: str, part: Any) -> None:
    """Raises ImageProblem if weights have not come with the files."""
    if any(weight.is_meta for weight in part.parameters()) and hasattr(part, "tie_weights"):
        # Those that are the same as others are not in files.
        part.tie_weights()
    absent = [key for key, weight in part.named_parameters() if weight.is_meta]
    if absent:
        raise _bad(f"{source.name} is incomplete: {name} lacks {len(absent)} weights, {absent[0]} among them.")


def _vae(path: Path, dtype: Any, model: Path | None) -> Any:
    """``model`` is a folder whose own VAE says how one of a single file is built."""
    from diffusers import AutoencoderKL

    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        tensors(file)
    try:
        if path.is_dir():
            return AutoencoderKL.from_pretrained(path, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
        own = {"config": str(model), "subfolder": "vae", "local_files_only": True} if model is not None else {}
        return AutoencoderKL.from_single_file(str(path), torch_dtype=dtype, **own)
    except Exception as error:
        if isinstance(error, OSError) and not path.is_dir() and model is None:
            raise _unsaid(path) from error
        raise _bad(f"{path.name} is no VAE that can be loaded: {_short(error)}") from error


def _unsaid(path: Path) -> ImageProblem:
    return _bad(
        f"{path.name} does not say how its parts are built, and nothing here does; give the folder of a model of its"
        " family as its config."
    )


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]


def _bad(message: str) -> ImageProblem:
    return ImageProblem(message, code="bad_model", status=422)
