"""The OpenAI-compatible ``/v1``: keys, admission, and the relay of bytes between callers and models."""
