"""The Anthropic SDK on semanticd, one agent: `pip install anthropic; python contrib/recipes/anthropic_sdk.py`."""

from __future__ import annotations

import os

from anthropic import Anthropic

client = Anthropic(
    base_url=os.environ.get("SEMANTICD_URL", "http://127.0.0.1:8000"),
    api_key=os.environ.get("SEMANTIC_API_KEY", "semanticd"),
)

answer = client.messages.create(
    model="default",
    max_tokens=40,
    system="You answer in one sentence.",
    messages=[{"role": "user", "content": "What is a KV cache?"}],
    metadata={"user_id": "notes"},  # names the agent
)
print("".join(block.text for block in answer.content if block.type == "text"))
print(f"[{answer.usage.cache_read_input_tokens or 0} prompt tokens were cached]")
