"""The spec, `autoresearch-config.yaml`: the only list of keys and defaults.

The starter file, the reference page and every message about a wrong spec are made from the fields below: their
descriptions say what a key does, their examples what to write. `parse_spec` reports all mistakes of a file at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import warnings
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autoresearch_kit.core.names import AGENTS, MODEL_FREE, is_name
from autoresearch_kit.core.tunables import Tunable

_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_CONSTRAINT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_./-]*)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as text and yes as a truth value: take the first, refuse the second.
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            raise ValueError("should be a plain number, without unit or words")
        value = float(value)
    if isinstance(value, int) and abs(value) > 10**300:
        raise ValueError("is too large for a number")
    return value


def _command(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write a shell command")
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def relative_path(text: str) -> str:
    """A path below the spec's folder in normal form; a trailing slash, everything below, is kept."""
    if not text.strip():
        raise ValueError("is empty; write a path relative to the spec's folder")
    if re.search(r"[\x00-\x1f\x7f\\]", text):
        raise ValueError("holds a backslash or a control character; write a plain path with forward slashes")
    if text.startswith(("/", "~")):
        raise ValueError("is absolute; write it relative to the spec's folder")
    parts = PurePosixPath(text).parts
    if ".." in parts:
        raise ValueError("leads out of the spec's folder; move the spec up, or the file below it")
    if not parts:
        raise ValueError("is the folder itself; write `**` for everything in it")
    if any(part.lower() == ".git" for part in parts):
        raise ValueError("lies inside .git, which is never part of an attempt; remove it")
    return "/".join(parts) + ("/" if text.endswith("/") else "")


def _shared_path(text: str) -> str:
    """A path below the spec's folder, or beside it, by leading `..`."""
    if text.startswith(("/", "~")):
        raise ValueError("is absolute; write it relative to the spec's folder")
    up, inner = "", text.rstrip("/")
    while inner == ".." or inner.startswith("../"):
        up, inner = up + "../", inner[3:].lstrip("/")
    if up and not inner:
        raise ValueError("is a whole folder around the spec; name what to share in it")
    return up + relative_path(inner)


def _ref_name(text: str) -> str:
    if not all(is_name(part) for part in text.split("/")):
        raise ValueError("cannot begin a branch's name; use letters, digits, `.`, `_` and `-`")
    return text


def _metric_name(text: str) -> str:
    if not _METRIC.fullmatch(text):
        raise ValueError("is not a metric's name; use letters, digits, `_`, `.`, `/`, `-`, beginning with a letter")
    return text


def _pattern(text: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as for `[[`, which will mean something else one day
            groups = re.compile(text).groups
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"is not a regular expression ({error}); write for example `^loss=(.*)$`") from None
    if groups != 1:
        raise ValueError(f"has {groups} groups; write exactly one, around the number")
    return text


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError("is not a SHA-256 digest of 64 hexadecimal digits; take what `sha256sum FILE` prints")
    return text


def _input_path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("is no path; write the file's")
    return text


def _agent_name(text: str) -> str:
    if text not in AGENTS:
        near = difflib.get_close_matches(text.lower(), AGENTS, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(AGENTS)}"
        raise ValueError(f"is not an agent of the kit; {meant} For any other write `agent: {{command: ...}}`")
    return text


def _label(text: str) -> str:
    if not is_name(text):
        raise ValueError("cannot be a label; use letters, digits, `.`, `_` and `-`")
    return text


def _gain(value: Any) -> Any:
    percent = isinstance(value, str) and value.strip().endswith("%")
    number = _number(value.strip()[:-1] if percent else value)
    if not isinstance(number, int | float) or not 0 <= number < float("inf"):
        raise ValueError("should be a number of at least 0, or a percentage such as `0.5%`")
    return value if percent else float(number)


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is not the name of an environment variable; use letters, digits and `_`")
    if name.startswith(("ARK_", "GIT_")):
        raise ValueError("cannot be set: names that begin with ARK_ or GIT_ belong to the engine; use another name")
    return name


