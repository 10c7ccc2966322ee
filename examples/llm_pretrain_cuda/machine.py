"""What a trainer asks of the machine: device, type, memory, peak. Nothing here is research."""

from __future__ import annotations

import importlib.util
import re
import resource
import sys

import torch
from command import TrainError

# Dense bf16 FLOP/s by a word of the device's name, special cases before general ones. Unknown devices print n/a.
PEAK_FLOPS = {
    "GB200": 2.5e15, "B200": 2.25e15, "B100": 1.8e15, "H200 NVL": 836e12, "H200 PCIe": 836e12, "H200": 989e12,
    "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "H800 NVL": 989e12, "H800": 756e12, "A100": 312e12,
    "A800": 312e12, "A40": 149.7e12, "A30": 165e12, "L40S": 362e12, "L4": 121e12, "MI355X": 2.5e15, "MI300A": 980.6e12,
    "MI300X": 1.3074e15, "MI325X": 1.3074e15, "MI250X": 383e12, "MI250": 362.1e12, "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12, "RTX 3090": 71e12, "GB10": 125e12, "T4": 65e12,
}  # fmt: skip


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
