"""Any command as an agent: it gets a prompt on its standard input and edits files on the desk.

Exit code 0 means done; whether there is anything to measure is seen from the files alone. Every process that it leaves
behind is ended with its turn. Its environment is the user's: it may need keys and its own configuration.
"""

from __future__ import annotations

from pathlib import Path

from autoresearch_kit.agents.brief import render_program, render_prompt
from autoresearch_kit.core.names import NOTES_FOLDER, PROGRAM_NAME, RESULTS_NAME
from autoresearch_kit.core.records import Cost, Proposal
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.measure import Phase, command_environment
from autoresearch_kit.lab.processes import Command, Supervisor, tail
from autoresearch_kit.loop import Failed, Finished
from autoresearch_kit.ratchet import Run, Watch

PROMPT_NAME = f"{NOTES_FOLDER}/prompt.md"


class CommandAgent:
    """A shell command, started anew for each turn in the spec's folder on the desk."""

    def __init__(self, label: str, command: str, timeout_seconds: float, watch: Watch) -> None:
        self._label = label
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._watch = watch
        self._program = b""
        self._supervisor: Supervisor | None = None

    def propose(self, run: Run) -> Proposal | Finished | Failed:
        """Lay the desk with program.md, results.tsv and the prompt, and let the command work."""
        self._program = self._program or render_program(run.spec).encode()
        prompt = render_prompt(run).encode()
        results = run.books.results.text().encode()
        run.lay_desk({PROGRAM_NAME: self._program, RESULTS_NAME: results, PROMPT_NAME: prompt})
        folder, number = run.desk.folder, run.books.next_number
        log = run.cache / "logs" / f"{number:04d}.agent.log"
        prompt_file = folder / PROMPT_NAME
        env = command_environment(run.spec, prompt_file=str(prompt_file), tag=run.tag, attempt=number)
        self._watch(Phase("agent", self._timeout_seconds, log))
        cache.make_private(log.parent)  # an agent may have deleted the whole cache
        if self._supervisor is None:
            self._supervisor = Supervisor()
        done = self._supervisor.run(
            Command(self._command, folder, env, log, self._timeout_seconds, stdin=_own_copy(run, prompt))
        )
        run.told = ""
        if done.problem:
            last = tail(log).strip().split("\n")[-1][:200]
            return Failed(f"The agent failed: {done.detail}" + (f"; its last words: {last}" if last else ""))
        title, why = run.desk.note()
        return Proposal(title, why, self._label, Cost(seconds=round(done.wall_seconds, 3)))

    def close(self) -> None:
        """End the helper process."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None


def _own_copy(run: Run, prompt: bytes) -> Path:
    """The prompt outside the desk, where nothing can have replaced it."""
    path = run.cache / "prompt.md"
    cache.write_anew(path, prompt)
    return path
