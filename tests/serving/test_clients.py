"""Programs that people have, unchanged: nothing is set but an address, a key and the name of a model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.fakes import FakeUpstream
from tests.fakes.answers import answer_text, vector
from tests.fakes.gateway import GatewayProcess
from tests.serving.conftest import KEY

pytestmark = pytest.mark.integration

HI: Any = [{"role": "user", "content": "hi"}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}},
]
ARGUMENTS = {"town": "é🙂", "days": 7}


class Town(BaseModel):
    """What there is to say of a town."""

    town: str
    days: int


def test_openai_calls_tools(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.control(calls=2)
    answer = client.chat.completions.create(model="fake", messages=HI, tools=TOOLS, tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    calls: Any = answer.choices[0].message.tool_calls
    assert [(call.id, call.type, call.function.name) for call in calls] == [
        ("call-0", "function", "weather"),
        ("call-1", "function", "time"),
    ]
    assert [json.loads(call.function.arguments) for call in calls] == [ARGUMENTS, {}]
    assert "index" not in calls[0].to_dict()
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    message: Any = answer.choices[0].message
    for told in (message, message.model_dump()):
        final = client.chat.completions.create(model="fake", messages=[*HI, told, *results], tools=TOOLS)
        assert final.choices[0].message.content == answer_text(32)
    sent = upstream.requests()[-1]["body"]
    assert [given["role"] for given in sent["messages"]] == ["user", "assistant", "tool", "tool"]
    assert sent["tools"] == TOOLS


def test_openai_streams_calls_with_their_index(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.control(calls=2)
    with client.chat.completions.stream(model="fake", messages=HI, tools=TOOLS) as stream:
        deltas = [
            call
            for event in stream
            if event.type == "chunk" and event.chunk.choices
            for call in event.chunk.choices[0].delta.tool_calls or ()
        ]
        final = stream.get_final_completion()
    assert [delta.index for delta in deltas] == [0, 0, 0, 1, 1, 1]
    calls: Any = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [ARGUMENTS, {}]


def test_openai_parses_by_schema(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    answer = client.chat.completions.parse(model="fake", messages=HI, response_format=Town)
    assert answer.choices[0].message.parsed == Town(**ARGUMENTS)
    sent = upstream.requests()[-1]["body"]["response_format"]
    assert (sent["type"], sent["json_schema"]["strict"]) == ("json_schema", True)
    assert sent["json_schema"]["schema"]["properties"].keys() == ARGUMENTS.keys()


def test_openai_sends_images_stops_and_the_newer_role(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    parts: Any = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    messages: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    client.chat.completions.create(
        model="fake",
        messages=messages,
        stop=["END"],
        max_completion_tokens=3,
        prompt_cache_key="k",
        safety_identifier="s",
    )
    sent = upstream.requests()[-1]["body"]
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert (sent["stop"], sent["max_completion_tokens"]) == (["END"], 3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"parameters": {}}}]}, "tools"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"logit_bias": {"1": "much"}}, "logit_bias"),
    ],
)
def test_openai_is_told_which_field_is_wrong(
    client: openai.OpenAI, upstream: FakeUpstream, fields: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="fake", messages=HI, extra_body=fields)
    assert (refused.value.param or "").split(".")[0] == param


def test_openai_completes_a_list_of_one(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    assert client.completions.create(model="fake", prompt=["hi"], max_tokens=3).choices[0].text == answer_text(3)
    assert upstream.requests()[-1]["body"]["prompt"] == "hi"
    with pytest.raises(openai.BadRequestError, match="one prompt"):
        client.completions.create(model="fake", prompt=["hi", "ho"])


@pytest.fixture
def langchain(gateway: GatewayProcess) -> ChatOpenAI:
    return ChatOpenAI(base_url=gateway.base_url, api_key=SecretStr(KEY), model="fake", max_retries=0)


def test_langchain_invokes_and_streams(langchain: ChatOpenAI, upstream: FakeUpstream) -> None:
    answer = langchain.invoke("hi")
    assert answer.content == answer_text(32)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 33
    chunks = list(langchain.stream("hi", stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == answer_text(32)
    counted = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
    assert counted == [33]


def test_langchain_binds_tools(langchain: ChatOpenAI, upstream: FakeUpstream) -> None:
    upstream.control(calls=1)
    bound = langchain.bind_tools([Town])
    asked = [HumanMessage("hi")]
    answer = bound.invoke(asked)
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("Town", ARGUMENTS)]
    whole: Any = None
    for chunk in bound.stream(asked):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("Town", ARGUMENTS)]
    result = ToolMessage("rain", tool_call_id=str(answer.tool_calls[0]["id"]))
    assert bound.invoke([*asked, answer, result]).content == answer_text(32)


def test_langchain_has_structured_output(langchain: ChatOpenAI, upstream: FakeUpstream) -> None:
    assert langchain.with_structured_output(Town).invoke("hi") == Town(**ARGUMENTS)


def test_langchain_speaks_responses(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    model = ChatOpenAI(base_url=gateway.base_url, api_key=SecretStr(KEY), model="fake", use_responses_api=True)
    assert model.invoke("hi").text == answer_text(32)
    assert "".join(chunk.text for chunk in model.stream("hi")) == answer_text(32)


def test_langchain_embeds(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    embedder = OpenAIEmbeddings(
        base_url=gateway.base_url, api_key=SecretStr(KEY), model="fake", check_embedding_ctx_length=False
    )
    assert embedder.embed_documents(["one", "two three"]) == [vector("one"), vector("two three")]


@pytest.fixture
def llm(gateway: GatewayProcess, tmp_path: Path) -> Any:
    """Runs the command ``llm`` with arguments, and returns what it printed."""
    model = {
        "model_id": "ours",
        "model_name": "fake",
        "api_base": gateway.base_url,
        "api_key_name": "aiia",
        "supports_schema": True,
        "supports_tools": True,
        "vision": True,
    }
    models = [model, {**model, "model_id": "ours-by-responses", "responses": True}]
    # JSON is YAML.
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    (tmp_path / "keys.json").write_text(json.dumps({"aiia": KEY}))
    # Other packages' plugins are none of this test's business.
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "PYTHONIOENCODING": "utf-8"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", *arguments]
        ran = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def test_llm(llm: Any, upstream: FakeUpstream) -> None:
    assert llm("prompt", "-m", "ours", "-s", "Be brief.", "hi").strip() == answer_text(32).strip()
    sent = upstream.requests()[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["system", "user"]
    assert llm("prompt", "-m", "ours", "--no-stream", "hi").strip() == answer_text(32).strip()
    assert json.loads(llm("prompt", "-m", "ours", "--schema", json.dumps(SCHEMA), "hi")) == ARGUMENTS


@pytest.mark.parametrize("model", ["ours", "ours-by-responses"])
def test_llm_calls_tools(llm: Any, upstream: FakeUpstream, model: str) -> None:
    upstream.control(calls=1)
    function = "def weather(town: str, days: int) -> str:\n    return f'rain in {town} for {days}'"
    said = llm("prompt", "-m", model, "--functions", function, "hi")
    assert said.strip() == answer_text(32).strip()
    assert upstream.requests()[-1]["body"]["messages"][-1]["content"] == "rain in é🙂 for 7"


def test_anthropic(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    # More of it is in test_protocol_messages.py.
    claude = anthropic.Anthropic(base_url=gateway.base_url.removesuffix("/v1"), api_key=KEY, max_retries=0)
    with claude.messages.stream(model="fake", max_tokens=100, messages=HI) as stream:
        assert "".join(stream.text_stream) == answer_text(32)
    assert claude.messages.create(model="fake", max_tokens=3, messages=HI).stop_reason == "max_tokens"
