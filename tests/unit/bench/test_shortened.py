"""Sessions that are cut to a short context keep what they have in common."""

from __future__ import annotations

import json
from typing import Any

from semanticd.bench.shortened import shortened
from semanticd.bench.trace_file import Trace, TracedRequest


def trace(*bodies: dict[str, Any]) -> Trace:
    return Trace(
        "t", {}, tuple(TracedRequest(float(at), "chat", "/c", body) for at, body in enumerate(bodies))
    )


def test_each_text_loses_its_end_and_equal_beginnings_stay_equal() -> None:
    words = [f"w{number}" for number in range(40)]
    first, second = " ".join(words), " ".join([*words[:20], "other", *words[21:]])
    bodies = ({"messages": [{"role": "user", "content": text}]} for text in (first, second))
    cut = [one.body["messages"][0]["content"].split() for one in shortened(trace(*bodies), one_in=4).requests]
    assert cut == [words[:11], words[:11]]
    whole = shortened(trace({"messages": [{"role": "user", "content": first}]}))
    assert whole.requests[0].body["messages"][0]["content"] == first


def test_ids_and_short_texts_stay_and_two_tools_are_left() -> None:
    tools = [{"name": f"tool-{number}", "strict": True} for number in range(5)]
    body = {"tools": tools, "user": "abc_def-1", "max_tokens": 7, "content": "one two three"}
    (request,) = shortened(trace(body), one_in=25).requests
    assert request.body == {**body, "tools": tools[:2]}


def test_a_text_that_is_a_json_object_stays_one() -> None:
    arguments = json.dumps({"path": "/a b/c", "text": " ".join(f"w{number}" for number in range(40))})
    (request,) = shortened(trace({"arguments": arguments, "other": "{not json} " * 20}), one_in=10).requests
    assert json.loads(request.body["arguments"]) == {"path": "/a b/c", "text": "w0 w1 w2 w3 w4"}
    assert request.body["other"].startswith("{not json}")


def test_the_first_requests_are_left() -> None:
    cut = shortened(trace(*({"messages": [], "n": number} for number in range(5))), num_requests=2)
    assert [one.body["n"] for one in cut.requests] == [0, 1]
