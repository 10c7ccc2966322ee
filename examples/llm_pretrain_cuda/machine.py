"""What a trainer asks of the machine: device, type, memory, peak, signals. Nothing here is research."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import resource
import signal
import sys

import torch

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
# Dense bf16 FLOP/s by a word of the device's name, special cases before general ones. Unknown devices print n/a.
PEAK_FLOPS = {
    "GB200": 2.5e15, "B200": 2.25e15, "B100": 1.8e15, "H200 NVL": 836e12, "H200 PCIe": 836e12, "H200": 989e12,
    "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "H800 NVL": 989e12, "H800": 756e12, "A100": 312e12,
    "A800": 312e12, "A40": 149.7e12, "A30": 165e12, "L40S": 362e12, "L4": 121e12, "MI355X": 2.5e15, "MI300A": 980.6e12,
    "MI300X": 1.3074e15, "MI325X": 1.3074e15, "MI250X": 383e12, "MI250": 362.1e12, "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12, "RTX 3090": 71e12, "GB10": 125e12, "T4": 65e12,
}  # fmt: skip


class TrainError(Exception):
    """A mistake of the user or of the settings; `str` is the sentence, and a hint on a line of its own."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


def choose_device(wanted: str | None) -> torch.device:
    """The device asked for. CUDA is the only one that is taken by itself: elsewhere the full size makes no sense."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there[wanted or "cuda"]:
        devices = " or ".join(f"--device {name}" for name in ("mps", "cpu") if there[name])
        sentence = f"PyTorch sees no {'Apple GPU' if wanted == 'mps' else 'CUDA device'} here"
        raise TrainError(
            sentence,
            f"python train.py {devices} --data stories (little stories; by ark: ark run autoresearch-config.cpu.yaml)",
        )
    return torch.device(wanted or "cuda")


def choose_dtype(wanted: str | None, device: torch.device) -> torch.dtype:
    if wanted:
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def peak_flops(device: torch.device) -> float | None:
    """bf16 FLOP/s of the GPU by its name, None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if re.search(rf"\b{part}\b", name)), None)


def peak_memory_mb(device: torch.device) -> float:
    """The most GPU memory that tensors took. Off CUDA: the most resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "out of memory" in text or "bad_alloc" in text)
    )


def number_from(flag: float | None, variable: str, default: float, least: float) -> float:
    """The flag, else the environment variable, else the default; TrainError if it is no such number."""
    text = os.environ.get(variable, "") if flag is None else str(flag)
    try:
        value = float(text) if text else default
        if not (math.isfinite(value) and value >= least) or "_" in text:  # Python reads 1_0 as 10, others do not
            raise ValueError
    except ValueError:
        given, hint = (f"{variable} =", f"unset {variable}") if flag is None else ("the flag", "give another")
        raise TrainError(f"{given} {text!r} is not a number of at least {least:g}", hint) from None
    return value


def seed_from(flag: str | None, variable: str, default: int) -> int:
    """The flag, else the environment variable, else the default: what every random generator takes as a seed."""
    text = os.environ.get(variable, "") if flag is None else flag
    if flag is None and not text:
        return default
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        name, hint = (variable, f"unset {variable}") if flag is None else ("--seed", "--seed 1")
        raise TrainError(f"{name} = {text!r} is not a whole number from 0 to 2**63 - 1, in decimal digits", hint)
    return int(text)


class Interrupted(BaseException):
    """SIGTERM or SIGINT before the first step. No Exception, so that nothing in between takes it for a failure."""


class Interrupt:
    """Remembers SIGTERM and SIGINT, so that the run stops between two steps. A second signal ends it at once.

    Until `training` is called nothing is worth finishing, so there a signal raises Interrupted from where it arrives.
    """

    def __init__(self):
        self.signal: int | None = None
        self.at_once = True
        self.before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def listen(self) -> None:
        for number in EXIT_CODES:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        self.signal = number
        self.restore()
        if self.at_once:
            raise Interrupted

    def training(self) -> None:
        """From here on signals wait for the end of a step."""
        self.at_once = False
        if self.signal:  # raised where exceptions get lost, in a destructor for example
            raise Interrupted

    def ignore(self) -> None:
        """The result is out: nothing may turn it into a failure, also not while the process ends."""
        self.before = dict.fromkeys(EXIT_CODES, signal.SIG_IGN)
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