def _variable_value(value: Any) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise ValueError("holds a NUL character; remove it")
    return json.dumps(value) if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _constraint(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _CONSTRAINT.fullmatch(value)
    if not match or not _NUMBER.fullmatch(match[3]):
        raise ValueError("is not a limit; write for example `peak_vram_mb <= 80000`")
    return {"metric": match[1], "sign": match[2], "limit": match[3]}


def _check(value: Any) -> Any:
    return {"command": value} if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Minutes = Annotated[Positive, Field(le=1_000_000)]
"""More than a year is a slip, and more than the clocks of the operating system can count."""
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Command = Annotated[str, AfterValidator(_command)]
RelativePath = Annotated[str, AfterValidator(relative_path)]


class Part(BaseModel):
    """A piece of the spec: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(Part):
    """How a candidate's measurements are turned into a verdict."""

    rule: Literal["sequential", "first_better"] = Field(
        "sequential",
        description="`sequential`: measured again, in turn with the head, until the evidence is clear. `first_better`: "
        "one run, kept when it is strictly better by `min_gain`, luck included.",
        examples=["first_better"],
    )
    false_keeps: Positive = Field(
        0.1,
        description="How many keeps without a real gain to expect in the whole campaign, at most.",
        examples=["0.1"],
    )
    min_gain: Annotated[float | str, BeforeValidator(_gain)] = Field(
        0.0,
        description="Smallest gain worth keeping: in units of the metric, or in percent of the head's value (`0.5%`).",
        examples=["0.001", "0.5%"],
    )
    baseline_runs: Annotated[Count, Field(le=1000)] = Field(
        3,
        description="How often the baseline is measured, to learn the noise; once when an earlier run of the same "
        "files has shown that there is none.",
        examples=["3"],
    )
    max_runs: Annotated[Count, Field(le=1000)] = Field(
        12,
        description="Most runs that one candidate may cost, the head's in turn included; used in rounds of four.",
        examples=["12"],
    )

    @field_validator("max_runs")
    @classmethod
    def _two(cls, value: int, info: ValidationInfo) -> int:
        if value < 2 and info.data.get("rule") != "first_better":
            raise ValueError(
                "is below 2: on a noisy metric a candidate is held against a fresh run of the head; "
                "for one run each write `decision: first_better` (without noise one run is enough anyway)"
            )
        return value

    def threshold(self, value: float) -> float:
        """The smallest gain worth keeping over `value`, in units of the metric."""
        if isinstance(self.min_gain, str):
            return abs(value) * (float(self.min_gain.strip()[:-1]) / 100)
        return self.min_gain


class Agent(Part):
    """Who proposes changes: a name of the kit, or any command."""

    name: Annotated[str, AfterValidator(_agent_name)] | None = Field(
        None,
        description=f"An agent of the kit: {', '.join(f'`{name}`' for name in AGENTS)}.",
        examples=["claude"],
    )
    command: Command | None = Field(
        None, description="Any shell command; the prompt comes on its standard input.", examples=["my-agent --once"]
    )
    label: Annotated[str, AfterValidator(_label)] | None = Field(
        None,
        description="What the ledger calls it; its name, with the model if one is given, or else `command`.",
        examples=["my-agent"],
    )
    model: Annotated[str, AfterValidator(_command)] | None = Field(
        None, description="The model that a named agent shall use, as its own command line calls it.", examples=["opus"]
    )
    arguments: list[str] = Field(
        [],
        description="Further words for the command line of a named agent, such as what it may do without asking.",
        examples=['["--allowedTools", "Bash"]'],
    )
    timeout_minutes: Minutes = Field(
        30.0,
        description="Hard limit for one turn of the agent; with `drive: agent`, for the time between two attempts.",
        examples=["30"],
    )
    drive: Literal["engine", "agent"] = Field(
        "engine",
        description="Who drives the loop. `engine`: a fresh prompt for each attempt. `agent`: it is started once, "
        "reads program.md and calls `ark try` itself.",
        examples=["agent"],
    )

    @model_validator(mode="after")
    def _one(self) -> Agent:
        if (self.name is None) == (self.command is None):
            raise ValueError("should have either `name` or `command`; write for example `agent: search`")
        if self.name is None and (self.model or self.arguments):
            raise ValueError("has `model` or `arguments` beside a command; write them into the command")
        if self.name in MODEL_FREE and (self.model or self.arguments or self.drive == "agent"):
            raise ValueError(
                f"is `{self.name}`, which takes no `model`, no `arguments` and no `drive: agent`; remove it"
            )
        return self

    @property
    def known_as(self) -> str:
        """What the ledger calls it."""
        return self.label or (f"{self.name}:{self.model}" if self.model else self.name) or "command"


class Budget(Part):
    """When the whole run stops; each limit by itself, none set means never."""

    attempts: Count | None = Field(None, description="Attempts in all, the baseline not counted.", examples=["100"])
    hours: Positive | None = Field(None, description="Wall time of one call of `ark run`.", examples=["8"])
    target: Number | None = Field(None, description="Stop when the best value has reached this.", examples=["0.95"])
    patience: Count | None = Field(None, description="Stop after so many attempts without a keep.", examples=["30"])
    money: Positive | None = Field(
        None,
        description="Stop when the agents have reported this much cost; agents that report none count as zero.",
        examples=["20"],
    )
    tokens: Count | None = Field(
        None,
        description="Stop when the agents have reported so many tokens, in and out; none reported count as zero.",
        examples=["5000000"],
    )


class Input(Part):
    """A file outside git that the number depends on."""

    path: Annotated[str, AfterValidator(_input_path)] = Field(
        description="Relative to the spec's folder, or absolute, or below `~` or `$ARK_CACHE`.",
        examples=["data/train.bin"],
    )
    sha256: Annotated[str, AfterValidator(_digest)] = Field(
        description="Its digest in hexadecimal.", examples=["the 64 digits that `sha256sum FILE` prints"]
    )


class Check(Part):
    """A command that must pass on the bench before a keep."""

    command: Command = Field(description="A shell command; exit code 0 passes.", examples=["python -m pytest -q"])
    timeout_minutes: Minutes = Field(10.0, description="Hard limit for it.", examples=["10"])


class Hook(Part):
    """A command that is told of an event of a run."""

    command: Command = Field(
        description="A shell command, run in the spec's folder of your checkout; one JSON document comes on its "
        "standard input.",
        examples=["./tell.sh"],
    )
    timeout_seconds: Annotated[Positive, Field(le=3600)] = Field(
        30.0, description="Hard limit for it, with all that it has started.", examples=["30"]
    )


class Hooks(Part):
    """Commands that are told what happens, each a line or `{command: ..., timeout_seconds: 30}`."""

    keep: Annotated[Hook, BeforeValidator(_check)] | None = Field(
        None, description="An attempt was kept, baselines not counted.", examples=['"./tell.sh"']
    )
    best: Annotated[Hook, BeforeValidator(_check)] | None = Field(
        None,
        description="An attempt was kept whose value is better than all others that were kept, and the baseline.",
        examples=['"./tell.sh"'],
    )
    stop: Annotated[Hook, BeforeValidator(_check)] | None = Field(
        None, description="`ark run` has ended, whatever the reason, Ctrl-C too.", examples=['"./tell.sh"']
    )
    trouble: Annotated[Hook, BeforeValidator(_check)] | None = Field(
        None,
        description="A person is needed: the agent is not logged in, fails or is rate limited for long, crashes in a "
        "row, a full disk, an error that ends the run.",
        examples=['"./tell.sh"'],
    )


class Constraint(Part):
    """A hard limit on a metric that the run prints or the engine measures."""

    metric: Annotated[str, AfterValidator(_metric_name)] = Field(
        description="Name of the metric.", examples=["peak_vram_mb"]
    )
    sign: Literal["<=", ">=", "<", ">"] = Field(description="How it compares to the limit.", examples=['"<="'])
    limit: Number = Field(description="The limit.", examples=["80000"])

    def holds(self, value: float) -> bool:
        """Whether `value` satisfies it."""
        return {
            "<=": value <= self.limit,
            ">=": value >= self.limit,
            "<": value < self.limit,
            ">": value > self.limit,
        }[self.sign]

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.limit:g}"


