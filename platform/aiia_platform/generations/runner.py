"""A worker's part in a generation: claim it, stream the answer, keep it, end it honestly."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import InterfaceError, OperationalError
from django.utils import timezone

from aiia_platform.config import config
from aiia_platform.db import in_db
from aiia_platform.gateway import Gateway, GatewayError, ModelInfo, StreamBroken, fetch_models
from aiia_platform.generations import context
from aiia_platform.generations.live import Publisher
from aiia_platform.generations.models import Fenced, Generation, Sent, StillRunning
from aiia_platform.observability import metrics, tracing
from aiia_platform.observability.logs import request_id
from aiia_platform.usage.quotas import exceeded_by

log = logging.getLogger(__name__)
_UNSTORABLE = re.compile("[\\0\ud800-\udfff]")
R = TypeVar("R")

#: Seconds between two writes to Postgres, and at least between two entries of the live stream.
WRITE_EVERY = 1.0
PUBLISH_EVERY = 0.015
#: Seconds before a broken stream is tried again: first, and at most.
BACK_OFF = 0.5
BACK_OFF_MOST = 5.0
#: Seconds for which a model that the gateway does not know is asked for again.
UNKNOWN_MODEL = 8.0


#: Postgres is away; everything else that it says is about what it was told to do.
OUTAGE = (OperationalError, InterfaceError)


@dataclass
class Outcome:
    state: Generation.State
    error: str = ""
    advice: str = ""


class Runner:
    """Runs the generations of the worker with this number. Make it inside the event loop."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._gateway = Gateway()
        self._publisher = Publisher()
        self._stops: dict[UUID, asyncio.Event] = {}

    async def close(self) -> None:
        await self._gateway.close()
        await self._publisher.close()

    def stop(self, pk: UUID) -> None:
        """Stop a generation, if it runs here."""
        if pk in self._stops:
            self._stops[pk].set()

    async def run(self, pk: UUID) -> None:
        """Make the answer of a generation, or go on with it, until it has ended or another worker took it over."""
        while True:
            entries = await self._publisher.entries(pk)
            try:
                generation = await in_db(Generation.claim, pk, self._worker, partial(adopt, entries))
                break
            except StillRunning:
                await asyncio.sleep(WRITE_EVERY)
        if generation is None:
            return
        if generation.attempt > 1:
            metrics.takeovers.inc()
        stop = self._stops[pk] = asyncio.Event()
        if generation.stop_requested:
            stop.set()
        request_id.set(generation.trace.get("X-Request-Id"))
        try:
            with (
                tracing.span(
                    "write an answer", tracing.SpanKind.CONSUMER, headers=generation.trace, model=generation.model
                ),
                metrics.running.track_inprogress(),
            ):
                await Attempt(generation, self._gateway, self._publisher, stop).run()
        except Fenced:
            log.info("generation %s was taken over", pk)
        finally:
            if self._stops.get(pk) is stop:
                del self._stops[pk]


def adopt(entries: list[dict[str, Any]], generation: Generation) -> None:
    """Add to a generation what its last attempt had sent to the live stream beyond its last write to Postgres."""
    message = generation.message
    for entry in entries:
        if entry["type"] != "delta" or entry["attempt"] != generation.attempt:
            continue
        have = getattr(message, entry["channel"])
        if entry["at"] > len(have) or entry["ids_at"] > len(generation.output_ids):
            return
        setattr(message, entry["channel"], have + entry["text"][len(have) - entry["at"] :])
        generation.output_ids += entry["ids"][len(generation.output_ids) - entry["ids_at"] :]
        generation.prompt_ids = generation.prompt_ids or entry["prompt_ids"]
        generation.finish_reason = entry["finish_reason"]


@dataclass
class _Published:
    text: int
    reasoning: int
    ids: int
    finish_reason: str


