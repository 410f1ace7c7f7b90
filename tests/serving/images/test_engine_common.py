"""Parts that several models of a replica have: in memory once, and each model draws what it draws alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.engines.diffusers import places
from aiia_serving.images.engine.common import Common
from aiia_serving.images.engine.engine import Engine
from aiia_serving.images.engine.loading import Loader
from aiia_serving.images.engine.memory import Budget, Memory
from aiia_serving.images.engine.placement import Placed
from aiia_serving.images.sources import load_model
from tests.serving.images.test_engine_runs import draw, end, job, pixels
from tests.support.pictures import encoded, scene
from tests.support.pipelines import SIZE, make, make_control, make_lora

pytestmark = pytest.mark.serving

SMALL = {"width": SIZE, "height": SIZE}
CONTROL = {"control": [{"name": "lines", "image": encoded(scene()), "preprocessor": "canny"}]}


class Replica:
    """FLUX as it is, again with another network, and with a LoRA; each in a folder of its own."""

    def __init__(self, folder: Path, room: int = 10**9) -> None:
        self.common = Common()
        self.loaders: dict[str, Loader] = {}
        self.placed: dict[str, Placed] = {}
        self.memory: Memory[Placed] = Memory(Budget(room))
        for name in ("flux", "tuned", "styled"):
            self._add(name, folder / name, folder)

    def _add(self, name: str, source: Path, folder: Path) -> None:
        options = DiffusersOptions().model_dump() | places(DiffusersOptions(), folder)
        options["controls"] = {"lines": str(folder / f"control-{name}")}
        options["loras"] = {"style": str(folder / "style.safetensors")} if name == "styled" else {}
        loader = self.loaders[name] = Loader(name, source, options, common=self.common)

        def load() -> Placed:
            self.placed[name] = loader.load()
            return self.placed[name]

        self.memory.add(name, load, loader.bytes, loader.how, loader.common)

    def part(self, model: str, name: str) -> Any:
        return self.placed[model].model.components[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make("flux", folder / "flux")
    for name in ("tuned", "styled"):
        shutil.copytree(folder / "flux", folder / name)
    (file,) = (folder / "tuned" / "transformer").glob("*.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    for name in ("flux", "tuned", "styled"):
        make_control("flux", folder / f"control-{name}")
    make_lora("flux", folder / "style.safetensors")
    return folder


async def of(engine: Engine, model: str, **values: object) -> "np.ndarray[Any, Any]":
    return pixels(await end(await engine.submit(job(**SMALL, **values), model)))


async def test_equal_parts_are_in_memory_once_and_each_draws_what_it_draws_alone(folder: Path) -> None:
    alone = {}
    for name in ("flux", "tuned", "styled"):
        engine = Engine(Replica(folder).memory, name)
        alone[name] = [pixels(await draw(engine, **SMALL)), await of(engine, name, **CONTROL)]
    replica = Replica(folder)
    engine = Engine(replica.memory, "flux")
    for _ in range(2):
        for name, (plain, controlled) in alone.items():
            assert np.array_equal(await of(engine, name), plain)
            assert np.array_equal(await of(engine, name, **CONTROL), controlled)
    assert not np.array_equal(alone["flux"][0], alone["tuned"][0])
    for part in ("text_encoder", "text_encoder_2", "vae"):
        assert replica.part("flux", part) is replica.part("tuned", part)
    assert replica.part("flux", "transformer") is not replica.part("tuned", "transformer")
    # A LoRA may change the first encoder, never the second or the VAE.
    assert replica.part("flux", "text_encoder") is not replica.part("styled", "text_encoder")
    assert replica.part("flux", "text_encoder_2") is replica.part("styled", "text_encoder_2")
    sizes = {name: placed.model.bytes() for name, placed in replica.placed.items()}
    together = {id(weight): weight.nbytes for placed in replica.placed.values() for weight in _weights(placed)}
    used = replica.memory.used()[0]
    assert sum(together.values()) <= used <= 1.05 * sum(together.values())
    assert used < 0.9 * sum(sizes.values())
    states = {str(state["name"]): state for state in replica.memory.states()}
    assert states["flux"]["common_bytes"] > states["styled"]["common_bytes"] > 0  # type: ignore[operator]


async def test_one_that_leaves_takes_nothing_with_it_that_another_needs(folder: Path) -> None:
    loaders = Replica(folder).loaders
    own = {name: loader.bytes - sum(loader.common.values()) for name, loader in loaders.items()}
    # For any two, not for three.
    room = loaders["flux"].bytes + own["tuned"] + own["styled"] // 2
    replica = Replica(folder, room)
    engine = Engine(replica.memory, "flux")
    alone = {name: await of(Engine(Replica(folder).memory, name), name) for name in ("flux", "tuned")}
    for name in ("flux", "tuned", "styled", "flux", "styled", "tuned", "flux"):
        picture = await of(engine, name, **CONTROL)
        assert picture.shape == (1, SIZE, SIZE, 3)
        assert replica.memory.used()[0] <= room
        if name in alone:
            assert np.array_equal(await of(engine, name), alone[name])
    there = [name for name in replica.placed if replica.memory.is_ready(name)]
    assert len(there) == 2
    assert not any(weight.is_meta for name in there for weight in _weights(replica.placed[name]))


async def test_what_differs_in_a_number_or_in_its_configuration_is_no_common_part(folder: Path, tmp_path: Path) -> None:
    common = Common()
    first = folder / "flux" / "vae"
    assert common.first(first) == first
    assert common.first(folder / "tuned" / "vae") == first
    for name, change in {"number": "weights", "configuration": "config"}.items():
        other = tmp_path / name
        shutil.copytree(first, other)
        if change == "weights":
            (file,) = other.glob("*.safetensors")
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        else:
            text = (other / "config.json").read_text()
            (other / "config.json").write_text(text.replace('"scaling_factor": 0.3611', '"scaling_factor": 0.5'))
            assert (other / "config.json").read_text() != text
        assert common.first(other) == other
    renamed = tmp_path / "renamed"
    shutil.copytree(first, renamed)
    text = (renamed / "config.json").read_text()
    (renamed / "config.json").write_text(text.replace("{", '{"_name_or_path": "somewhere/else",', 1))
    assert common.first(renamed) == first
    empty = tmp_path / "empty"
    empty.mkdir()
    assert common.first(empty) == empty
    assert common.first(tmp_path / "none") == tmp_path / "none"


def test_a_part_that_is_there_stays_where_it_is(folder: Path) -> None:
    vae = load_model(folder / "flux").components["vae"].to("meta")
    model = load_model(folder / "tuned", parts={"vae": vae})
    assert model.components["vae"] is vae
    assert {weight.device.type for weight in vae.parameters()} == {"meta"}
    assert model.network.device.type == "cpu"


async def test_one_that_fails_to_load_leaves_the_parts_of_others_whole(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "models")
    replica = Replica(tmp_path / "models")
    engine = Engine(replica.memory, "flux")
    before = await of(engine, "flux")
    (tmp_path / "models" / "tuned" / "tokenizer_2" / "tokenizer.json").write_text("torn")
    events = await end(await engine.submit(job(**SMALL), "tuned"))
    assert events[-1]["type"] == "error"
    assert np.array_equal(await of(engine, "flux"), before)
    assert replica.memory.used()[0] == replica.loaders["flux"].bytes


def _weights(placed: Placed) -> list[torch.Tensor]:
    return [w for module in placed.model.modules() for w in (*module.parameters(), *module.buffers())]
