"""From options to what a run does: which images, on which device, at which points, in which search."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion import InputError, InputWarning, one_line
from diffusion.core import constants
from diffusion.core.search import Search, band, draws, raced, van_der_corput
from diffusion.evaluate import sharding
from diffusion.evaluate.options import Parser, at_least_one, not_negative, refuse
from diffusion.io import wording
from diffusion.io.atomic import sha256
from diffusion.io.reading import check_pt, read_npy
from diffusion.models import loading
from diffusion.runs import naming
from diffusion.settings import use_exact_float32

RACE_ONLY = ["z", "max_samples", "budget"]


# ---- images ----


def my_images(args, labels: list, most: int | None = None, environ=os.environ) -> tuple[list[int], list[int]]:
    """The dataset indices of the run, ascending (the first `most`), and this worker's, as `environ` says.

    Which of how many workers that is stands in args afterwards. labels [images] of the data set: what --per_class and
    --limit, which come after --subset_path, are spread over.
    """
    not_negative(args, "grace")
    at_least_one(args, "limit", *(["per_class"] if "per_class" in args else []))
    args.worker_idx, args.n_workers = sharding.share(args.n_workers, args.worker_idx, environ, args.shard)
    chosen = np.arange(len(labels))
    if args.subset_path:
        given = f"--subset_path {args.subset_path}"
        chosen = read_npy(args.subset_path, given)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) == 0:
            raise InputError(given, f"holds {chosen.dtype} {list(chosen.shape)}, wanted a list of indices")
        chosen = np.unique(chosen)
        if chosen[0] < 0 or chosen[-1] >= len(labels):
            outside = chosen[0] if chosen[0] < 0 else chosen[-1]
            raise InputError(given, f"index {outside} is outside the data set's 0..{len(labels) - 1}")
    chosen = spread_over(chosen.tolist(), labels, getattr(args, "per_class", None), args.limit)[:most]
    return chosen, chosen[args.worker_idx :: args.n_workers]


def spread_order(n: int) -> list[int]:
    """range(n) in an order whose every beginning is spread over all of it: floor(n v) of van der Corput's shares v. [n]

    Places that come again are passed over.
    """
    if n == 0:
        return []
    bits = (n - 1).bit_length()
    return list(dict.fromkeys(n * m >> bits for m in van_der_corput(bits)))


def spread_over(chosen: list[int], labels: list, per_class: int | None, limit: int | None) -> list[int]:
    """Of some images, `per_class` of each label, then `limit` of the labels in turn; of each label spread over all.

    Fewer are a part of more: all are the beginning of one order, in which the k-th images of all labels come before
    any (k + 1)-th, and labels and the images of each in the order of `spread_order`. Warns of labels that have fewer
    than `per_class`.
    """
    of: dict = {}
    for index in chosen:
        of.setdefault(labels[index], []).append(index)
    known = sorted(of)
    if per_class is not None:
        fewer = [f"{label} ({len(of[label])})" for label in known if len(of[label]) < per_class]
        if fewer:
            some = f"--per_class {per_class}: fewer images of class {wording.few(fewer, 10)}"
            warnings.warn(some, InputWarning, stacklevel=2)
    ordered = []
    for place, k in enumerate(spread_order(len(known))):
        images = of[known[k]]
        for turn, n in enumerate(spread_order(len(images))[:per_class]):
            ordered.append((turn, place, images[n]))
    ordered.sort()
    return sorted(index for _, _, index in ordered[:limit])


def in_turns(chosen: list[int], labels: list) -> list[int]:
    """The same images in an order whose every beginning has its share of each label: accuracy means something early."""
    of: dict = {}
    for index in chosen:
        of.setdefault(labels[index], []).append(index)
    place = {index: (k + 0.5) / len(each) for each in of.values() for k, index in enumerate(each)}
    return sorted(chosen, key=lambda index: (place[index], index))


# ---- models ----


def card_of(args, loras: Iterable[tuple[str, ...]] = (), tokens: Mapping[str, str] | None = None) -> loading.Card:
    """What the configuration of a text-to-image model says, of these options.

    `loras` and `tokens` are those that prompts have for themselves, as Prompts and lora.own_tokens tell them.
    """
    added = {"lora": args.lora, "embeddings": args.embeddings, "t5": args.t5, "config": args.config}
    card = loading.read_card(args.version, args.img_size, **added)
    own = tuple(dict.fromkeys(chain.from_iterable(loras)))
    if own and args.compile:
        raise InputError("--compile", "not with prompts that have LoRAs of their own, for each of which it starts anew")
    return replace(card, own_lora=own, own_tokens=tuple((tokens or {}).items()))


def pick_device(args) -> tuple[torch.device, str]:
    """The device and the dtype's name, from --device and --dtype or what the machine has.

    From then on float32 means float32: on CUDA, torch by default lets convolutions use TF32.
    """
    use_exact_float32()
    local_rank = os.environ.get("LOCAL_RANK")  # torchrun's
    if torch.cuda.is_available():
        best = f"cuda:{local_rank}" if local_rank else "cuda"
    else:
        best = "mps" if torch.backends.mps.is_available() else "cpu"
    device = loading.find_device(args.device or best, f"--device {args.device or best}")
    dtype = args.dtype or ("float16" if device.type == "cuda" else "float32")
    if getattr(args, "compile", False) and device.type != "cuda":
        raise InputError("--compile", f"is for CUDA, the device is {device}")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("--dtype float16", "CPUs compute it hundreds of times slower; use bfloat16 or float32")
    return device, dtype


SMALL = 100e6  # bytes of weights; a network of fewer is no faster on several threads (docs/speed.md)


def share_cores(args, device: torch.device, size: float = np.inf, environ=os.environ) -> None:
    """On a CPU, take this worker's part of the cores, or one for a model of few bytes, and say so.

    OMP_NUM_THREADS says it better. Tasks of Slurm have cores of their own.
    """
    if device.type != "cpu" or "OMP_NUM_THREADS" in environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = 1 if "SLURM_JOB_ID" in environ else args.n_workers
    threads = 1 if size < SMALL else max(1, cores // workers)
    torch.set_num_threads(threads)
    why = "the model is small" if size < SMALL else f"{workers} workers" if workers > 1 else "one worker"
    tqdm.write(f"CPU: {threads} of {cores} cores, {why}; OMP_NUM_THREADS=N takes N")


def load(args, card: loading.Card, device: torch.device, dtype: str) -> loading.Model:
    """Load the model, after lines that say how large it is and, on a CPU, how many cores it takes."""
    told = getattr(torch, dtype)
    size = loading.weights_size(card, told) / 1e9
    share_cores(args, device, 1e9 * size)
    without = ", without T5 (--t5 loads it)" if card.lacks_t5 else ""
    name, configured = args.version or card.source, "configured as " if card.file else ""
    mirror = "" if name == card.source or Path(card.source).is_dir() else f" ({configured}{card.source})"
    tqdm.write(f"{name}{mirror}: {size:,.2f} GB of weights, the network's in {dtype}{without}")
    return loading.load_model(card, dtype=told, device=device, compiled=args.compile, offload=args.offload)


# ---- points ----


@dataclass(frozen=True)
class Points:
    """Where every image is measured, in which order, and by which search."""

    levels: np.ndarray  # [P]
    rows: np.ndarray  # [P] the draw of noise of each point
    weights: np.ndarray  # [T] what an error counts at each level
    start: Callable[[np.ndarray], Search]  # of the search between some rows of what competes
    bank: torch.Tensor | None  # noise [n, c, h, w] for all images; else each has its own
    fitted: dict | None = None  # what is known of the weights of the model that this noise was fitted for, if it was
    signs: np.ndarray | None = None  # [P] 1 or -1, what the draw of each point is multiplied by


def points_of(
    args,
    card: loading.Card,
    levels: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    start: Callable,
    *,
    randomize: bool,
) -> Points:
    """Levels [P] of search.staged or search.raced, in stages that `ends` [stages] bounds, with their noise."""
    rows, signs = draws(levels, ends, args.n_trials, randomize=randomize, antithetic=in_pairs(args))
    bank, fitted = read_bank(args, levels, rows, card.latent) if args.noise_path else (None, None)
    return Points(levels, rows, weights, start, bank, fitted, signs)


def in_pairs(args) -> bool:
    """Whether --noise is antithetic; which it is stands in args afterwards."""
    args.noise = args.noise or constants.usual_noise(args.search, args.noise_path)
    return args.noise == "antithetic"


def warn_of_one_draw(points: Points, most: int = 25) -> None:
    """Say that one draw of noise for many levels makes them alike (arXiv 2303.16203, figure 2)."""
    if (n := len(np.unique(points.levels[points.rows == points.rows[0]]))) > most:
        alike = f"{n} noise levels share a draw of noise, and so many are so alike that more than {most} add little"
        better = "--randomize_noise draws for each level, --n_trials more often"
        if points.signs is None:
            better += ", --noise antithetic takes the draw and its negative in turn, for the same cost"
        warnings.warn(f"{alike}; {better}", InputWarning, stacklevel=2)


def levels_of(args, T: int) -> np.ndarray:
    """The levels that --levels leaves, ascending; InputError where it is no part of the schedule."""
    args.levels = args.levels or constants.usual_levels(args.search)
    ends = re.fullmatch(r"([0-9]*\.?[0-9]+)-([0-9]*\.?[0-9]+)", args.levels)
    low, high = map(float, ends.groups()) if ends else (1, 0)
    if not low < high <= 1 or len(chosen := band(low, high, T)) < 2:
        wanted = f"wanted two shares of the {T} noise levels, such as {constants.usual_levels('race')}"
        raise InputError(f"--levels {args.levels}", wanted)
    args.levels = f"{low:g}-{high:g}"
    return chosen


def race_of(
    args, arms: np.ndarray, usable: np.ndarray, most: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, Callable[[np.ndarray], Search]]:
    """Levels in the order of a race, of the usable ones, and `start(among)`, a race between those of the classes.

    arms [classes] is how many arms each has, `most` how many race at most; groups [classes], if any, race first.
    """
    if not args.z > 0:
        raise InputError(f"--z {args.z:g}", "must be greater than 0")
    args.max_samples = min(500, len(usable)) if args.max_samples is None else args.max_samples
    if not 2 <= args.max_samples <= len(usable):
        of = f"the levels of --levels {args.levels}" + (" whose --weights are not 0" if args.weights else "")
        raise InputError(f"--max_samples {args.max_samples}", f"must be in 2..{len(usable)}, {of}")
    if args.budget is not None and args.budget < 2 * most:
        raise InputError(f"--budget {args.budget}", f"the first look alone takes {2 * most} NFE, two of each prompt")
    if args.budget is not None and groups is not None:
        raise InputError(f"--budget {args.budget}", "not with prompts that have groups")
    budget = np.inf if args.budget is None else args.budget
    pairs = in_pairs(args)
    return raced(usable, arms, args.z, args.max_samples, budget, args.n_trials, groups, pairs=pairs)


def read_bank(
    args, levels: np.ndarray, rows: np.ndarray, latent: tuple[int, int, int]
) -> tuple[torch.Tensor, dict | None]:
    """The rows of a noise bank that points take, levels [P] and rows [P]: [rows.max() + 1, c, h, w].

    And, of one that scripts/adapt.py wrote, the model that it is for. Raises InputError when the bank does not fit, or
    was fitted for other levels or another loss.
    """
    path, points = args.noise_path, rows.max() + 1
    try:
        check_pt(path)
        bank = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise InputError(f"--noise_path {path}", f"cannot be read ({one_line(error)})") from None
    fitted = None
    if isinstance(bank, dict) and bank.keys() == {"noise", "levels", "loss", "model"}:
        if in_pairs(args):
            raise InputError("--noise antithetic", f"--noise_path {path} was fitted; wanted --noise independent")
        of, loss, fitted, bank = bank["levels"], bank["loss"], bank["model"], bank["noise"]
        if len(of) < points or of[rows].tolist() != levels.tolist():
            fit, asked = (wording.few(np.unique(each).tolist(), 5) for each in (of, levels))
            wanted = "wanted the same --levels, as many points, and for each its own draw (--randomize_noise)"
            raise InputError(f"--noise_path {path}", f"was fitted for the levels {fit}, not {asked}; {wanted}")
        if loss != args.loss:
            raise InputError(f"--noise_path {path}", f"was fitted for --loss {loss}, not {args.loss}")
    if not isinstance(bank, torch.Tensor) or tuple(bank.shape[1:]) != latent:
        found = list(bank.shape) if isinstance(bank, torch.Tensor) else type(bank).__name__
        wanted = f"the model's latents need [n, c, h, w] = {['n', *latent]}"
        raise InputError(f"--noise_path {path}", f"holds {found}, {wanted}")
    if len(bank) < points:
        raise InputError(f"--noise_path {path}", f"holds {len(bank)} draws, the schedule needs {points}")
    return bank[:points].float(), fitted


def fitted_for(known: dict[str, str]) -> dict[str, str]:
    """Of what models.check_weights knows, what noise is fitted for: a copy of a model is the same."""
    return {key: value for key, value in known.items() if key != "configuration"}


# ---- candidates ----


def first_stage(args, parser: Parser, dataset, mine: list[int], arms: list[tuple], prompts: Callable) -> tuple:
    """The stage of candidates.py that --candidates asks for, or a column of the data's table; else nothing.

    With the column, --candidates K stands in args afterwards: the most classes that an image has. arms as in run.json.
    """
    class_ids = np.unique([class_id for *_, class_id in arms])
    if args.candidates is None and not dataset.candidates:
        refuse(args, parser, ["candidates_from", "pretrained"], "is for --candidates K")
        return {}, "", None
    from diffusion.evaluate import candidates

    if dataset.candidates:
        said = f"the column candidates of {dataset.name} says which classes compete"
        refuse(args, parser, ["candidates", "candidates_from", "pretrained"], said)
        stage = candidates.by_column(dataset, class_ids, arms)
        args.candidates = stage[0]["candidates"]
        return stage
    return candidates.first_stage(
        args.candidates, args.candidates_from, args.pretrained, dataset, mine, class_ids, prompts
    )


def most_arms(args, arm_class: np.ndarray) -> int:
    """How many arms compete at most: those of the --candidates largest classes; arm_class [arms] of rows 0..K-1."""
    return int(np.sort(np.bincount(arm_class))[-(args.candidates or 0) :].sum())


# ---- run.json and its folder ----


def model_tag(args) -> str:
    """The model in the name of a run's folder."""
    return naming.model_tag(args.version, args.t5, [*(args.lora or []), *(args.embeddings or [])])


