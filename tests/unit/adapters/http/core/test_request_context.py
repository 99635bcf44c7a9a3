"""What the answer's headers say of the cache."""

from falcon.asgi import Response

from semanticd.adapters.http.core.request_context import show_cache
from semanticd.domain.generation import CacheMiss, CacheReport


def header(report: CacheReport) -> str | None:
    """Return the header's value."""
    resp = Response()
    show_cache(resp, report)
    return resp.get_header("X-Semantic-Cache")


def test_the_header_says_what_the_prompt_cost() -> None:
    report = CacheReport(prompt_tokens=42, reused_hot_tokens=8, restored_warm_tokens=4, computed_tokens=30)

    assert header(report) == "hot=8 warm=4 computed=30 tier=warm"


def test_the_header_says_where_and_why_a_prompt_left_the_cache_and_what_was_made_equal() -> None:
    report = CacheReport(
        prompt_tokens=42,
        computed_tokens=42,
        miss=CacheMiss(17, "date_changed", "2024", "2025"),
        canonicalized=("volatile_header", "tool_key_order"),
    )

    assert header(report) == (
        "hot=0 warm=0 computed=42 tier=cold miss=date_changed@17 canonicalized=volatile_header,tool_key_order"
    )
