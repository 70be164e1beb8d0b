"""Embeddings of many prompts: made under a bar, and kept in a file for other workers and later runs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from diffusion.core.conditions import Column, Conditions
from diffusion.io.atomic import sha256, write_atomic
from diffusion.models.families import LAYOUT
from diffusion.models.loading import Model

MANY = 500  # prompts that are worth a file
WITHOUT_EFFECT = {  # options of a run that prompts' embeddings do not depend on; any other makes another file
    "dataset", "data", "split", "image_column", "label_column", "value_range", "ranges", "interpolation", "img_size",
    "search", "z", "max_samples", "budget", "to_keep", "n_samples", "levels", "weights", "loss", "n_trials", "seed",
    "noise", "antithetic", "candidates", "candidates_from", "pretrained", "candidate_prompts", "save_maps", "groups",
}  # fmt: skip


def cache_path(folder: Path, options: Mapping, prompts: list[str], device: torch.device) -> Path:
    """The file in which these prompts' embeddings are kept, by what they depend on; options as in run.json."""
    relevant = {key: value for key, value in options.items() if key not in WITHOUT_EFFECT}
    versions = [version(name) for name in ("torch", "diffusers", "transformers")]
    parts = [relevant, prompts, device.type, versions, LAYOUT]
    return folder / f"{sha256(json.dumps(parts, sort_keys=True, default=str))[:32]}.safetensors"


def embed(model: Model, prompts: list[str], loras: list[tuple[str, ...]] | None, path: Path) -> Conditions:
    """The conditions of prompts, as model.conditions; of MANY and more by way of the file `path`.

    A file that is damaged, or of other prompts, is made again.
    """
    if len(prompts) < MANY:
        return model.conditions(prompts, loras)
    kept = read(path, model.device)
    if kept is not None and len(kept) == len(prompts):
        return replace(kept, settings=tuple(loras) if loras else None)
    with tqdm(total=len(prompts), desc="embeddings", unit=" prompts", dynamic_ncols=True) as bar:
        conditions = model.conditions(prompts, loras, report=bar.update)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: write(conditions, Path(file.name)))
    return conditions


def write(conditions: Conditions, path: Path) -> None:
    """Write the columns, with their digest; a column of rows that differ in length as a tensor for each row."""
    tensors: dict[str, Tensor] = {}
    for name, column in conditions.columns.items():
        if isinstance(column, Tensor):
            tensors[name] = column.contiguous()
        else:
            tensors |= {f"{name}/{row}": tensor.contiguous() for row, tensor in enumerate(column)}
    save_file(tensors, path, {"digest": conditions.digest(), "columns": json.dumps(list(conditions.columns))})


def read(path: Path, device: torch.device) -> Conditions | None:
    """The conditions in a file; None: there is no such file, or it is not what `write` wrote."""
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    columns: dict[str, Column] = {}
    for name in json.loads(metadata.get("columns", "[]")):
        rows = sum(key.startswith(f"{name}/") for key in tensors)
        if name in tensors:
            columns[name] = tensors[name]
        elif rows:
            columns[name] = tuple(tensors[f"{name}/{row}"] for row in range(rows))
    conditions = Conditions(columns)
    if not columns or conditions.digest() != metadata.get("digest"):
        return None
    return conditions
