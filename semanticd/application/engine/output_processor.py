"""OutputProcessor: from a token that was decoded to the client, and to the end of the answer; engine thread only."""

from __future__ import annotations

from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.completion import Completion
from semanticd.application.engine.running_sequence import RunningSequence, SequenceText
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.inference import DecodedToken
from semanticd.domain.block_pool import PoolLedger
from semanticd.domain.generation import FinishReason


class OutputProcessor:
    """Turns tokens into text for the client and the watchers, and sees where an answer ends."""

    def __init__(self, *, completion: Completion, commit: BlockCommit, telemetry: EngineTelemetry) -> None:
        """End answers through `completion`."""
        self._completion = completion
        self._commit = commit
        self._log, self._metrics = telemetry.log, telemetry.metrics
        self._bus = telemetry.bus

    def prompt_scores(self, running: RunningSequence) -> None:
        """Send the prompt's log-probabilities, if they were asked for."""
        if running.submission.score_prompt:
            running.send(
                SequenceText("", tuple(running.describe(token) for token in running.prompt_logprobs))
            )
            running.prompt_logprobs.clear()

    def token(self, running: RunningSequence, token: DecodedToken, now: float) -> None:
        """Take a sequence's next token, decoded by this clock reading (seconds)."""
        if token.error is not None:
            self._completion.fail(running, token.error, keep=True)
            return
        sequence = running.sequence
        self._metrics.token(running, now)
        running.first_token_at = now if running.first_token_at is None else running.first_token_at
        running.last_token_at = now
        sequence.num_cached = sequence.num_tokens + 1
        ended_turn = (
            token.token_id in running.model.tokenizer.eos_token_ids
            and not running.submission.sampling.ignore_eos
        )
        if ended_turn:
            sequence.output_ids.append(token.token_id)
            if running.submission.score_prompt and token.logprob is not None:
                # A client that requests a prompt's scores expects one for every token, this one included.
                running.held_logprobs.append(running.describe(token))
            text, stopped = running.flush(cut=False)
        else:
            text, stopped = running.take(token)
        full = len(sequence.output_ids) >= sequence.max_new_tokens
        if full and not stopped and not ended_turn:
            more, stopped = running.flush(cut=True)
            text += more
        self._send(running, text)
        if stopped:
            self._completion.end(running, FinishReason.STOP_SEQUENCE)
        elif ended_turn:
            self._completion.end(running, FinishReason.STOP)
        elif full:
            self._completion.end(running, FinishReason.LENGTH)
        else:
            self._commit.publish_decoded(running)

    def cut_short(self, running: RunningSequence, ledger: PoolLedger) -> None:
        """End an answer that has no room to continue in this ledger."""
        self._log.warning(
            "answer_cut_short",
            request_id=running.submission.request_id,
            num_tokens=running.sequence.num_tokens,
            running_bytes=ledger.running_bytes,
            pinned_bytes=ledger.pinned_bytes,
            budget_bytes=ledger.budget_bytes,
        )
        text, stopped = running.flush(cut=True)
        running.is_cut_short = not stopped
        self._send(running, text)
        self._completion.end(running, FinishReason.STOP_SEQUENCE if stopped else FinishReason.LENGTH)

    def _send(self, running: RunningSequence, text: str) -> None:
        logprobs = running.release_logprobs()
        if text or logprobs:
            running.send(SequenceText(text, logprobs, len(running.sequence.output_ids)))
        if text and self._bus.wanted("tokens"):
            self._bus.publish(
                "tokens",
                {
                    "agent": running.submission.agent_id,
                    "request": running.submission.request_id,
                    "text": text,
                    "num_tokens": len(running.sequence.output_ids),
                },
            )
