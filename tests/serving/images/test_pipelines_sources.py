"""What is loaded as a model or upscaler, and what is refused with which reason."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from aiia_serving.images.engine.placement import Placement, count
from aiia_serving.images.families import families, family_of
from aiia_serving.images.job import Job
from aiia_serving.images.problem import ImageProblem
from aiia_serving.images.sources import lacking, load_model, recognise
from aiia_serving.images.upscale import MARGIN, TILE, Upscalers
from aiia_serving.images.weights import check_whole
from aiia_serving.images.works import assemble, prepare
from tests.support import pipelines
from tests.support.original import flux_file, single_file
from tests.support.pictures import encoded, scene

pytestmark = pytest.mark.serving


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pipelines.make("sd15", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def reason(path: Path) -> str:
    with pytest.raises(ImageProblem) as refused:
        load_model(path)
    assert refused.value.status == 422
    return str(refused.value)


def weights(folder: Path) -> Path:
    return next((folder / "unet").glob("*.safetensors"))


def test_each_familys_classes_exist() -> None:
    import diffusers

    for family in families().values():
        kinds = [*family.classes.values(), *family.control_classes.values(), *family.also, family.control_class]
        kinds += [scheduler.class_name for scheduler in family.schedulers.values()]
        assert all(hasattr(diffusers, kind) for kind in kinds if kind is not None)
        assert all(family_of(kind) == family for kind in family.classes.values())


def test_a_folder_is_recognised_and_loaded(tiny: Path) -> None:
    assert recognise(tiny).name == "sd15"
    model = load_model(tiny, limits={"max_steps": 9}, defaults={"steps": 3, "strength": {"edit": 0.9}})
    known = model.capabilities()
    assert known["limits"]["max_steps"] == 9
    assert known["defaults"]["steps"] == 3
    assert known["defaults"]["strength"] == {"edit": 0.9, "inpaint": 1.0, "outpaint": 1.0, "variation": 0.7}
    assert (known["defaults"]["width"], known["sizes"]) == (32, ["32x32"])
    assert json.loads(json.dumps(known)) == known
    assert model.bytes() > 1_000_000


def test_presets_that_the_family_does_not_know_are_refused(tiny: Path) -> None:
    with pytest.raises(ImageProblem, match="no scheduler 'fastest'"):
        load_model(tiny, defaults={"scheduler": "fastest"})


def test_another_vae_is_taken(tiny: Path) -> None:
    torch.manual_seed(9)
    other = load_model(tiny)
    vae = other.components["vae"]
    with torch.no_grad():
        vae.decoder.conv_out.bias += 0.5
    vae.save_pretrained(tiny.parent / "vae")
    job = Job.parse({"work": "generate", "steps": 2, "seed": 1})
    made = [load_model(tiny, vae=one) for one in (None, tiny.parent / "vae")]
    images = [assemble(model, prepare(job, model).calls).run()[0] for model in made]
    assert images[0].tobytes() != images[1].tobytes()


@pytest.mark.parametrize("original", [False, True])
def test_another_vae_of_one_file_is_built_as_the_models_own(tiny: Path, tmp_path: Path, original: bool) -> None:
    """With the names of diffusers or the original's; without asking the hub, whose own would be far wider."""
    file = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    one = single_file(tiny, tmp_path / "one.safetensors")
    if original:
        start = "first_stage_model."
        names = {name.removeprefix(start): part for name, part in load_file(one).items() if name.startswith(start)}
        file = tmp_path / "vae.safetensors"
        save_file(names, file)
    wanted = load_model(tiny).components["vae"]
    for model in (load_model(tiny, vae=file), load_model(one, config=tiny, vae=file)):
        vae = model.components["vae"]
        assert dict(vae.config) | {"_name_or_path": ""} == dict(wanted.config) | {"_name_or_path": ""}
        assert all(torch.equal(part, wanted.state_dict()[name]) for name, part in vae.state_dict().items())


def test_what_a_file_does_not_say_is_asked_for(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in replicas.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = single_file(tiny, tmp_path / "one.safetensors")
    assert "one.safetensors does not say how its parts are built" in reason(file)
    vae = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ImageProblem, match="as its config") as refused:
        load_model(file, vae=vae)
    assert vae.name in str(refused.value)


def test_pickled_weights_are_refused(folder: Path) -> None:
    file = weights(folder)
    file.rename(file.with_suffix(".bin"))
    assert "pickled" in reason(folder)


