"""What went wrong while an image was computed, in words of use to the one who asked."""

import logging
import traceback

from aiia_serving.images.problem import NAN, ImageProblem

log = logging.getLogger(__name__)

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a processor torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def again_alone(error: BaseException, images: int) -> bool:
    """Whether the images of a batch are tried one by one: what is wrong may be one's alone, or their number's."""
    return images > 1 and (not isinstance(error, ImageProblem) or error.code == NAN)


def problem_of(error: BaseException) -> ImageProblem:
    """What to answer. An error that is not understood goes into the log, without its words: they may hold a prompt."""
    if isinstance(error, ImageProblem):
        return error
    if out_of_memory(error):
        return ImageProblem(
            "The memory is not enough for this image.",
            code="out_of_memory",
            status=507,
            advice="Ask for a smaller size, or leave out ControlNets; an operator can choose a quantisation or offload"
            " in the Model document.",
        )
    trace = "".join(traceback.format_tb(error.__traceback__))
    log.error("an image failed: %s\n%s", type(error).__name__, trace)
    return ImageProblem(
        "The model failed on this image.",
        code="engine_failed",
        status=500,
        advice="Try another scheduler or size; if it happens again, the operator finds more in the replica's log.",
    )


def free_cached() -> None:
    """Gives memory that torch only keeps for later back to the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
