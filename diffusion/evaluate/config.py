"""The options of a run, resolved once. Nothing below a script sees the parsed arguments; nothing writes to these."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from diffusion import InputError
from diffusion.core.constants import usual_levels, usual_noise
from diffusion.core.schedule import Schedule
from diffusion.data.datasets import Dataset
from diffusion.evaluate import sharding
from diffusion.evaluate.noise import Noise
from diffusion.evaluate.options import at_least_one, not_negative
from diffusion.io.atomic import sha256
from diffusion.io.wording import count
from diffusion.models import loading
from diffusion.runs import naming
from diffusion.settings import use_exact_float32

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunConfig:
    """The options that several scripts have, under their names; None for those that a script lacks.

    Defaults that depend on other options, on the machine or on the cluster are resolved.
    """

    # which images
    dataset: str
    split: str | None = None
    subset_path: Path | None = None
    per_class: int | None = None
    limit: int | None = None
    value_range: list[float] | None = None
    image_column: str | None = None
    label_column: str | None = None
    interpolation: str | None = None

    # the model
    version: str | None = None
    img_size: int | None = None
    config: str | None = None
    lora: list[str] | None = None
    embeddings: list[str] | None = None
    t5: bool | None = None
    device: torch.device = CPU
    dtype: str = "float32"
    batch_size: int = 32
    in_flight: int | None = None
    compile: bool = False
    offload: bool = False

    # the search and its points
    search: str = "race"
    z: float = 3.0
    max_samples: int | None = None
    budget: int | None = None
    level_range: tuple[float, float] = (0.0, 1.0)  # shares of the noise levels
    weights: Path | None = None
    loss: str = "l2"
    noise: str = "independent"  # or antithetic
    noise_path: Path | None = None
    randomize_noise: bool | None = None  # None: a new draw for every level
    n_trials: int = 1
    seed: int = 0

    # which classes compete
    candidates: int | None = None
    candidates_from: str | None = None
    pretrained: str | None = None

    # one of many workers
    n_workers: int = 1
    worker_idx: int = 0
    grace: float = 20.0
    extra: str | None = None

    @classmethod
    def from_args(cls, args, environ: Mapping[str, str] = os.environ, **changes) -> "RunConfig":
        """The options in `args`, an argparse.Namespace, with `changes` in place of some of them.

        The share of the images is the one that `environ` says where no option does (see sharding.share). From here on
        float32 means float32: on CUDA, torch by default lets convolutions use TF32. InputError: a value that no run can
        have.
        """
        use_exact_float32()
        options = vars(args) | changes
        asked = {}
        for field in fields(cls):
            if options.get(field.name) is not None:
                asked[field.name] = options[field.name]
        config = cls(**asked | {"device": CPU})
        at_least_one(config, "limit", "per_class", "n_trials", "batch_size", "in_flight")
        not_negative(config, "seed", "grace")

        device = pick_device(options.get("device"))
        worker_idx, n_workers = sharding.share(
            options.get("n_workers"), options.get("worker_idx"), environ, options.get("shard")
        )
        if config.compile and device.type != "cuda":
            raise InputError("--compile", f"is for CUDA, the device is {device}")
        return replace(
            config,
            device=device,
            dtype=pick_dtype(options.get("dtype"), device),
            level_range=parse_level_range(options.get("levels") or usual_levels(config.search)),
            noise=options.get("noise") or usual_noise(config.search, config.noise_path),
            worker_idx=worker_idx,
            n_workers=n_workers,
        )

    @property
    def antithetic(self) -> bool:
        return self.noise == "antithetic"


# ---- device ----


def pick_device(name: str | None) -> torch.device:
    """The device of this name, by default the best that the machine has. InputError: there is none of that name."""
    if name is None:
        local_rank = os.environ.get("LOCAL_RANK")  # torchrun's
        if torch.cuda.is_available() and local_rank:
            name = f"cuda:{local_rank}"
        elif torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    return loading.find_device(name, f"--device {name}")


def pick_dtype(name: str | None, device: torch.device) -> str:
    """The number format of the network, by default float16 on CUDA, else float32. InputError: float16 on a CPU."""
    if name is None:
        return "float16" if device.type == "cuda" else "float32"
    if name == "float16" and device.type == "cpu":
        raise InputError("--dtype float16", "CPUs compute it hundreds of times slower; use bfloat16 or float32")
    return name


# ---- levels ----


def parse_level_range(text: str) -> tuple[float, float]:
    """The two shares of the noise levels in a text such as 0.2-0.8. InputError: no two ascending shares."""
    ends = re.fullmatch(r"([0-9]*\.?[0-9]+)-([0-9]*\.?[0-9]+)", text)
    if ends:
        low, high = float(ends[1]), float(ends[2])
        if low < high <= 1:
            return low, high
    raise InputError(f"--levels {text}", f"wanted two shares of the noise levels, such as {usual_levels('race')}")


def level_range_text(level_range: tuple[float, float]) -> str:
    """--levels as run.json and folder names have it."""
    low, high = level_range
    return f"{low:g}-{high:g}"


# ---- run.json and the folder's name ----


def model_tag(config: RunConfig) -> str:
    """A text-to-image model, with its LoRAs and embeddings, as one part of the name of a run's folder."""
    added = [*(config.lora or []), *(config.embeddings or [])]
    return naming.joined(f"v{naming.tag(config.version)}", config.t5 and "t5", *map(naming.tag, added))