def test_a_pickle_by_the_name_of_safetensors_is_refused(folder: Path) -> None:
    weights(folder).write_bytes(pickle.dumps({"a": 1}))
    assert "pickled" in reason(folder)
    torch.save({"a": torch.zeros(1)}, weights(folder))
    assert "pickled" in reason(folder)


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_torn_weights_are_refused(folder: Path, keep: int) -> None:
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:keep])
    assert any(word in reason(folder) for word in ("torn", "empty"))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\0\0\0" + bytes(50), "GGUF"),
        (b"\x10\0\0\0\0\0\0\0{'not': json }  ", "header"),
        (b"\x02\0\0\0\0\0\0\0{}", "no tensors"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{", "torn"),
    ],
)
def test_what_are_no_weights_is_refused_with_what_it_is(folder: Path, content: bytes, word: str) -> None:
    weights(folder).write_bytes(content)
    assert word in reason(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": ["0", "8"]},
        {"data_offsets": [0, 4, 8]},
        {"data_offsets": [8]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": None},
        {"dtype": ["F32"]},
        {"shape": ["2"]},
        {"shape": [-1, -2]},
        {"shape": 2},
    ],
)
def test_a_header_of_other_types_is_a_damaged_one(tmp_path: Path, change: dict[str, object]) -> None:
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    path = tmp_path / "one"
    for header, damaged in (({"a": whole}, False), ({"a": whole, "b": {**whole, **change}}, True)):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        if damaged:
            with pytest.raises(ImageProblem, match="one has a damaged header"):
                check_whole(path)
        else:
            check_whole(path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ImageProblem, match="holds no safetensors file"):
        check_whole(tmp_path)


def test_a_folder_that_lacks_a_part_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    assert "vae" in reason(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(1, 1)}, weights(folder))
    assert "can't be loaded" in reason(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"_class_name": "WuerstchenPipeline"}, "WuerstchenPipeline"),
        ({"_class_name": ["own", "Pipeline"]}, "no family"),
        ({"unet": ["my_code", "UNet"]}, "my_code"),
    ],
)
def test_pipelines_that_are_not_known_and_code_of_their_own_are_refused(
    folder: Path, change: dict[str, object], word: str
) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert word in reason(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_index_is_refused(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    assert "model_index.json" in reason(folder)


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "sd15"),
        (
            [
                "model.diffusion_model.input_blocks.0.0.weight",
                "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
            ],
            "sdxl",
        ),
        (["double_blocks.0.img_attn.norm.key_norm.scale"], "flux"),
        (["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale"], "flux"),
    ],
)
def test_a_single_file_is_recognised_by_its_keys(tmp_path: Path, keys: list[str], family: str) -> None:
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "one.safetensors")
    assert recognise(tmp_path / "one.safetensors").name == family


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_single_file_draws_what_its_folder_draws(family: str, tmp_path: Path) -> None:
    folder = pipelines.make(family, tmp_path / "model")
    file = single_file(folder, tmp_path / "one.safetensors")
    assert recognise(file).name == family
    assert lacking(file) == []
    job = Job.parse({"work": "generate", "prompt": "a star", "steps": 3, "seed": 1, "width": 32, "height": 32})
    images = [
        assemble(model, prepare(job, model).calls).run()[0]
        for model in (load_model(folder), load_model(file, config=folder))
    ]
    assert images[0].tobytes() == images[1].tobytes()


@pytest.mark.parametrize("whole", [False, True])
def test_a_single_file_of_flux_is_loaded_alone_and_with_all_parts(whole: bool, tmp_path: Path) -> None:
    """Most have the transformer alone; the others' places are in the folder that is the configuration."""
    net = pipelines.wide_flux(tmp_path / "config")
    file = flux_file(net.state_dict(), tmp_path / "one.safetensors", tmp_path / "config" if whole else None)
    assert recognise(file).name == "flux"
    absent = ["vae", "text_encoder", "text_encoder_2"]
    assert lacking(file) == ([] if whole else absent)
    config = tmp_path / "config"
    numbers = count(file, config=config)
    assert numbers.network == sum(weight.numel() for weight in net.parameters())
    assert min(numbers.encoders, numbers.others) > 10_000
    model = load_model(file, config=config, dtype=torch.bfloat16)
    loaded = model.network.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in net.state_dict().items())
    for part in absent:
        kind = type(model.components[part])
        plain = kind.from_pretrained(config / part, torch_dtype=torch.bfloat16).state_dict()
        found = model.components[part].state_dict()
        assert all(torch.equal(weight, found[name]) for name, weight in plain.items())
    if not whole:
        # In 16 bits a processor would take minutes for a step of this width.
        model.to(torch.float32)
        job = Job.parse({"work": "generate", "prompt": "a star", "steps": 1, "seed": 1, "width": 32, "height": 32})
        assert assemble(model, prepare(job, model).calls).run()[0].size == (32, 32)