@dataclass
class Attempt:
    """One claim of a generation, from its begin to its end."""

    generation: Generation
    gateway: Gateway
    publisher: Publisher
    stop: asyncio.Event
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _storing: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Tokens whose text has not come yet, such as the first half of a character. They are not kept until it has.
    _pending: list[int] = field(default_factory=list)
    #: Since when, and from which token on, the speed is measured.
    _speed_from: tuple[float, int] | None = None
    _waiting_since: float | None = None

    async def run(self) -> None:
        """Raises `Fenced` when another attempt took over."""
        await self._begin()
        work = asyncio.create_task(self._work())
        writing = asyncio.create_task(self._write_regularly())
        publishing = asyncio.create_task(self._publish_changes())
        stopping = asyncio.create_task(self.stop.wait())
        tasks = {work, writing, publishing, stopping}
        try:
            await asyncio.wait({work, writing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            outcome = work.result() if work.done() else Outcome(Generation.State.STOPPED)
        except Fenced:
            raise
        except Exception:
            # Whatever it is, it would happen again: the answer has to end, and honestly.
            log.exception("generation %s failed", self.generation.pk)
            outcome = Outcome(
                Generation.State.FAILED,
                "aiia could not read or store what the model wrote",
                "Retry. See the worker's log.",
            )
        except asyncio.CancelledError:
            await _end(tasks)
            with suppress(Fenced, *OUTAGE):
                await in_db(self.generation.release)
            raise
        finally:
            await _end(tasks)
        await self._finish(outcome)

    # Reading the model

    async def _work(self) -> Outcome:
        if not self._tokens and (refusal := await in_db(exceeded_by, self.generation.user_id)):
            return Outcome(
                Generation.State.FAILED, refusal.detail, "Retry then, or ask an administrator for a larger share."
            )
        delay, started = BACK_OFF, time.monotonic()
        failing_since: float | None = None
        while not self.generation.finish_reason:
            tokens = self._tokens
            try:
                await self._stream()
                break
            except GatewayError as error:
                reason, wait, cause = str(error), error.retry_after, f"the gateway answered {error.status}"
                # After a start the gateway may hear of a model a moment later than of a question to it.
                young = error.status == 404 and time.monotonic() - started < UNKNOWN_MODEL
                if error.is_final and not young:
                    return _refused(error)
            except StreamBroken as error:
                reason, wait, cause = str(error), None, "the stream broke"
            # Not the reason, since a model may quote what it was asked.
            log.warning("generation %s: %s", self.generation.pk, cause)
            if failing_since is None or self._tokens > tokens:
                delay, failing_since = BACK_OFF, time.monotonic()
            failing = time.monotonic() - failing_since
            if failing + (wait or delay) > config().patience:
                return _gave_up(reason, self.generation.model, failing)
            self._set_status({"phase": "interrupted", "reason": reason})
            await asyncio.sleep(wait or delay)
            delay = min(delay * 2, BACK_OFF_MOST)
        return Outcome(Generation.State.DONE)

    async def _stream(self) -> None:
        """Have the model write, from the beginning or from where the answer broke off, until it has finished."""
        generation = self.generation
        self._pending, self._speed_from, self._waiting_since = [], None, None
        model = await self._model()
        can_continue = bool(generation.prompt_ids and generation.output_ids and not generation.message.reasoning)
        # What is there stays until the model has something to put in its place.
        must_start_over = not can_continue and bool(generation.message.text or generation.message.reasoning)
        body: dict[str, Any] = {
            "model": generation.model,
            **generation.params,
            "stream_options": {"include_usage": True},
        }
        if can_continue:
            path = "completions"
            body["prompt"] = generation.prompt_ids + generation.output_ids
            body["max_tokens"] = self._tokens_left(model)
            if body["max_tokens"] <= 0:
                generation.finish_reason = "length"
                return
        else:
            path = "chat/completions"
            body["messages"] = await self._conversation(model)
        if model and model.exact_continuation:
            body["return_token_ids"] = True
        stream = self.gateway.stream(path, body, user=generation.user_id, patience=config().patience)
        async with aclosing(stream):
            async for kind, data in stream:
                if kind == "status":
                    self._waiting(data)
                    continue
                if must_start_over and _has_text(data):
                    must_start_over = False
                    await self._stored(generation.start_over)
                    await self._publish_begin()
                self._frame(data)
        if not generation.finish_reason:
            raise StreamBroken("the model ended without a reason")

    async def _model(self) -> ModelInfo | None:
        models = await fetch_models(5)
        return next((model for model in models if model.id == self.generation.model), None)

    async def _conversation(self, model: ModelInfo | None) -> list[dict[str, Any]]:
        """What the model is sent, which is kept for whoever asks what that was."""
        name, length = self.generation.model, model.max_model_len if model else None
        found = await in_db(context.conversation, self.generation)
        if model and not model.sees:
            found = context.blind(found)
        if found.policy.get("strategy") == "summary":
            found = await context.shorten(self.gateway, name, found, length, self._ask_aside)
        kept = await context.compose(self.gateway, name, found, length)
        self.generation.context_from = next((turn.position for turn in kept if turn.position >= 0), 0)
        await in_db(self._keep_sent, context.as_messages(kept, named=True), length)
        return context.as_messages(kept)

    def _keep_sent(self, messages: list[dict[str, Any]], length: int | None) -> None:
        Sent.objects.update_or_create(generation=self.generation, defaults={"messages": messages, "limit": length})

    async def _ask_aside(self, messages: list[dict[str, Any]]) -> str:
        """The model's answer to something that is no part of the chat; nothing where it has none."""
        self._set_status({"phase": "summarising"})
        body = {"model": self.generation.model, "messages": messages, "max_tokens": 512, "temperature": 0.2}
        try:
            said = await self.gateway.complete(body, user=self.generation.user_id, patience=config().patience)
            return _storable(said.text)
        except (GatewayError, StreamBroken) as error:
            log.warning("generation %s: no summary: %s", self.generation.pk, type(error).__name__)
            return ""

    def _tokens_left(self, model: ModelInfo | None) -> int:
        generation = self.generation
        limits = []
        if model and model.max_model_len:
            limits.append(model.max_model_len - len(generation.prompt_ids))
        if model and model.max_new_tokens:
            limits.append(model.max_new_tokens)
        if generation.params.get("max_tokens"):
            limits.append(int(generation.params["max_tokens"]))
        return min(limits, default=4096) - len(generation.output_ids)

    def _waiting(self, data: dict[str, Any]) -> None:
        if data.get("phase") == "running":
            self._waiting_since = time.monotonic()
            self._set_status({"phase": "thinking", "seconds": 0})
        else:
            self._set_status(data)

    def _frame(self, frame: dict[str, Any]) -> None:
        generation = self.generation
        if usage := frame.get("usage"):
            # Of a continued answer the model counts what it wrote before as its prompt.
            prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
            before = max(0, len(generation.output_ids) - completion) if generation.output_ids else 0
            generation.prompt_tokens, generation.completion_tokens = max(0, prompt - before), completion + before
        for choice in frame.get("choices") or ():
            delta = choice.get("delta") or {}
            if prompt_ids := frame.get("prompt_token_ids") or choice.get("prompt_token_ids"):
                generation.prompt_ids = generation.prompt_ids or prompt_ids
            text = _storable(delta.get("content") or choice.get("text") or "")
            reasoning = _storable(delta.get("reasoning") or delta.get("reasoning_content") or "")
            self._pending += choice.get("token_ids") or []
            generation.finish_reason = choice.get("finish_reason") or generation.finish_reason
            if text or reasoning or generation.finish_reason:
                self._keep(text, reasoning)

    def _keep(self, text: str, reasoning: str) -> None:
        generation = self.generation
        generation.message.text += text
        generation.message.reasoning += reasoning
        generation.output_ids += self._pending
        self._pending = []
        if text or reasoning:
            generation.first_token_at = generation.first_token_at or timezone.now()
            if not generation.output_ids:
                generation.completion_tokens += 1  # until the model says how many it counted
            if self._speed_from is None:
                self._speed_from = (time.monotonic(), self._tokens)
                self._set_status({"phase": "writing"} if text else {"phase": "thinking", "seconds": 0})
        self._changed.set()

    @property
    def _tokens(self) -> int:
        return len(self.generation.output_ids) or self.generation.completion_tokens

    # Keeping what it wrote

    async def _write_regularly(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY)
            self._measure()
            try:
                if await self._stored(self._snapshot().write):
                    self.stop.set()
            except OUTAGE as error:
                log.warning("generation %s: not stored yet: %s", self.generation.pk, error)

    async def _stored(self, verb: Callable[[], R]) -> R:
        """Call a verb of the generation, one at a time, since each relies on the attempt that the last one left."""
        async with self._storing:
            return await in_db(verb)

    def _snapshot(self) -> Generation:
        """The generation as it is now: text and tokens must not move apart while a thread stores them."""
        snapshot, message = copy(self.generation), copy(self.generation.message)
        snapshot.message, snapshot.output_ids = message, [*self.generation.output_ids]
        return snapshot

    def _measure(self) -> None:
        """Bring the figures of the status up to date."""
        now = time.monotonic()
        phase = self.generation.status.get("phase")
        if phase == "writing" and self._speed_from:
            since, first = self._speed_from
            if now - since >= WRITE_EVERY / 2:
                self._set_status({"phase": "writing", "tokens_per_s": round((self._tokens - first) / (now - since))})
            if self.generation.message.reasoning and not self.generation.message.text:
                self._set_status({"phase": "thinking", "seconds": round(now - since)})
        elif phase == "thinking":
            self._set_status({"phase": "thinking", "seconds": round(now - (self._waiting_since or now))})

    async def _finish(self, outcome: Outcome) -> None:
        generation = self.generation
        generation.completion_tokens = max(generation.completion_tokens, len(generation.output_ids))
        generation.prompt_tokens = generation.prompt_tokens or len(generation.prompt_ids)
        delay = BACK_OFF
        while True:
            try:
                status = {"phase": str(outcome.state)}
                await in_db(generation.finish, outcome.state, status, outcome.error, outcome.advice)
                break
            except OUTAGE as error:
                log.warning("generation %s: cannot be finished yet: %s", generation.pk, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACK_OFF_MOST)
        metrics.generation_ended(generation.model, str(outcome.state), generation.queued_at, generation.first_token_at)
        log.info("generation %s: %s", generation.pk, outcome.state)
        await self.publisher.publish(generation.pk, type="end", state=str(outcome.state))

    # Showing it live

    async def _begin(self) -> None:
        generation = self.generation
        if generation.message.text or generation.message.reasoning:
            generation.status = {"phase": "interrupted", "reason": "The worker stopped"}
        await self._publish_begin()
        await self.publisher.publish(generation.pk, type="status", status=generation.status)

    async def _publish_begin(self) -> None:
        generation = self.generation
        message = generation.message
        self._published = _Published(
            len(message.text), len(message.reasoning), len(generation.output_ids), generation.finish_reason
        )
        await self.publisher.publish(
            generation.pk,
            type="begin",
            attempt=generation.attempt,
            text_at=len(message.text),
            reasoning_at=len(message.reasoning),
        )

    def _set_status(self, status: dict[str, Any]) -> None:
        if status != self.generation.status:
            self.generation.status = status
            self._changed.set()

    async def _publish_changes(self) -> None:
        status = self.generation.status
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Text goes first: the entry that carries the last token ids must not come before their text.
            for channel in ("text", "reasoning"):
                await self._publish_delta(channel)
            if self.generation.status is not status:
                status = self.generation.status
                await self.publisher.publish(self.generation.pk, type="status", status=status)
            await asyncio.sleep(PUBLISH_EVERY)

    async def _publish_delta(self, channel: str) -> None:
        generation, published = self.generation, self._published
        whole: str = getattr(generation.message, channel)
        at: int = getattr(published, channel)
        if len(whole) == at and generation.finish_reason == published.finish_reason:
            return
        ids_at = published.ids
        setattr(published, channel, len(whole))
        published.ids, published.finish_reason = len(generation.output_ids), generation.finish_reason
        await self.publisher.publish(
            generation.pk,
            type="delta",
            attempt=generation.attempt,
            channel=channel,
            at=at,
            text=whole[at:],
            ids_at=ids_at,
            ids=generation.output_ids[ids_at:],
            prompt_ids=generation.prompt_ids if ids_at == 0 else [],
            finish_reason=generation.finish_reason,
        )


def _has_text(frame: dict[str, Any]) -> bool:
    keys = ("content", "reasoning", "reasoning_content")
    choices = frame.get("choices") or ()
    return any(c.get("text") or any((c.get("delta") or {}).get(key) for key in keys) for c in choices)


def _storable(text: str) -> str:
    """The text without what no database takes: NUL, and halves of characters."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("", text)


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    pending = tasks
    while pending:
        for task in pending:
            task.cancel()
        # A call into the database swallows a cancellation, so that its task needs another.
        _, pending = await asyncio.wait(pending, timeout=0.1)


def _refused(error: GatewayError) -> Outcome:
    advice = {
        400: "Shorten the message or start a new chat.",
        404: "Choose another model.",
        413: "Shorten the message or start a new chat.",
    }.get(error.status, "Retry, or choose another model.")
    return Outcome(Generation.State.FAILED, str(error), advice)


def _gave_up(reason: str, model: str, failing: float) -> Outcome:
    return Outcome(
        Generation.State.FAILED,
        f"{model} did not answer within {failing:.0f} s ({reason})",
        "Retry. The text so far is kept.",
    )
