"""The OpenAI SDK on semanticd, two agents: `pip install openai; python contrib/recipes/openai_sdk.py`."""

from __future__ import annotations

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("SEMANTICD_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("SEMANTIC_API_KEY", "semanticd"),
)

for agent in ("planner", "critic"):
    # `prompt_cache_key` names the agent: its conversation stays cached, and `semanticd agents show` knows it.
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": f"You are the {agent}. Say hello in one sentence."}],
        prompt_cache_key=agent,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    print(f"{agent}: ", end="")
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
        if chunk.usage and chunk.usage.prompt_tokens_details:
            cached = chunk.usage.prompt_tokens_details.cached_tokens or 0
            print(f"\n[{cached} of {chunk.usage.prompt_tokens} prompt tokens were cached]")