def test_a_single_file_that_lacks_a_part_says_which(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    kept = {name: one for name, one in load_file(single_file(tiny, file)).items() if "first_stage_model" not in name}
    save_file(kept, file)
    assert "holds no vae" in reason(file)
    # The configuration's folder has it.
    assert load_model(file, config=tiny).components["vae"].config.latent_channels == 4
    save_file({name: one for name, one in kept.items() if "middle_block.1" not in name}, file)
    with pytest.raises(ImageProblem, match="incomplete"):
        load_model(file, config=tiny)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("unet.down.lora_A.weight", "LoRA"),
        ("control_model.time_embed.0.weight", "ControlNet"),
        ("joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
        ("anything", "no family"),
    ],
)
def test_a_single_file_of_something_else_is_named(tmp_path: Path, key: str, word: str) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "one.safetensors")
    assert word in reason(tmp_path / "one.safetensors")


def _esrgan(path: Path) -> Path:
    """An upscaler of a known kind, twice as large, with random weights."""
    from aiia_serving.images.upscale import _torchvision

    with _torchvision():
        from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(4)
    net = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2)
    save_file(net.state_dict(), path)
    return path


def test_an_upscaler_is_loaded_and_its_tiles_show_no_seams(tmp_path: Path) -> None:
    upscalers = Upscalers({"compact": _esrgan(tmp_path / "compact.safetensors")})
    image = scene(TILE + 40, 60)
    tiles: list[tuple[int, int]] = []
    whole = upscalers.run("compact", image, (image.width * 2, 120), "cpu", lambda *tile: tiles.append(tile))
    assert tiles == [(0, 2), (1, 2)]
    assert whole.size == (2 * (TILE + 40), 120)
    # A part of the image around the seam, computed at once.
    part = image.crop((TILE - 60, 0, TILE + 40, 60))
    alone = upscalers.run("compact", part, (200, 120), "cpu", lambda *_: None)
    near = (120 - 2 * MARGIN, 0, 120 + 2 * MARGIN, 120)
    seam = whole.crop((2 * (TILE - 60), 0, 2 * (TILE + 40), 120))
    assert np.abs(np.asarray(seam.crop(near), int) - np.asarray(alone.crop(near), int)).max() <= 1


def test_upscaling_is_a_work_of_every_model(tiny: Path, tmp_path: Path) -> None:
    model = load_model(tiny, upscalers={"compact": _esrgan(tmp_path / "compact.safetensors")})
    for name, scale, size in [(None, None, (80, 72)), ("lanczos", 3.0, (120, 108)), ("compact", 1.5, (60, 54))]:
        ready = prepare(
            Job.parse({"work": "upscale", "images": [encoded(scene())], "upscaler": name, "scale": scale}), model
        )
        (image,) = assemble(model, ready.calls).run()
        assert (image.size, ready.job.upscaler) == (size, name or "compact")


def test_an_upscaler_that_makes_no_numbers_is_refused(tmp_path: Path) -> None:
    path = _esrgan(tmp_path / "compact.safetensors")
    weights = load_file(path)
    next(iter(weights.values()))[0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ImageProblem, match="no numbers") as refused:
        Upscalers({"compact": path}).run("compact", scene(), (80, 72), "cpu", lambda *_: None)
    assert (refused.value.code, refused.value.param) == ("broken_upscaler", "upscaler")


def test_an_upscaler_counts_with_its_own_width(tiny: Path, tmp_path: Path) -> None:
    path = _esrgan(tmp_path / "compact.safetensors")
    weights = load_file(path).values()
    upscalers = Upscalers({"compact": path})
    upscalers.run("compact", scene(), (80, 72), "cpu", lambda *_: None)
    held = sum(weight.numel() * weight.element_size() for weight in upscalers.modules[0].parameters())
    narrow = Placement("cpu", "float16")
    assert narrow.bytes(count(tiny, {"upscalers": [path]})) - narrow.bytes(count(tiny)) == held
    assert narrow.bytes_of("upscaler", sum(weight.numel() for weight in weights)) == held


def test_what_is_no_upscaler_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ImageProblem) as refused:
        Upscalers({"none": tmp_path / "none.safetensors"}).run("none", Image.new("RGB", (8, 8)), (16, 16), "cpu", print)
    assert refused.value.code == "broken_upscaler"