def search_tag(args, interval: int | None = None, to_keep: Iterable[int] = (), n_samples: Iterable[int] = ()) -> str:
    """The search in the name of a run's folder: a race, or a grid of every `interval`-th level, or stages."""
    trials = f"{args.n_trials}trials"
    if args.search == "race":
        budget = "" if args.budget is None else f"_{args.budget}NFE"
        return f"{trials}_race_{args.z:g}z_{args.max_samples}samples{budget}"
    if args.search not in ("halving", "grid"):  # a search of the caller's
        return f"{trials}_{args.search}"
    if interval:
        return f"t{interval}_{trials}"
    return f"{trials}_{'_'.join(map(str, to_keep))}keep_{'_'.join(map(str, n_samples))}samples"


def suffixes(args, interpolation: str | None, more: str = "") -> str:
    """The rest of that name, where options are not the usual ones; `more` comes before what is said of levels."""
    return naming.joined(
        getattr(args, "randomize_noise", False) and "randnoise",
        naming.unusual(getattr(args, "interpolation", None), interpolation),
        naming.unusual(args.loss, "l2"),
        naming.unusual(getattr(args, "img_size", None), None, 512),
        more,
        args.levels != constants.usual_levels(args.search) and f"levels{args.levels}",
        naming.unusual(args.noise, constants.usual_noise(args.search, args.noise_path)),
        args.weights and f"w{naming.tag(args.weights.stem)}",
    )


