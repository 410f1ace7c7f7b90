"""Models of real sizes without weights: a folder with a configuration and a tokenizer, for ``load_format: dummy``.

The engine fills them with random numbers, which cost what real ones do. The tokenizer is that of the packaged model:
what such a model says means nothing anyway.
"""

import json
import shutil
from pathlib import Path
from typing import Any

_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151_936,
}

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": _QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "qwen3-32b": _QWEN3
    | {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 128_256,
    },
    # So small that any machine shows whether the script works.
    "toy": _QWEN3
    | {
        "head_dim": 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "torch_dtype": "float32",
    },
}


def make(shape: str, folder: Path, tokenizer: Path) -> Path:
    """Writes the model's folder inside ``folder``; ``tokenizer`` is a folder that has one."""
    made = folder / shape
    made.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (tokenizer / file).exists():
            shutil.copy(tokenizer / file, made)
    (made / "config.json").write_text(json.dumps({**SHAPES[shape], "bos_token_id": 1, "eos_token_id": 2}, indent=1))
    return made
