"""OutputProcessor: from a token that was decoded to the client, and to the end of the answer; engine thread only."""

from __future__ import annotations

from semanticd.application.engine.completion import Completion
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.running_sequence import RunningSequence, SequenceText
from semanticd.application.ports.inference import DecodedToken
from semanticd.application.ports.telemetry import EventBus
from semanticd.domain.generation import FinishReason


class OutputProcessor:
    """Turns tokens into text for the client and the watchers, and sees where an answer ends."""

    def __init__(self, *, departure: Completion, metrics: SequenceMetrics, bus: EventBus) -> None:
        """End answers by way of `departure`."""
        self._departure = departure
        self._metrics = metrics
        self._bus = bus

    def prompt_scores(self, live: RunningSequence) -> None:
        """Send the prompt's log-probabilities, if they were asked for."""
        if live.submission.score_prompt:
            live.send(SequenceText("", tuple(live.describe(token) for token in live.prompt_logprobs)))
            live.prompt_logprobs.clear()

    def token(self, live: RunningSequence, token: DecodedToken, now: float) -> None:
        """Take a sequence's next token, decoded by this clock reading (seconds)."""
        sequence = live.sequence
        self._metrics.token(live, now)
        live.first_token_at = now if live.first_token_at is None else live.first_token_at
        live.last_token_at = now
        sequence.num_cached = sequence.num_tokens + 1
        ended_turn = (
            token.token_id in live.model.tokenizer.eos_token_ids and not live.submission.sampling.ignore_eos
        )
        if ended_turn:
            sequence.output_ids.append(token.token_id)
            if live.submission.score_prompt and token.logprob is not None:
                # Who asks for a prompt's scores counts on one more for every token, this one too.
                live.held_logprobs.append(live.describe(token))
            text, stopped = live.flush()
        else:
            text, stopped = live.take(token)
        full = len(sequence.output_ids) >= sequence.max_new_tokens
        if full and not stopped and not ended_turn:
            more, stopped = live.flush()
            text += more
        self._send(live, text)
        if stopped:
            self._departure.end(live, FinishReason.STOP_SEQUENCE)
        elif ended_turn:
            self._departure.end(live, FinishReason.STOP)
        elif full:
            self._departure.end(live, FinishReason.LENGTH)

    def cut_short(self, live: RunningSequence) -> None:
        """End an answer that has no room to go on."""
        text, stopped = live.flush()
        self._send(live, text)
        self._departure.end(live, FinishReason.STOP_SEQUENCE if stopped else FinishReason.LENGTH)

    def _send(self, live: RunningSequence, text: str) -> None:
        logprobs = live.release_logprobs()
        if text or logprobs:
            live.send(SequenceText(text, logprobs, len(live.sequence.output_ids)))
        if text and self._bus.wanted("tokens"):
            self._bus.publish(
                "tokens",
                {
                    "agent": live.submission.agent_id,
                    "request": live.submission.request_id,
                    "text": text,
                    "num_tokens": len(live.sequence.output_ids),
                },
            )
