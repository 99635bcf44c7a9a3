"""The page of limits says what the code does, and each limit is held by a test."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from semanticd.domain.limits import Limits

ROOT = Path(__file__).resolve().parents[2]

CONNECTIONS = "integration/http/test_connections.py"
HOSTS, RANKS = "unit/adapters/ranks/test_hosts.py", "unit/adapters/ranks/test_group.py"
BLOCKS = "integration/http/test_blocks.py"
GUARDS = "integration/http/test_guards.py"
GENERATE = "integration/services/test_generate.py"
EARLIER = "unit/application/cache/test_earlier_answers.py"
STORE = "unit/application/services/test_stored_responses.py"
ARCHIVE = "unit/adapters/disk/responses/test_archive.py"
COMPLEXITY = "unit/adapters/mlx/constraints/test_complexity.py"
SMALL_CHUNKS = (
    "integration/http/test_framing.py",
    "test_a_body_may_come_in_small_chunks_but_not_in_many",
)
TOO_MANY = (
    CONNECTIONS,
    "test_too_many_connections_close_the_one_that_waited_longest",
)
TOO_LARGE_FORM = (COMPLEXITY, "test_a_form_that_is_too_large_is_refused_with_the_limit")
COUNTS = (GUARDS, "test_what_a_request_may_name_is_counted")
PRUNED = (ARCHIVE, "test_the_oldest_go_where_there_are_too_many_bytes_or_days")
METADATA = (GUARDS, "test_metadata_and_agents_have_a_size")
NOT_READ = (CONNECTIONS, "test_a_client_that_does_not_read_its_stream_is_dropped_and_its_answer_cancelled")

HELD_BY: dict[str, tuple[str, str]] = {
    "connections": TOO_MANY,
    "connections_per_peer": (CONNECTIONS, "test_a_peer_has_a_limit_of_its_own"),
    "header_timeout_s": (CONNECTIONS, "test_a_head_that_does_not_come_whole_ends_the_connection"),
    "idle_timeout_s": (CONNECTIONS, "test_a_connection_between_two_requests_may_rest_for_its_time_only"),
    "write_timeout_s": NOT_READ,
    "write_progress_bytes": (CONNECTIONS, "test_a_client_that_reads_slowly_keeps_its_stream"),
    "stream_bytes": (GENERATE, "test_an_answer_that_is_not_read_is_cancelled_when_too_much_of_it_waits"),
    "path_bytes": ("integration/http/test_paths.py", "test_a_target_without_a_meaning_is_refused"),
    "header_bytes": (GUARDS, "test_headers_have_a_limit"),
    "body_bytes": (GUARDS, "test_a_body_beyond_the_limit_is_refused_whether_it_says_so_or_not"),
    "small_chunks": SMALL_CHUNKS,
    "chunk_bytes": SMALL_CHUNKS,
    "body_timeout_s": (CONNECTIONS, "test_a_body_that_does_not_come_whole_is_answered_with_408"),
    "import_bytes": ("integration/http/test_agents_and_admin.py", "test_an_agent_export_is_written_and_read"),
    "nesting": (
        "unit/adapters/http/core/test_body.py",
        "test_json_with_no_or_more_than_one_meaning_is_refused",
    ),
    "json_values": (
        "integration/http/test_large_bodies.py",
        "test_a_body_of_too_many_values_is_refused_unread",
    ),
    "command_values": (
        "integration/test_control_server.py",
        "test_a_command_of_too_many_values_is_refused_unread_and_the_next_one_works",
    ),
    "messages": (GUARDS, "test_messages_have_a_limit_in_every_dialect"),
    "ranks": (HOSTS, "test_what_is_no_hostfile_is_refused_with_the_reason"),
    "rank_handshakes": (RANKS, "test_connections_that_prove_nothing_are_bounded"),
    "peer_reads": (BLOCKS, "test_a_few_are_answered_at_a_time_and_others_are_told_to_come_again"),
    "peer_tokens": (BLOCKS, "test_a_malformed_question_is_refused_by_its_field"),
    "peers": ("unit/adapters/config/test_config.py", "test_peers_are_servers_and_a_folder_is_none"),
    "embedding_inputs": (
        "integration/http/test_embeddings.py",
        "test_what_is_no_list_of_texts_is_refused_with_its_field",
    ),
    "embedding_tokens": (
        "integration/services/test_embedding.py",
        "test_all_texts_together_have_a_limit",
    ),
    "stored_responses_per_agent": (STORE, "test_an_agent_has_so_many_responses_at_most"),
    "stored_responses_bytes": (
        STORE,
        "test_the_oldest_responses_of_the_agent_that_kept_one_least_recently_go_first",
    ),
    "archived_responses_bytes": PRUNED,
    "archived_responses_days": PRUNED,
    "metadata_characters": METADATA,
    "agent_bytes": METADATA,
    "earlier_tokens": (EARLIER, "test_an_agents_answers_are_bounded"),
    "earlier_bytes": (EARLIER, "test_the_agent_that_answered_least_recently_makes_room"),
    "rate_limited_callers": (
        "unit/adapters/http/core/test_rate_limit.py",
        "test_the_table_of_callers_stays_small",
    ),
    "tools": COUNTS,
    "stop_strings": (GUARDS, "test_stop_sequences_are_counted_in_the_other_dialects_too"),
    "stop_characters": COUNTS,
    "logit_biases": COUNTS,
    "prompt_characters_per_token": (GENERATE, "test_a_prompt_that_cannot_fit_is_refused_unread"),
    "name_characters": (
        "integration/http/test_agents_and_admin.py",
        "test_a_models_name_has_a_length",
    ),
    "form_bytes": TOO_LARGE_FORM,
    "form_properties": TOO_LARGE_FORM,
    "form_counted_properties": TOO_LARGE_FORM,
    "form_steps": (COMPLEXITY, "test_a_schema_of_too_many_parts_is_compiled_without_an_estimate"),
    "form_compile_s": (COMPLEXITY, "test_a_form_whose_trial_does_not_end_is_refused_after_its_time"),
    "form_compile_bytes": (COMPLEXITY, "test_a_process_gets_no_more_address_space_than_its_limit"),
    "form_memory_bytes": (
        COMPLEXITY,
        "test_a_form_that_takes_much_memory_for_as_long_as_it_is_kept_is_refused",
    ),
    "form_cache_bytes": (COMPLEXITY, "test_kept_forms_are_bounded_in_bytes"),
}


def test_the_page_of_limits_is_made_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location(
        "limits_docs", ROOT / "contrib/dev/generators/limits_docs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python contrib/dev/generators/limits_docs.py`"


def test_every_limit_names_the_test_that_holds_it() -> None:
    assert set(HELD_BY) == {one.name for one in fields(Limits)}


@pytest.mark.parametrize("name", HELD_BY)
def test_the_test_that_holds_a_limit_exists(name: str) -> None:
    path, test = HELD_BY[name]
    assert f"def {test}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")