def search_tag(config: RunConfig, schedule: Schedule) -> str:
    """The search in the name of a run's folder."""
    trials = f"{config.n_trials}trials"
    if schedule.interval:
        return f"t{schedule.interval}_{trials}"
    return f"{trials}_{schedule.name or schedule.search}"


def suffixes(config: RunConfig, schedule: Schedule, usual_interpolation: str | None = None, more: str = "") -> str:
    """The end of that name: options that are not the usual ones; `more` comes before the levels."""
    noise = "antithetic" if schedule.pairs else "independent"
    level_range = level_range_text(config.level_range)
    return naming.joined(
        bool(config.randomize_noise) and "randnoise",
        naming.unusual(config.interpolation, usual_interpolation, None),
        naming.unusual(config.loss, "l2"),
        naming.unusual(config.img_size, None, 512),
        more,
        level_range != usual_levels(schedule.search) and f"levels{level_range}",
        noise != usual_noise(schedule.search, config.noise_path) and noise,
        config.weights and f"w{naming.tag(config.weights.stem)}",
    )


def data_options(config: RunConfig, dataset: Dataset) -> dict:
    """The part of run.json on a data set of classes: its name, fingerprint, split, and how it is read.

    That is the columns, and the values of images of more than 8 bits that are black and white, which decide what the
    model sees.
    """
    more = {}
    for flag in ("image_column", "label_column", "value_range"):
        if getattr(config, flag):
            more[flag] = getattr(config, flag)
    if dataset.ranges and not config.value_range:
        more["ranges"] = {kind: list(span) for kind, span in dataset.ranges.items()}
    return {"dataset": dataset.name, "data": dataset.fingerprint, "split": config.split} | more


def model_options(
    config: RunConfig,
    card: loading.Card,
    schedule: Schedule,
    weights: np.ndarray,
    noise: Noise,
    *,
    read_weights: bool = True,
) -> dict:
    """The part of run.json on the model, the search and the points; weights [T] of all levels.

    Without read_weights the fingerprints of the model's parts are missing.
    InputError: no level that is measured has a weight above 0; noise that was fitted for another model.
    """
    if not weights[schedule.levels].any():
        none = f"are 0 at each of the {count(len(schedule), 'level')} that are measured; wanted one above 0"
        raise InputError(f"--weights {config.weights}", none)
    fingerprints = loading.check_weights(card) if read_weights else {}
    if fingerprints and noise.fitted_for not in (None, same_for_copies(fingerprints)):
        raise InputError(f"--noise_path {config.noise_path}", f"was fitted for another model than {card.source}")

    local = card.file or Path(card.source).is_dir()
    level_range = bank = factors = None  # None: an option that is the usual one
    if config.level_range != (0, 1):
        level_range = level_range_text(config.level_range)
    if noise.bank is not None:
        bank = sha256(noise.bank.numpy().tobytes())
    if (weights != 1).any():
        factors = sha256(weights.tobytes())
    return {
        "version": config.version,
        "n_trials": config.n_trials,
        "loss": config.loss,
        "seed": config.seed,
        "search": schedule.search,
        **schedule.options,
        **fingerprints,
        "img_size": card.image_size,
        "model": config.version if local else card.source,  # which of the mirrors
        "dtype": config.dtype,
        "antithetic": True if schedule.pairs else None,
        "noise": bank,
        "weights": factors,
        "levels": level_range,
    }


def same_for_copies(fingerprints: dict[str, str]) -> dict[str, str]:
    """The fingerprints of loading.check_weights that a copy of the model has too: noise is fitted for all copies."""
    same = dict(fingerprints)
    same.pop("configuration", None)
    return same
