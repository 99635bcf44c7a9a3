"""LangChain on semanticd: `pip install langchain-openai; python contrib/recipes/langchain_openai_chat.py`."""

from __future__ import annotations

import os

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found, unused-ignore]

model = ChatOpenAI(
    model="default",
    base_url=os.environ.get("SEMANTICD_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("SEMANTIC_API_KEY", "semanticd"),
    max_tokens=40,
    # Names the agent: one per chain or graph node that should keep a conversation of its own.
    default_headers={"X-Session-ID": "langchain"},
)

for piece in model.stream("Say hello in one sentence."):
    print(piece.content, end="", flush=True)
print()