class Resources(Part):
    """What one measurement may take."""

    memory_mb: Positive | None = Field(
        None,
        description="A run whose process tree takes more is killed and counts as out of memory.",
        examples=["16000"],
    )


class Spec(Part):
    """One measurable problem: what may change, how to run it, how to measure, and for how long."""

    name: str = Field(
        "",
        description="What the project is called in tables; the folder's name unless given.",
        examples=['"my-project"'],
    )
    metric: Annotated[str, AfterValidator(_metric_name)] = Field(
        description="The one number that decides, by the name under which it is printed.", examples=['"val_bpb"']
    )
    metric_direction: Literal["minimize", "maximize"] = Field(
        description="Whether lower or higher is better.", examples=['"minimize"']
    )
    mutable_files: Annotated[list[RelativePath], Field(min_length=1)] = Field(
        description="Files that an attempt may change, add or delete; globs are allowed, everything else is immutable.",
        examples=['["train.py"]'],
    )
    immutable_files: list[RelativePath] = Field(
        [],
        description="Files that are named to the agent as fixed; a file in neither list is fixed too.",
        examples=['["prepare.py"]'],
    )
    run_command: Command = Field(
        description="The experiment, a shell command run in the spec's folder on the bench.",
        examples=['"python train.py > run.log 2>&1"'],
    )
    eval_command: Command | None = Field(
        None,
        description="Prints the metric after the run; without it the metric is read from the output of the run.",
        examples=["\"grep '^val_bpb:' run.log\""],
    )
    budget_minutes: Minutes = Field(
        5.0, description="Time meant for one run; the command sees it as ARK_BUDGET_SECONDS.", examples=["5"]
    )
    branch_prefix: Annotated[str, AfterValidator(_ref_name)] = Field(
        "autoresearch",
        description="Kept attempts go to the branch `<branch_prefix>/<tag>`.",
        examples=['"autoresearch"'],
    )
    rules: list[str] = Field(
        [], description="Sentences for the agent, copied into program.md.", examples=['["Only modify train.py"]']
    )

    goal: str = Field(
        "",
        description="A paragraph for the agent on what is wanted and why.",
        examples=['"Lower the loss of the small model"'],
    )
    context: str = Field(
        "",
        description="Further text for program.md: background, ideas, literature.",
        examples=['"What is known so far"'],
    )
    timeout_minutes: Minutes | None = Field(
        None, description="Hard limit for one run; twice the budget unless given.", examples=["10"]
    )
    eval_timeout_minutes: Minutes | None = Field(
        None, description="Hard limit for one evaluation; as the run's unless given.", examples=["10"]
    )
    setup_command: Command | None = Field(
        None,
        description="Run once per machine before the baseline, on the bench, for what lasts outside of it: a download "
        "into a cache, an installation, or something below a `link`; what it writes on the bench itself is scrubbed.",
        examples=['"python prepare.py"'],
    )
    artifacts: list[RelativePath] = Field(
        [],
        description="Files that survive from run to evaluation besides run.log; globs are allowed.",
        examples=['["model.pt"]'],
    )
    link: list[Annotated[str, AfterValidator(_shared_path)]] = Field(
        [],
        description="Untracked paths, such as `.venv` or data, that bench and desk share with your folder by symlink.",
        examples=['[".venv"]'],
    )
    inputs: list[Input] = Field(
        [],
        description="Files outside git that are pinned by their hash: checked before a run, after `setup_command`, and "
        "whenever a run may have changed them, which ends `ark run`.",
        examples=["[{path: data/train.bin, sha256: DIGEST}]"],
    )
    metric_pattern: Annotated[str, AfterValidator(_pattern)] | None = Field(
        None,
        description="A regular expression with one group that finds the metric, for unusual output.",
        examples=["'^loss=(.*)$'"],
    )
    constraints: list[Annotated[Constraint, BeforeValidator(_constraint)]] = Field(
        [],
        description="Hard limits on other metrics, or on peak_memory_mb, wall_seconds and cpu_seconds.",
        examples=['["peak_vram_mb <= 80000"]'],
    )
    checks: list[Annotated[Check, BeforeValidator(_check)]] = Field(
        [],
        description="Commands that must pass on the bench before a keep.",
        examples=['["python -m pytest -q"]'],
    )
    holdout_command: Command | None = Field(
        None,
        description="A second evaluation on data that no decision has seen; run by `ark verify` only.",
        examples=['"python evaluate.py --holdout"'],
    )
    decision: Decision = Field(
        Decision(), description="How a verdict is made: a rule's name or a mapping.", examples=["first_better"]
    )
    agent: list[Agent] = Field(
        [],
        description="Who proposes changes: a name, a mapping, or a list of these, which take turns; `search` when "
        "there are tunables.",
        examples=["claude", '{command: "my-agent --once"}', "[claude, codex]"],
    )
    tunables: list[Tunable] = Field(
        [],
        description="Constants that the search agent may turn.",
        examples=["[{file: train.py, name: LR, low: 1e-4, high: 1e-1, log: true}]"],
    )
    budget: Budget = Field(Budget(), description="When the whole run stops.", examples=["{attempts: 100, hours: 8}"])
    sandbox: Literal["none"] = Field(
        "none",
        description="How commands are confined; `none` is the only one so far: run, agent and eval are your user.",
        examples=["none"],
    )
    env: dict[Annotated[str, AfterValidator(_variable)], Annotated[str, BeforeValidator(_variable_value)]] = Field(
        {}, description="Environment variables for all commands.", examples=['{OMP_NUM_THREADS: "4"}']
    )
    resources: Resources = Field(
        Resources(), description="What one measurement may take.", examples=["{memory_mb: 16000}"]
    )
    on: Hooks = Field(
        Hooks(),
        description="Commands that tell you what happens, by event: a shell line, or "
        "`{command: ..., timeout_seconds: 30}`; each gets one JSON document on its standard input.",
        examples=['{stop: "./tell.sh", trouble: {command: "./tell.sh", timeout_seconds: 60}}'],
    )

    @field_validator("decision", mode="before")
    @classmethod
    def _decision(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value

    @field_validator("agent", mode="before")
    @classmethod
    def _agent(cls, value: Any) -> Any:
        agents = value if isinstance(value, list) else [value]
        return [{"name": agent} if isinstance(agent, str) else agent for agent in agents]

    @field_validator("agent")
    @classmethod
    def _one_driver(cls, value: list[Agent]) -> list[Agent]:
        if len(value) > 1 and any(agent.drive == "agent" for agent in value):
            raise ValueError("has `drive: agent` in a list, where the engine gives the turns; write one agent alone")
        names = [agent.known_as for agent in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"has two agents that the ledger would call `{twice}`; give one a `label`")
        return value

    @property
    def maximize(self) -> bool:
        """Whether higher values are better."""
        return self.metric_direction == "maximize"

    @property
    def timeout_seconds(self) -> float:
        """Hard limit for one run."""
        return 60 * (self.timeout_minutes or 2 * self.budget_minutes)

    @property
    def eval_timeout_seconds(self) -> float:
        """Hard limit for one evaluation."""
        return 60 * self.eval_timeout_minutes if self.eval_timeout_minutes else self.timeout_seconds

    @property
    def agents(self) -> list[Agent]:
        """The agents of the spec, else the search agent when there is something for it to turn, else nobody."""
        return self.agent or ([Agent.model_validate({"name": "search"})] if self.tunables else [])

    @property
    def yardstick(self) -> str:
        """Digest of the keys that fix the number; `ledger` adds the digest of the immutable tree."""
        text = json.dumps(self.measuring, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def measuring(self) -> dict[str, Any]:
        """The keys that fix the number, as plain data."""
        keys = {
            "metric", "metric_direction", "metric_pattern", "mutable_files", "run_command", "eval_command",
            "setup_command", "budget_minutes", "artifacts", "link", "inputs", "env", "resources",
        }  # fmt: skip
        return self.model_dump(mode="json", include=keys)
