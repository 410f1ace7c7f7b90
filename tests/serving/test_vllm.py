"""The packaged model on real Ray and vLLM, through the real manager and gateway. One start for all tests."""

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest
import yaml

from aiia_serving.engines.environment import RaySettings
from aiia_serving.settings import model_cache
from tests.fakes import ROOT
from tests.fakes.collector import Collector
from tests.fakes.control import INTERNAL_TOKEN, FakeControl
from tests.fakes.gateway import GatewayProcess, free_port

pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

MODEL = "smollm2-135m"
STORY: Any = [{"role": "user", "content": "Write a long story about a fisherman, his daughter and the sea."}]


def _command(process: psutil.Process) -> str:
    """Nothing for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Stack:
    """Ray head and manager as processes, with a folder of documents of the test's own."""

    def __init__(self, folder: Path, traces_to: str = "") -> None:
        self.documents = folder / "models"
        self.documents.mkdir()
        self.write(toolCallParser="hermes")
        self.manager_port = free_port()
        self.settings = RaySettings(folder, model_cache(), free_port(), free_port(), folder / "ray-token")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "serving"),
            "AIIA_DATA_DIR": str(folder),
            "AIIA_RAY_PORT": str(self.settings.ray_port),
            "AIIA_SERVE_PORT": str(self.settings.serve_port),
            "AIIA_RAY_TOKEN_FILE": str(self.settings.token_file),
            "AIIA_MODELS_DIR": str(self.documents),
            "AIIA_MANAGER_PORT": str(self.manager_port),
            "AIIA_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces_to,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        self.environment.pop("OPENAI_BASE_URL", None)
        self.roles: dict[str, subprocess.Popen[bytes]] = {}

    def write(self, sampling: dict[str, Any] | None = None, **vllm: str) -> None:
        """The packaged model's document with these options."""
        document = yaml.safe_load((ROOT / "models" / f"{MODEL}.yaml").read_text())
        document["spec"]["vllm"] |= vllm
        document["spec"]["sampling"] |= sampling or {}
        (self.documents / f"{MODEL}.yaml").write_text(yaml.safe_dump(document))

    def start(self, role: str) -> None:
        self.roles[role] = subprocess.Popen(
            [sys.executable, "-m", "aiia_serving", role], env=self.environment, cwd=ROOT
        )

    def stop(self, role: str) -> None:
        process = self.roles.pop(role)
        process.terminate()
        process.wait(30)

    @property
    def manager_url(self) -> str:
        return f"http://127.0.0.1:{self.manager_port}"

    def wait_state(self, wanted: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any]:
        """The first report of the manager, by model, that is as ``wanted``."""
        deadline, version, models = time.monotonic() + timeout, "", {}
        while time.monotonic() < deadline:
            request = urllib.request.Request(
                f"{self.manager_url}/state?after={version}&wait=5",
                headers={"Authorization": f"Bearer {INTERNAL_TOKEN}"},
            )
            try:
                report = json.load(urllib.request.urlopen(request, timeout=30))
            except OSError:
                time.sleep(0.1)  # The manager's port is not open yet.
                continue
            version = report["version"]
            models = {model["id"]: model for model in report["models"]}
            if wanted(models):
                return models
        raise AssertionError(f"not reached within {timeout} s; last: {models}")

    def replica(self, part: str = f"ServeReplica:{MODEL}:Server") -> psutil.Process:
        """The one that answers: another may still be ending."""
        processes = psutil.Process(self.roles["models"].pid).children(recursive=True)
        return max((p for p in processes if part in _command(p)), key=psutil.Process.create_time)

    def wait_idle(self, timeout: float = 10) -> bool:
        """Whether vLLM itself says, within ``timeout``, that it works on nothing."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            metrics = httpx.get(f"http://127.0.0.1:{self.settings.serve_port}/{MODEL}/metrics").text
            values = [line.split()[-1] for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
            if values == ["0.0"]:
                return True
            time.sleep(0.05)
        return False


def ready(models: dict[str, Any]) -> bool:
    return MODEL in models and models[MODEL]["state"] == "ready"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("serving"), collector.url)
    stack.start("models")
    stack.start("manager")
    try:
        stack.wait_state(ready, 400)
        yield stack
    finally:
        below = psutil.Process(stack.roles["models"].pid).children(recursive=True)
        for role in list(stack.roles):
            stack.stop(role)
        _, left = psutil.wait_procs(below, timeout=5)
        assert left == []
        assert not stack.settings.run_dir.exists()


@pytest.fixture(scope="module")
def served(stack: Stack, collector: Collector) -> Iterator[GatewayProcess]:
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with FakeControl() as control, GatewayProcess(control.url, manager_url=stack.manager_url, **traces) as gateway:
        yield gateway


@pytest.fixture
def model(served: GatewayProcess, stack: Stack) -> openai.OpenAI:
    stack.wait_state(ready, 120)
    return openai.OpenAI(base_url=served.base_url, api_key=INTERNAL_TOKEN, max_retries=0, timeout=120)


def test_it_knows_the_capital_of_france(model: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    plain = model.chat.completions.create(model=MODEL, messages=question, temperature=0)
    assert "Paris" in (plain.choices[0].message.content or "")
    assert plain.usage is not None
    assert plain.usage.completion_tokens > 0
    stream = model.chat.completions.create(model=MODEL, messages=question, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == plain.choices[0].message.content


def test_every_protocol_tells_the_same_answer(served: GatewayProcess, model: openai.OpenAI) -> None:
    claude = anthropic.Anthropic(base_url=served.base_url.removesuffix("/v1"), api_key=INTERNAL_TOKEN, max_retries=0)
    chat = model.chat.completions.create(model=MODEL, messages=STORY, temperature=0, max_tokens=40)
    text = chat.choices[0].message.content
    assert text
    assert chat.usage is not None
    response = model.responses.create(model=MODEL, input=STORY, temperature=0, max_output_tokens=40)
    assert (response.output_text, response.status) == (text, "incomplete")
    assert response.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    events = list(model.responses.create(model=MODEL, input=STORY, temperature=0, max_output_tokens=40, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert events[-1].type == "response.incomplete"
    message = claude.messages.create(model=MODEL, max_tokens=40, messages=STORY, extra_body={"temperature": 0})
    assert [block.to_dict().get("text") for block in message.content] == [text]
    assert (message.stop_reason, message.usage.input_tokens) == ("max_tokens", chat.usage.prompt_tokens)
    with claude.messages.stream(model=MODEL, max_tokens=40, messages=STORY, extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == text
    assert claude.messages.count_tokens(model=MODEL, messages=STORY).input_tokens == chat.usage.prompt_tokens


def test_an_answer_keeps_to_its_schema(model: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["capital", "large"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "capital", "schema": schema, "strict": True}}
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    answer = model.chat.completions.create(
        model=MODEL, messages=question, response_format=wanted, temperature=0, max_tokens=100
    )
    told = json.loads(answer.choices[0].message.content or "")
    assert {name: type(value) for name, value in told.items()} == {"capital": str, "large": bool}


def test_tools_are_called_in_every_protocol(model: openai.OpenAI, served: GatewayProcess) -> None:
    """The packaged model is too small to call one on its own: the call is forced upon it."""
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ]
    question: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    forced: Any = {"model": MODEL, "messages": question, "temperature": 0, "max_tokens": 60, "tools": tools}
    forced["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    (call,) = model.chat.completions.create(**forced).choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    deltas = [chunk.choices[0].delta for chunk in model.chat.completions.create(**forced, stream=True)]
    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    assert {piece.index for piece in pieces} == {0}
    assert "".join(piece.function.arguments or "" for piece in pieces if piece.function) == call.function.arguments
    claude = anthropic.Anthropic(base_url=served.base_url.removesuffix("/v1"), api_key=INTERNAL_TOKEN)
    message = claude.messages.create(
        model=MODEL,
        max_tokens=60,
        messages=question,
        tools=[{"name": "weather", "input_schema": tools[0]["function"]["parameters"]}],
        tool_choice={"type": "tool", "name": "weather"},
        extra_body={"temperature": 0},
    )
    assert [(block.type, block.to_dict().get("input")) for block in message.content] == [
        ("tool_use", json.loads(call.function.arguments))
    ]


def test_a_trace_ends_in_the_engine(model: openai.OpenAI, collector: Collector) -> None:
    secret, trace = "xyzzy-plugh", uuid.uuid4().hex
    model.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": secret}],
        max_tokens=5,
        extra_headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
    )
    wanted = {"ask the model": "aiia-gateway", "llm_request": MODEL}
    spans = collector.wait(lambda spans: wanted.keys() <= {span.name for span in spans if span.trace == trace})
    ours = {span.name: span for span in spans if span.trace == trace}
    assert {name: ours[name].service for name in wanted} == wanted
    assert ours["llm_request"].parent == ours["ask the model"].id
    assert secret.encode() not in b"".join(collector.raw)


def test_the_engines_metrics_are_behind_the_gateway(model: openai.OpenAI) -> None:
    text = httpx.get(str(model.base_url).removesuffix("/v1/") + f"/metrics/models/{MODEL}").text
    assert "vllm:num_requests_running" in text


def test_an_answer_goes_on_exactly_from_its_token_ids(model: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "temperature": 0, "extra_body": {"return_token_ids": True}}
    whole: Any = model.chat.completions.create(messages=STORY, max_tokens=60, **asked).to_dict()
    ids, prompt = whole["choices"][0]["token_ids"], whole["prompt_token_ids"]
    for cut in (1, 7, 23, 41):
        rest: Any = model.completions.create(prompt=[*prompt, *ids[:cut]], max_tokens=60 - cut, **asked).to_dict()
        assert rest["choices"][0]["token_ids"] == ids[cut:]


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_frees_the_engine(
    served: GatewayProcess, stack: Stack, model: openai.OpenAI, stream: bool
) -> None:
    body = {"model": MODEL, "messages": STORY, "stream": stream, "ignore_eos": True, "max_tokens": 3000}
    headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
    with httpx.Client(timeout=httpx.Timeout(60, read=60 if stream else 2)) as http:
        if stream:
            with http.stream("POST", f"{served.base_url}/chat/completions", json=body, headers=headers) as answer:
                chunks = answer.iter_raw()
                assert next(chunks).startswith(b"data: ")
                assert not stack.wait_idle(timeout=0.3)
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{served.base_url}/chat/completions", json=body, headers=headers)
    assert stack.wait_idle()


def test_nothing_of_ray_listens_to_the_network(stack: Stack, model: openai.OpenAI) -> None:
    ours = psutil.Process(stack.roles["models"].pid).children(recursive=True)
    listening = [c.laddr for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_replica_that_is_killed_is_replaced_and_its_requests_wait(model: openai.OpenAI, stack: Stack) -> None:
    killed = stack.replica()
    killed.kill()
    started = time.monotonic()
    answer = model.chat.completions.create(model=MODEL, messages=STORY, max_tokens=5)
    print(f"answered {time.monotonic() - started:.1f} s after the kill")
    assert answer.choices[0].message.content
    assert stack.replica().pid != killed.pid


@pytest.mark.parametrize("part", [f"ServeReplica:{MODEL}:Server", "VLLM::EngineCore"])
def test_a_stream_goes_on_when_its_replica_is_killed(model: openai.OpenAI, stack: Stack, part: str) -> None:
    asked: Any = {"model": MODEL, "messages": STORY, "temperature": 0, "max_tokens": 120, "stream": True}
    undisturbed = [chunk.choices[0].delta.content or "" for chunk in model.chat.completions.create(**asked)]
    text = ""
    for number, chunk in enumerate(model.chat.completions.create(**asked)):
        text += chunk.choices[0].delta.content or ""
        if number == 40:
            stack.replica(part).kill()
    assert text == "".join(undisturbed)
    assert chunk.choices[0].finish_reason == "length"


def test_a_new_manager_adopts_what_runs(model: openai.OpenAI, stack: Stack) -> None:
    replica = stack.replica()
    stack.stop("manager")
    # Meanwhile the gateway goes by what it knows.
    assert model.chat.completions.create(model=MODEL, messages=STORY, max_tokens=2).choices
    stack.start("manager")
    stack.wait_state(ready, 60)
    assert stack.replica() == replica


def test_documents_come_and_go_while_it_runs(model: openai.OpenAI, stack: Stack) -> None:
    replica = stack.replica()
    bad = stack.documents / "bad.yaml"
    bad.write_text("apiVersion: aiia.dev/v1\nkind: Model\nmetadata: {name: bad}\nspec: {task: chat}\n")
    models = stack.wait_state(lambda models: "bad" in models, 20)
    assert models["bad"]["state"] == "failed"
    assert "spec.engine" in models["bad"]["reason"]
    bad.unlink()
    stack.wait_state(lambda models: "bad" not in models and ready(models), 20)
    assert stack.replica() == replica


def test_after_a_restart_of_ray_everything_is_deployed_again_and_reasoning_is_told_apart(
    model: openai.OpenAI, served: GatewayProcess, stack: Stack
) -> None:
    """The packaged model does not reason, but it repeats what looks like that to a parser of text."""
    stack.roles["models"].kill()
    stack.roles["models"].wait(10)
    # Repeating is what the packaged document keeps it from.
    stack.write({"repetitionPenalty": 1}, reasoningParser="granite")
    stack.start("models")
    stack.wait_state(lambda models: not ready(models), 30)
    stack.wait_state(ready, 200)
    text = "Here is my thought process: It is in Italy.\nHere is my response: Rome"
    said: Any = {"role": "assistant", "content": text}
    asked: Any = [
        {"role": "user", "content": "Question"},
        said,
        {"role": "user", "content": "Say exactly that again."},
        said,
        {"role": "user", "content": "And again."},
    ]
    whole = model.chat.completions.create(model=MODEL, messages=asked, max_tokens=60)
    message = whole.choices[0].message
    assert message.to_dict()["reasoning"].strip() == "It is in Italy."
    assert (message.content or "").strip() == "Rome"
    stream = model.chat.completions.create(model=MODEL, messages=asked, max_tokens=60, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "".join(delta.to_dict().get("reasoning") or "" for delta in deltas).strip() == "It is in Italy."
    assert "".join(delta.content or "" for delta in deltas).strip() == "Rome"
    claude = anthropic.Anthropic(base_url=served.base_url.removesuffix("/v1"), api_key=INTERNAL_TOKEN)
    blocks = claude.messages.create(model=MODEL, max_tokens=60, messages=asked).content
    assert [block.type for block in blocks] == ["thinking", "text"]