def data_options(args, dataset) -> dict:
    """What a run tells of a data set of classes: name, fingerprint, split, and what was asked for beside.

    And the ranges of its images of more than 8 bits, which decide what the model sees.
    """
    asked = {flag: getattr(args, flag) for flag in ("image_column", "label_column", "value_range")}
    more = {flag: value for flag, value in asked.items() if value}
    if dataset.ranges and not args.value_range:
        more["ranges"] = {kind: list(span) for kind, span in dataset.ranges.items()}
    return {"dataset": dataset.name, "data": dataset.fingerprint, "split": args.split} | more


def options_of(args, flags: Iterable[str], card: loading.Card, data: dict, dtype: str, points: Points) -> dict:
    """What every run of a diffusion model tells: `data`, these options, and those that all have.

    Halving's schedule is left to the caller. InputError where no level that is measured counts.
    """
    if not points.weights[points.levels].any():
        none = f"0 at each of the {len(points.levels)} levels that are measured"
        raise InputError(f"--weights {args.weights}", none)
    everywhere = ["version", "n_trials", "loss", "seed", "search"]
    race_only = RACE_ONLY if args.search == "race" else []
    known = loading.check_weights(card)
    if points.fitted not in (None, fitted_for(known)):
        raise InputError(f"--noise_path {args.noise_path}", f"was fitted for another model than {card.source}")
    return (
        data
        | {flag: getattr(args, flag) for flag in (*everywhere, *race_only, *flags)}
        | {
            **known,
            "img_size": card.image_size,
            "model": args.version if card.file or Path(card.source).is_dir() else card.source,  # which of the mirrors
            "dtype": dtype,
            "antithetic": True if args.noise == "antithetic" else None,
            "noise": None if points.bank is None else sha256(points.bank.numpy().tobytes()),
            "weights": sha256(points.weights.tobytes()) if (points.weights != 1).any() else None,
            "levels": None if args.levels == "0-1" else args.levels,
        }
    )
