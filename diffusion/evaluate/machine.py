"""Cores and the model: how a run takes them, and the lines that show it."""

import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion.evaluate.config import RunConfig
from diffusion.models import loading

SMALL = 100e6  # bytes of weights; a network of fewer is no faster on several threads (docs/speed.md)


def share_cores(n_workers: int, device: torch.device, size: float = np.inf, environ=os.environ) -> None:
    """On a CPU, take this worker's part of the cores, or one for a model of few bytes (`size`), and print it.

    OMP_NUM_THREADS overrides this. Tasks of Slurm have cores of their own.
    """
    if device.type != "cpu" or "OMP_NUM_THREADS" in environ:
        return
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    if "SLURM_JOB_ID" in environ:
        n_workers = 1
    if size < SMALL:
        threads, why = 1, "the model is small"
    elif n_workers > 1:
        threads, why = max(1, cores // n_workers), f"{n_workers} workers"
    else:
        threads, why = cores, "one worker"
    torch.set_num_threads(threads)
    tqdm.write(f"CPU: {threads} of {cores} cores, {why}; OMP_NUM_THREADS=N takes N")


def load_for_run(config: RunConfig, card: loading.Card, dtype: str) -> loading.Model:
    """Load the model, after lines with its size and, on a CPU, how many cores it takes."""
    torch_dtype = getattr(torch, dtype)
    size = loading.weights_size(card, torch_dtype)
    share_cores(config.n_workers, config.device, size)

    name = config.version or card.source
    mirror = ""
    if name != card.source and not Path(card.source).is_dir():
        configured = "configured as " if card.file else ""
        mirror = f" ({configured}{card.source})"
    without = ", without T5 (--t5 loads it)" if card.lacks_t5 else ""
    tqdm.write(f"{name}{mirror}: {size / 1e9:,.2f} GB of weights, the network's in {dtype}{without}")
    return loading.load_model(
        card, dtype=torch_dtype, device=config.device, compiled=config.compile, offload=config.offload
    )
