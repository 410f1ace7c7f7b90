"""vLLM's scheduler with one more rule: a prompt that is being read makes way for one that comes before it.

vLLM takes what waits in the order of its priority, but first goes on with every prompt that it has begun to read. A
newcomer would wait until the prompts of a flood have been read, and then read its own beside them.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

#: Steps of the engine for which a prompt makes way at most, so that each is read in the end.
_STEPS = 64


class PromptsInOrder(AsyncScheduler):  # type: ignore[misc]  # vLLM has no types for it
    """Reads the prompts of the lowest priority number first; answers that are being written go on beside them."""

    def schedule(self, *args: Any, **options: Any) -> Any:
        begun = [request for request in self.running if request.is_prefill_chunk]
        first = min((request.priority for request in begun), default=0)
        if self.waiting and len(self.running) < self.max_num_running_reqs:
            first = min(first, self.waiting.peek_request().priority)
        for request in begun:
            steps = getattr(request, "steps_held", 0)
            if request.priority > first and steps < _STEPS:
                request.steps_held = steps + 1
                # The step after the current one is the one that is planned here.
                request.next_decode_eligible_step = self.current_step + 2
        return super().schedule(*args, **options)
