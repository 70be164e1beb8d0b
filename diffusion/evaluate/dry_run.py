"""What a run would measure and cost, from configurations and earlier records alone: --dry_run loads no model."""

from pathlib import Path

import numpy as np
import torch

from diffusion.core.constants import LOSSES
from diffusion.data.dataset import Dataset
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.loop import Cost, Folder
from diffusion.models.aliases import USUAL_LEVELS
from diffusion.models.loading import Card, weights_size
from diffusion.runs import newer, records, results

FLOAT = 4  # bytes of an error in a record


def describe(
    config: RunConfig, card: Card, folder: Folder, n_arms: int, cost: Cost, mine: list[int], rate: float, data: Dataset
) -> list[str]:
    """Lines on the images, NFE, GPU-hours at `rate` NFE/s, disk and memory of a run over the images `mine`.

    If the run's folder holds records, as those of a pilot with --limit, the others are expected to cost as much. No
    weights are read, so it is not checked that those records are of the same weights. InputError if the folder holds
    a run with other options.
    """
    records.check_run(folder.path, folder.options, folder.details, data.named_images)
    done = earlier_rows(folder.path, mine)
    paths = {}
    for row in done:
        paths[row["index"]] = records.record_path(folder.path, len(data), row["index"])
    newer.warn(data.located, paths)
    lines = _costs(len(mine), [int(row["nfe"]) for row in done], n_arms, cost, rate)
    weights = weights_size(card, getattr(torch, config.dtype))
    lines.append(f"weights   {size(weights)} in {config.dtype}, of {card.source}")
    lines.append(f"folder    {folder.path}")
    return lines


def describe_unread(missing: str, folder: Path, n_arms: int, cost: Cost, n_images: int, rate: float) -> list[str]:
    """The lines that need no model, if its configuration cannot be read; `missing`: why. Nothing there is compared."""
    lines = _costs(n_images, None, n_arms, cost, rate)
    planned = f"NFE are planned for {USUAL_LEVELS:,} noise levels, and neither size nor earlier records are looked at"
    lines.append(f"missing   the model's configuration, {missing}: {planned}")
    lines.append(f"folder    {folder}")
    return lines


def _costs(n_images: int, counts: list[int] | None, n_arms: int, cost: Cost, rate: float) -> list[str]:
    """Lines on images, NFE, time and disk; `counts`: the NFE of the images that are done, None if nobody looked."""
    images = f"images    {n_images:,}"
    if counts is not None:
        images += f", {len(counts):,} of them done"
    counts = counts or []
    left = n_images - len(counts)
    to_do = cost.nfe * left
    nfe_each, nfe_to_do = cost.bound(f"{cost.nfe:,}"), cost.bound(f"{to_do:,}")
    lines = [
        images,
        f"compete   {n_arms:,} prompts or class ids",
        f"NFE       {nfe_each} an image, {nfe_to_do} to do",
        f"time      {cost.bound(hours(to_do / rate))} at {rate:g} NFE/s",
    ]
    if counts and not cost.exact:
        mean, spread = np.mean(counts), 0.0
        if len(counts) > 1:
            spread = np.std(counts, ddof=1)
        error = spread / len(counts) ** 0.5
        lines.append(f"expected  {mean:,.0f} NFE an image (+- {error:,.0f}), as the {len(counts):,} that are done")
        lines.append(f"          {hours(mean * left / rate)} at {rate:g} NFE/s")
    per_image = np.mean(counts) if counts else cost.nfe
    disk = per_image * len(LOSSES) * FLOAT * n_images
    lines.append(f"disk      about {size(disk)} of errors")
    return lines


def earlier_rows(folder: Path, mine: list[int]) -> list[dict]:
    """The rows of the records that a folder holds of the images `mine`."""
    if not (folder / "run.json").exists():
        return []
    done = results.read(folder, answers=False).done
    rows, _ = results.read_rows((done[k] for k in mine if k in done), of_run=True)
    return rows


def size(n_bytes: float) -> str:
    """Bytes in words: 3.4 MB, 12.1 GB."""
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:,.1f} GB"
    return f"{n_bytes / 1e6:,.1f} MB"


def hours(seconds: float) -> str:
    """A time in words: 41 s, 12 min, 3.4 h, 1,383 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
