"""vLLM's scheduler with one more rule: what has begun makes way for a prompt that comes before it.

vLLM takes what waits in the order of its priority, but first goes on with all that it has begun. A newcomer would wait
until the prompts of a flood have been read, and on a processor read its own at the pace of all answers beside it.
"""

from math import inf
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

_ON_PROCESSOR = current_platform.is_cpu()
#: Steps of the engine for which a request makes way at most, so that each is answered in the end. Those of a processor
#: read a hundred times fewer tokens.
MOST_STEPS = 256 if _ON_PROCESSOR else 64


def prompts_in_order(*, vllm_config: Any, **others: Any) -> Any:
    """In the place of the class that vLLM asks for: a scheduler, which plans a step ahead where the engine does."""
    ahead = vllm_config.scheduler_config.async_scheduling
    return (_Ahead if ahead else _PromptsInOrder)(vllm_config=vllm_config, **others)


class _PromptsInOrder(Scheduler):  # type: ignore[misc]  # vLLM has no types for it
    """Reads the prompts of the lowest priority number first.

    Answers that are being written go on beside them on a GPU, where they cost a step next to nothing. On a processor
    each token costs the same, so there those of a higher number wait for the prompt, too.
    """

    def schedule(self, *args: Any, **options: Any) -> Any:
        begun = [request for request in self.running if request.is_prefill_chunk]
        first = min((request.priority for request in begun), default=inf)
        if self._takes_one_more():
            first = min(first, self.waiting.peek_request().priority)
        for request in self.running if _ON_PROCESSOR else begun:
            steps = getattr(request, "steps_held", 0)
            if request.priority > first and steps < MOST_STEPS:
                request.steps_held = steps + 1
                # The step after the current one is the one that is planned here.
                request.next_decode_eligible_step = self.current_step + 2
        # What a step can take is given out in this order: the next word of an answer before another user's prompt.
        self.running.sort(key=lambda request: request.priority)
        return super().schedule(*args, **options)

    def _takes_one_more(self) -> bool:
        """Whether the first that waits can begin: there is a place for it, and memory for its prompt."""
        if not self.waiting or len(self.running) >= self.max_num_running_reqs:
            return False
        free = self.kv_cache_manager.block_pool.get_num_free_blocks() * self.block_size
        return bool(self.waiting.peek_request().num_tokens <= free)


class _Ahead(_PromptsInOrder, AsyncScheduler):  # type: ignore[misc]
    """The same before the last step has ended."""
