"""Documents by how well they answer a query, in the shape that Jina, Cohere and vLLM share."""

from typing import Annotated, Any

from pydantic import Field
from starlette.types import Send

from aiia_serving.gateway.auth import Caller
from aiia_serving.gateway.json_exchange import JsonExchange, truncation
from aiia_serving.gateway.protocols import new_usage
from aiia_serving.gateway.reply import Reply
from aiia_serving.gateway.requests import Strict, parse
from aiia_serving.gateway.services import Gateway
from aiia_serving.state import ModelState


class _Document(Strict):
    text: str


class RerankRequest(Strict):
    """``POST /v1/rerank``. At most ``top_n`` results come back, the best first.

    ``truncate`` cuts documents that are too long for the model instead of refusing them.
    """

    model: str
    query: str = Field(min_length=1)
    documents: Annotated[list[str | _Document], Field(min_length=1, max_length=1000)]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    truncate: bool | None = None

    def texts(self) -> list[str]:
        return [document if isinstance(document, str) else document.text for document in self.documents]


class _Reranking(JsonExchange):
    needs = "rerank"

    def __init__(
        self, gateway: Gateway, caller: Caller, reply: Reply, request: RerankRequest, deadline_s: float | None
    ) -> None:
        self._query, self._texts = request.query, request.texts()
        self._top_n = request.top_n or len(self._texts)
        self._truncate = bool(request.truncate)
        self._with_documents = request.return_documents is not False
        # A model reads the query once with each document.
        cost = sum(len(self._query) + len(text) for text in self._texts) / 4
        usage = new_usage(caller, request.model, "rerank")
        super().__init__(gateway, caller, reply, usage, estimated_cost=cost, deadline_s=deadline_s)

    def _question(self, model: ModelState) -> tuple[str, dict[str, Any]]:
        cut = truncation(model, wanted=self._truncate)
        if model.engine == "vllm":
            # Ray Serve hands on vLLM's scores, but not its reranking, which is the same sorted.
            return "/score", {"text_1": self._query, "text_2": self._texts, **cut}
        return "/rerank", {"query": self._query, "documents": self._texts, "top_n": self._top_n, **cut}

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "results" in answer:
            scores = [(int(result["index"]), float(result["relevance_score"])) for result in answer["results"]]
        else:
            scores = [(int(score["index"]), float(score["score"])) for score in answer["data"]]
        best = sorted(scores, key=lambda item: -item[1])[: self._top_n]
        usage = {"prompt_tokens": self.usage.prompt_tokens, "total_tokens": self.usage.prompt_tokens}
        return {"id": answer.get("id"), "results": [self._result(*score) for score in best], "usage": usage}

    def _result(self, index: int, score: float) -> dict[str, Any]:
        document = {"document": {"text": self._texts[index]}} if self._with_documents else {}
        return {"index": index, "relevance_score": score, **document}


class Rerank:
    """``POST /v1/rerank``."""

    def reply(self, send: Send, request_id: str) -> Reply:
        return Reply(send, request_id)

    def exchange(
        self, gateway: Gateway, caller: Caller, reply: Reply, body: bytes, deadline_s: float | None
    ) -> JsonExchange:
        return _Reranking(gateway, caller, reply, parse(RerankRequest, body), deadline_s)
