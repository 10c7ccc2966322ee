"""Several agents that take turns on one problem, so that they can be compared: each attempt records whose it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoresearch_kit.core.records import Proposal
from autoresearch_kit.loop import FIRST_REST_SECONDS, Agent, Failed, Finished
from autoresearch_kit.ratchet import Run


class Rotation:
    """One turn for each, round and round. The rate limited are passed over; the finished and the locked out leave."""

    def __init__(self, agents: Sequence[tuple[str, Agent]], clock: Callable[[], float] = time.monotonic) -> None:
        """`agents` in order, with what the ledger calls them."""
        self._agents = list(agents)
        self._everybody = [agent for _, agent in agents]
        self._clock = clock
        self._rest_until: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._last = ""

    def propose(self, run: Run) -> Proposal | Finished | Failed:
        """Let the next one that is awake work."""
        rests = [self._left(label) for label, _ in self._agents]
        if min(rests) > 0:
            return Failed("All agents are rate limited", "rate_limited", rest_seconds=min(rests))
        turn = next(turn for turn, rest in enumerate(rests) if rest <= 0)
        label, agent = self._agents.pop(turn)
        self._told[self._last] = run.told  # what became of a turn is told to the one whose turn it was
        run.told, self._last = self._told.pop(label, ""), label
        answer = agent.propose(run)
        if isinstance(answer, Failed):
            answer = replace(answer, agent=label, reason=f"{label}: {answer.reason}")
            if answer.is_final and self._agents:
                return replace(answer, is_final=False, reason=f"{answer.reason}; the others go on without it")
        if isinstance(answer, Finished) and self._agents:
            return self.propose(run)
        self._agents.append((label, agent))
        if isinstance(answer, Failed) and answer.kind == "rate_limited":
            rest = FIRST_REST_SECONDS if answer.rest_seconds is None else answer.rest_seconds
            self._rest_until[label] = self._clock() + rest
            return replace(answer, rest_seconds=min(self._left(label) for label, _ in self._agents))
        return answer

    def close(self) -> None:
        """End all of them."""
        for agent in self._everybody:
            agent.close()

    def _left(self, label: str) -> float:
        return max(0.0, self._rest_until.get(label, 0.0) - self._clock())
