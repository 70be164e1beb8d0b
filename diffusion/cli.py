"""What the command lines share: bad input as one line and exit code 2, the device, the shards, the table."""

import argparse
import itertools
import json
import os
import re
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion import InputError, InputWarning, calibration, cluster, metrics, models, one_line, records
from diffusion.search import MIDDLE, Search, band, race, spread_sequence, tree

LOG_DIR = Path(os.environ.get("LOG_DIR", "data"))
DATASET_ROOT = Path(os.environ.get("DATASET_ROOT", "/datasets"))
RIGHT, WRONG = "#1a7f37", "#cf222e"  # the colours of every picture
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def run(main) -> None:
    """Run a script's `main(argv) -> exit code`: InputError is one line and exit code 2, a bug keeps its traceback."""
    program = Path(sys.argv[0]).name
    warnings.simplefilter("ignore")  # what the libraries say to their programmers
    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = lambda message, *_: print(f"{program}: warning: {one_line(message, None)}", file=sys.stderr)
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"{program}: {one_line(error, None)}", file=sys.stderr)  # names may hold line breaks
        sys.exit(2)
    except cluster.Stopped as by:
        saved = "what is measured is saved, the same command goes on from there"
        print(f"{program}: ended by {by}; {saved}", file=sys.stderr)
        sys.exit(cluster.STOPPED)
    except torch.OutOfMemoryError as error:
        smaller = "try a smaller --batch_size, --dtype float16 or bfloat16, or --offload; what is measured is saved"
        print(f"{program}: out of memory, {smaller}: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)


def add_device_options(parser: argparse.ArgumentParser, dtype: str | None = None) -> None:
    default = dtype or "float16 on CUDA, else float32"
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"of the network; default {default}")
    parser.add_argument("--device", help="cuda, cuda:1, mps, cpu; default the best there is")


def add_model_options(parser: argparse.ArgumentParser, dtype: str | None = None) -> None:
    add_device_options(parser, dtype)
    parser.add_argument("--batch_size", "-b", type=int, default=32, help="evaluations in one network call")
    parser.add_argument("--in_flight", type=int, help="images at work at a time, at most; default: as fill the batch")
    parser.add_argument("--offload", action="store_true", help="text encoders and VAE on the device only while at work")
    parser.add_argument("--compile", action="store_true", help="compile the network (CUDA); the first call takes long")


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """What else a text-to-image model may be loaded with."""
    parser.add_argument("--config", help="of a single file: hub id or folder of a model of its kind; default: a guess")
    loras = "LoRAs to add to the weights: hub ids, folders or files, each perhaps with a weight as in A:0.7"
    parser.add_argument("--lora", nargs="+", help=loras)
    parser.add_argument("--embeddings", nargs="+", help="textual inversion: files or hub ids of tokens for prompts")
    parser.add_argument(
        "--t5", action="store_true", default=None, help="Stable Diffusion 3: load its T5 too (float16: 9.5 GB)"
    )


def add_candidate_options(parser: argparse.ArgumentParser) -> None:
    kept = "search only the so many classes of each image that --candidates_from likes best"
    parser.add_argument("--candidates", type=int, metavar="K", help=kept)
    free = "clip:ViT-L/14, or another CLIP (its evaluation is no NFE); a npy file of scores [images, classes]"
    run = "the folder of a finished run on the same images"
    parser.add_argument("--candidates_from", metavar="FROM", help=f"{free}; or {run}")
    parser.add_argument("--pretrained", help="of that CLIP: open_clip's tag of the weights, or a file")


def first_stage(
    args, parser: argparse.ArgumentParser, dataset, mine: list[int], class_ids: np.ndarray, prompts: Callable
) -> tuple[dict, str, Callable]:
    """--candidates: its options for run.json, its part of the folder's name, and `load(dtype, device)`.

    class_ids [K] ascending of the classes that compete; prompts() has the same; `mine` of the data set's images are
    asked for. What is loaded is `pick(index, image)`: which rows of class_ids compete, the likeliest first, and what
    the record says of that; without --candidates, all of them, and nothing.
    """
    if args.candidates is None:
        refuse(args, parser, ["candidates_from", "pretrained"], "is for --candidates K")
        return {}, "", lambda *_: lambda *_: (np.arange(len(class_ids)), {})
    given = f"--candidates {args.candidates}"
    if not 2 <= args.candidates <= len(class_ids):
        raise InputError(f"{given}: must be in 2..{len(class_ids)}, the classes")
    if args.candidates_from is None:
        raise InputError(f"{given}: wanted --candidates_from too, clip:NAME, a npy file or the folder of a run")
    from diffusion import candidates

    options = {"candidates": args.candidates, "candidates_from": args.candidates_from}
    kind, _, name = args.candidates_from.partition(":")
    if kind == "clip" and name:
        told = prompts()
        if (unknown := np.setxor1d(told.classes, class_ids)).size:
            raise InputError(f"{given}: the prompts and the model differ in the classes {unknown[:10].tolist()}")
        weights, load_scores = candidates.by_clip(name, args.pretrained, told, "--candidates_from clip:")
        options |= {"pretrained": weights, "candidate_prompts": records.sha256(repr((told.texts, told.classes)))}
        of = f"clip_{clip_tag(name)}"

        def load(dtype: str, device) -> Callable:
            scores = load_scores(dtype, device)
            return lambda _, image: chosen(candidates.best(scores(image), args.candidates))

    elif os.path.isdir(args.candidates_from):
        refuse(args, parser, ["pretrained"], "is for --candidates_from clip:NAME")
        path = Path(args.candidates_from)
        images = {"dataset": args.dataset, "split": args.split, "data": fingerprint(dataset.labels)}
        try:
            folder, run = first_run(path, images)
            pick = candidates.by_run(folder, run, args.candidates, class_ids, mine)
        except InputError as error:  # begins with the folder
            raise InputError(f"--candidates_from {error}") from None
        options["candidates_from"] = f"run, sha256 {records.sha256(json.dumps(run['options'], sort_keys=True))}"
        told = Path(os.path.abspath(folder))
        of = f"run_{tag((told.parent if told.name == args.split else told).name)}"

        def load(*_) -> Callable:
            def choose(index: int, _) -> tuple[np.ndarray, dict]:
                rows, nfe = pick(index)
                return chosen(rows, first_nfe=nfe)

            return choose

    else:
        refuse(args, parser, ["pretrained"], "is for --candidates_from clip:NAME")
        path = Path(args.candidates_from)
        flag = f"--candidates_from {path}"
        scores = read_npy(path, flag, "; else wanted clip:NAME or the folder of a run")
        scores = candidates.check_scores(scores, flag, len(dataset), len(class_ids))
        options["candidates_from"] = f"npy, sha256 {records.sha256(scores.tobytes())}"
        of = tag(path.stem)

        def load(*_) -> Callable:
            return lambda index, _: chosen(candidates.best(scores[index], args.candidates))

    def chosen(rows: np.ndarray, **more) -> tuple[np.ndarray, dict]:
        return rows, {"candidates": class_ids[rows].tolist(), **more}

    return options, f"_{args.candidates}of_{of}", load


def first_run(path: Path, images: dict) -> tuple[Path, dict]:
    """The folder of a run on these images (dataset, split and fingerprint), and its run.json.

    DiT's is named with or without its last part, the split. InputError, beginning with the folder, unless the run can
    rank the classes of each of these images.
    """
    inner = path / images["split"]
    folder = inner if (inner / "run.json").exists() else path
    run = records.read_run(folder)
    answers(folder, run)
    for key, wanted in images.items():
        if (found := run["options"].get(key)) != wanted:
            raise InputError(f"{folder}: a run on other images: {key} is {found!r:.90}, wanted {wanted!r:.90}")
    return folder, run


def most_arms(args, arm_class: np.ndarray) -> int:
    """How many arms compete at most: those of the --candidates largest classes; arm_class [arms] of rows 0..K-1."""
    return int(np.sort(np.bincount(arm_class))[-(args.candidates or 0) :].sum())


RACE_ONLY = ["z", "max_samples", "budget"]
USUAL = {"race": "{:g}-{:g}".format(*MIDDLE)}  # --search -> --levels; of others all, 0-1


def add_search_options(parser: argparse.ArgumentParser, default: str) -> None:
    """--search: `default`, or race with its options."""
    parser.add_argument(
        "--search", choices=[default, "race"], default=default, help="how levels are spent; default %(default)s"
    )
    parser.add_argument(
        "--z", type=float, default=3.0, help="race: standard errors a class must lose by; default %(default)g"
    )
    parser.add_argument("--max_samples", type=int, help="race: noise levels, if need be; default 500, or all there are")
    parser.add_argument("--budget", type=int, help="race: NFE per image, at most; then the leader is taken, undecided")
    middle = (
        f"only noise levels between these shares of the schedule; default {USUAL['race']} for a race, else 0-1, all"
    )
    parser.add_argument("--levels", metavar="A-B", help=middle)
    weights = "csv of level,weight: what errors count there; between its levels, linearly interpolated"
    parser.add_argument("--weights", type=Path, metavar="CSV", help=weights)


def levels_of(args, T: int) -> np.ndarray:
    """The levels that --levels leaves, ascending; InputError where it is no part of the schedule."""
    args.levels = args.levels or USUAL.get(args.search, "0-1")
    ends = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", args.levels)
    low, high = map(float, ends.groups()) if ends else (1, 0)
    if not low < high <= 1 or len(chosen := band(low, high, T)) < 2:
        raise InputError(f"--levels {args.levels}: wanted two shares of the {T} noise levels, such as {USUAL['race']}")
    args.levels = f"{low:g}-{high:g}"
    return chosen


def warn_of_one_draw(args, levels: np.ndarray, most: int = 25) -> None:
    """Say that one draw of noise for many levels makes them alike (arXiv 2303.16203, figure 2)."""
    if not args.randomize_noise and (n := len(np.unique(levels))) > most:
        alike = f"{n} noise levels share a draw of noise, and so many are so alike that more than {most} add little"
        better = "--randomize_noise draws for each level, --n_trials more often"
        warnings.warn(f"{alike}; {better}", InputWarning, stacklevel=2)


def race_of(
    args, arms: np.ndarray, usable: np.ndarray, most: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, Callable[[np.ndarray], Search]]:
    """Levels in the order of a race, of the usable ones, and `start(among)`, a race between those of the classes.

    arms [classes] is how many arms each has, `most` how many race at most; groups [classes], if any, race first.
    """
    if not args.z > 0:
        raise InputError(f"--z {args.z:g}: must be greater than 0")
    args.max_samples = min(500, len(usable)) if args.max_samples is None else args.max_samples
    if not 2 <= args.max_samples <= len(usable):
        of = f"the levels of --levels {args.levels}" + (" whose --weights are not 0" if args.weights else "")
        raise InputError(f"--max_samples {args.max_samples}: must be in 2..{len(usable)}, {of}")
    if args.budget is not None and args.budget < 2 * most:
        raise InputError(f"--budget {args.budget}: the first look alone takes {2 * most} NFE, two of each prompt")
    levels = np.repeat(usable[spread_sequence(args.max_samples, len(usable))], args.n_trials)
    if groups is not None and args.budget is not None:
        raise InputError(f"--budget {args.budget}: not with prompts that have groups")
    if groups is not None:
        return levels, lambda among: tree(levels, arms[among], groups[among], args.z)
    budget = np.inf if args.budget is None else args.budget
    return levels, lambda among: race(levels, arms[among], args.z, budget)


def refuse(args, parser: argparse.ArgumentParser, names: Iterable[str], why: str) -> None:
    """Raises InputError when one of these options was given."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise InputError(f"--{name}: {why}")


def search_options(args, weights: np.ndarray, levels: np.ndarray) -> dict:
    """What of a search goes into run.json, beside halving's schedule; weights [T] of all levels, levels [P] used."""
    if not weights[levels].any():
        raise InputError(f"--weights {args.weights}: 0 at each of the {len(levels)} levels that are measured")
    names = ["search", *(RACE_ONLY if args.search == "race" else [])]
    told = records.sha256(weights.tobytes()) if (weights != 1).any() else None
    part = None if args.levels == "0-1" else args.levels
    return {name: getattr(args, name) for name in names} | {"weights": told, "levels": part}


def race_tag(args) -> str:
    """A race in the name of a run's folder."""
    budget = "" if args.budget is None else f"_{args.budget}NFE"
    return f"race_{args.z:g}z_{args.max_samples}samples{budget}"


def levels_tag(args) -> str:
    """Levels and their weights in the name of a run's folder."""
    levels = "" if args.levels == USUAL.get(args.search, "0-1") else f"_levels{args.levels}"
    return levels + (f"_w{tag(args.weights.stem)}" if args.weights else "")


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    here = "default: what torchrun says, or --shard, else"
    told = os.environ.get("DIFFUSION_SHARD")  # as scripts/slurm_array.sh sets it
    array = "split the images over the tasks of Slurm's job array; without it an array may be one over an option"
    parser.add_argument("--shard", choices=["array"], default=told, help=array)
    parser.add_argument("--n_workers", type=int, help=f"split the images over this many workers; {here} 1")
    parser.add_argument("--worker_idx", type=int, help=f"which of them this is: it takes images[w::n]; {here} 0")
    parser.add_argument(
        "--grace", type=float, default=20, help="seconds to finish images in after SIGTERM or SIGUSR1; default 20"
    )
    parser.add_argument("--subset_path", type=Path, help="npy file of the dataset indices to evaluate")


def pick_device(args) -> tuple[torch.device, str]:
    """The device and the dtype's name, from --device and --dtype or what the machine has."""
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    cuda = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # torchrun's
    best = cuda if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(args.device or best)
        torch.empty(1, device=device).cpu()  # "meta" gives no numbers back
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {args.device}: not to be had here ({str(error).splitlines()[0]})") from None
    dtype = args.dtype or ("float16" if device.type == "cuda" else "float32")
    if getattr(args, "compile", False) and device.type != "cuda":
        raise InputError(f"--compile: is for CUDA, the device is {device}")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("--dtype float16: CPUs compute it hundreds of times slower; use bfloat16 or float32")
    return device, dtype


def load(args, card: models.Card, device: torch.device, dtype: str) -> models.Model:
    """Load the model, after a line that says how large it is."""
    size = models.weights_size(card, DTYPES[dtype]) / 1e9
    without = ", without T5 (--t5 loads it)" if card.lacks_t5 else ""
    tqdm.write(f"{args.version or card.source}: {size:,.2f} GB of weights, the network's in {dtype}{without}")
    return models.load_model(card, dtype=DTYPES[dtype], device=device, compiled=args.compile, offload=args.offload)


def model_tag(args) -> str:
    """The model in the name of a run's folder."""
    added = [*(args.lora or []), *(args.embeddings or [])]
    return f"v{tag(args.version)}{'_t5' if args.t5 else ''}{''.join(f'_{tag(name)}' for name in added)}"


MOST = {"n_trials": 10_000}  # draws are listed, at every level, before the first is made


def at_least_one(args, *names: str) -> None:
    for name in names:
        value, most = getattr(args, name), MOST.get(name, np.inf)
        if value is not None and not 1 <= value <= most:
            limit = f" and at most {most}" if name in MOST else ""
            raise InputError(f"--{name} {value}: must be at least 1{limit}")


def not_negative(args, *names: str) -> None:
    for name in names:
        if getattr(args, name) < 0:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 0")


def read_npy(path: Path, given: str, otherwise: str = "") -> np.ndarray:
    """The array in a npy file; InputError, beginning with what was `given`, where it is none."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, MemoryError, RecursionError) as error:  # a header may ask for any size
        raise InputError(f"{given}: cannot be read as npy ({error}){otherwise}") from None


def my_images(args, total: int, most: int | None = None, environ=os.environ) -> tuple[list[int], list[int]]:
    """The dataset indices of the run, ascending (the first `most`), and this worker's, as `environ` says."""
    not_negative(args, "grace")
    worker_idx, n_workers = cluster.share(args.n_workers, args.worker_idx, environ, args.shard)
    chosen = np.arange(total)
    if args.subset_path:
        chosen = read_npy(args.subset_path, f"--subset_path {args.subset_path}")
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) == 0:
            raise InputError(
                f"--subset_path {args.subset_path}: holds {chosen.dtype} {list(chosen.shape)}, wanted a list of indices"
            )
        chosen = np.unique(chosen)
        if chosen[0] < 0 or chosen[-1] >= total:
            raise InputError(
                f"--subset_path {args.subset_path}: index {chosen[0] if chosen[0] < 0 else chosen[-1]} is outside the"
                f" data set's 0..{total - 1}"
            )
    chosen = chosen[:most].tolist()
    return chosen, chosen[worker_idx::n_workers]


def read_bank(path: Path, points: int, latent: tuple[int, int, int]) -> torch.Tensor:
    """The first `points` rows [points, c, h, w] of a noise bank. Raises InputError when it does not fit."""
    try:
        bank = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise InputError(f"--noise_path {path}: cannot be read ({one_line(error)})") from None
    if not isinstance(bank, torch.Tensor) or tuple(bank.shape[1:]) != latent:
        found = list(bank.shape) if isinstance(bank, torch.Tensor) else type(bank).__name__
        raise InputError(
            f"--noise_path {path}: holds {found}, the model's latents need [n, c, h, w] = {['n', *latent]}"
        )
    if len(bank) < points:
        raise InputError(f"--noise_path {path}: holds {len(bank)} draws, the schedule needs {points}")
    return bank[:points].float()


def tag(name: str) -> str:
    """A path, hub id or data set's name as one part of a folder name."""
    last = name.removeprefix("hf:").strip("/").removesuffix(".csv").split("/")[-1]
    return re.sub(r"[^\w.+-]+", "_", last).strip("_.") or "data"


def clip_tag(name: str) -> str:
    """The name of a CLIP, such as ViT-L/14, or its folder, as one part of a folder name."""
    return tag(name if os.path.isdir(os.path.expanduser(name)) else name.replace("/", "-"))


def extra(text: str | None) -> str:
    """The suffix that --extra gives to the folder of a data set."""
    if text is None:
        return ""
    if not re.fullmatch(r"[\w.+-]{1,100}", text):
        raise InputError(f"--extra {text!r}: becomes part of a folder's name: letters, digits and . _ + - only")
    return "_" + text


def bounds(words: Iterable[str]) -> list[tuple[int, int]]:
    """First and last number of words such as 7 and 0-99."""
    ends = [[int(end) for end in word.split("-")] for word in words]
    return [(first_last[0], first_last[-1]) for first_last in ends]


def numbers(words: Iterable[str]) -> list[int]:
    """Ascending numbers from words such as 7 and 0-99."""
    return sorted({n for first, last in bounds(words) for n in range(first, last + 1)})


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as words that `numbers` reads: "0-99 200"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1][1:] = [n]
        else:
            runs.append([n])
    return " ".join("-".join(map(str, run)) for run in runs)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, and no $, between which matplotlib would read mathematics."""
    short = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return short.replace("$", r"\$")


def in_percent(p: float, interval: tuple[float, float]) -> str:
    """A share and its interval in a table's cell."""
    return f"{100 * p:.2f} ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def percent(p: float, interval: tuple[float, float]) -> str:
    return f"{100 * p:.2f}%  (95% interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def options_of(args, names: Iterable[str], card, data: list, dtype: str, bank: torch.Tensor | None) -> dict:
    """What goes into run.json: the options `names`, and what every run's numbers depend on; `data` is its labels."""
    return (
        {name: getattr(args, name) for name in names}
        | models.check_weights(card)
        | {
            "img_size": card.image_size,
            "model": args.version if card.file or Path(card.source).is_dir() else card.source,  # which of the mirrors
            "data": fingerprint(data),
            "dtype": dtype,
            "noise": records.sha256(bank.numpy().tobytes()) if bank is not None else None,
        }
    )


def fingerprint(data: list) -> str:
    """Of a data set's labels: an image more or less would shift the others."""
    return f"{len(data)}, sha256 {records.sha256(repr(data))}"


def join_run(folder: Path, options: dict, about: dict, mine: list[int]) -> tuple[list[int], list[dict]]:
    """Open the run's folder; which of the images `mine` are still to do, and the rows of the others.

    A file that is no record of its image is named, and its image is to do.
    """
    records.open_run(folder, options, about)
    there = records.clean(folder, mine)
    rows, problems = read_rows((there[k] for k in mine if k in there), own=True)
    for problem in problems:
        warnings.warn(f"{problem}; the image is measured again", InputWarning, stacklevel=2)
    done = {row["index"] for row in rows}
    return [k for k in mine if k not in done], rows


def check_picture(path: Path | None) -> None:
    """InputError where `save_figure` would find no such folder, or the suffix no picture's: before the work."""
    if path is None:
        return
    from matplotlib.figure import Figure

    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise InputError(f"{path}: cannot be written: wanted a file in a folder that exists")
    if path.suffix[1:].lower() not in (known := Figure().canvas.get_supported_filetypes()):
        raise InputError(f"{path}: cannot be written: supported are .{', .'.join(known)}")


def save_figure(figure, path: Path, dpi: int) -> None:
    """Save a matplotlib figure; InputError when it cannot be written."""
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None


def read_rows(paths: Iterable[Path], *, own: bool, change=None, **wanted) -> tuple[list[dict], list[str]]:
    """The index, pred, label and nfe of records, and what is wrong with those that cannot be read.

    `own`: published records will not do. `change(record)` may decide again while the errors are at hand, which
    are as `wanted` of records.load_record; they are not kept, since they do not fit in memory, nor read without it.
    """
    rows, problems = [], []
    for path in paths:
        try:
            record = records.load_record(path, own=own, lazily=change is None, **wanted)
            rows.append(brief(change(record) if change else record))
        except InputError as error:
            problems.append(str(error))
    return rows, problems


def read_scores(folder: Path, run: dict, loss: str) -> tuple[list[dict], list[str]]:
    """The images done of a run, and what is wrong with others; InputError where none is done.

    index, nfe, scores [K] (calibration.scores), and label and pred as columns of these: class ids ascending.
    """
    class_ids, arm_class = records.competitors(run)
    column = {int(c): k for k, c in enumerate(np.unique(class_ids))}

    def score(record: dict) -> dict:
        if record["label"] not in column:
            raise InputError(f"image {record['index']}: its label {record['label']} is no class of the run")
        pred = class_ids[metrics.rescore(record, arm_class, loss)]
        scores = calibration.scores(record, class_ids, arm_class, loss)
        return record | {"label": column[record["label"]], "pred": column[pred], "scores": scores}

    wanted = {"loss": loss, "arms": len(arm_class)}
    rows, problems = read_rows(records.finished(folder).values(), own=True, change=score, **wanted)
    if not rows:
        raise InputError(f"{folder}: {problems[0] if problems else 'no image is done yet'}")
    return rows, problems


def read_calibration(folder: Path, loss: str) -> dict:
    """What scripts/calibrate.py wrote: temperature, fit (the share it was fitted on), seed, loss.

    InputError when there is nothing of it, or it is for another loss.
    """
    path = folder / "calibration.json"
    try:
        found = json.loads(path.read_text())
        read = {key: float(found[key]) for key in ("temperature", "fit")} | {"seed": int(found["seed"])}
        if not 0 < read["temperature"] < np.inf:
            raise ValueError(f"temperature {read['temperature']}")
        if found["loss"] != loss:
            raise InputError(f"{path} was fitted for --loss {found['loss']}, wanted {loss}")
        return read
    except FileNotFoundError:
        raise InputError(f"no {path}; python scripts/calibrate.py {folder} makes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None


def read_full(
    folder: Path, loss: str, class_ids: np.ndarray, arm_class: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What a run measured that measured every class at every point; InputError where it did not.

    class_ids [K] and arm_class [arms] as records.competitors gives them -> errors [images, K, P], points in ascending
    levels, weighted where the run was; class rows [images] of the labels, -1: none's; ascending levels [P]; dataset
    indices [images]
    """
    done = records.finished(folder)
    errors, labels, levels = [], [], None
    for index, path in done.items():
        record = records.load_record(path, own=True, loss=loss, arms=len(arm_class))
        P, counts = len(record["levels"]), record["counts"]
        if len(counts) < 2 or not (counts == P).all():
            wanted = "wanted a run of one stage, such as --to_keep 1 --n_samples 500"
            raise InputError(f"{folder}, image {index}: not every class was measured at every point; {wanted}")
        ascending = np.argsort(record["levels"].numpy(), kind="stable")
        if levels is not None and not np.array_equal(levels, record["levels"].numpy()[ascending]):
            raise InputError(f"{folder}, image {index}: has other noise levels than the images before")
        levels = record["levels"].numpy()[ascending]
        of_arms = metrics.point_errors(record, loss).reshape(-1, P)[:, ascending]
        errors.append(metrics.class_means(of_arms, arm_class))
        labels.append(next(iter(np.flatnonzero(class_ids == record["label"])), -1))
    if not errors:
        raise InputError(f"{folder}: no image is done yet")
    return np.array(errors), np.array(labels), levels, np.array(list(done))


ROW = ["index", "pred", "label", "nfe", "first_nfe", "candidates", "scores", "rank"]


def failures(folder: Path, done: Iterable[int]) -> list[str]:
    """Why images have no record, one text each; a note of one that is `done` is of a worker that came too late."""
    notes = {index: note for index, note in records.failed(folder).items() if index not in done}
    return [f"image {index}: {note.read_text(errors='replace').strip()}" for index, note in notes.items()]


def brief(record: dict) -> dict:
    """Of a record, what a table needs; published files have no index and count no NFE, few have `candidates`.

    With `scores` [K] and `rank` where `change` of read_rows put them (see diffusion.calibration).
    """
    return {key: record[key] for key in ROW if key in record}


def answers(folder: Path, run: dict) -> None:
    """Raises InputError unless each record of the run is of one image and chooses among all classes."""
    if run["options"].get("cls") is not None:
        raise InputError(f"{folder}: a run over a part of the classes, so there are no answers")
    if "examples" in run:
        raise InputError(f"{folder}: a run of run_winoground.py, whose captions are no classes")


def print_accuracy(rows: list[dict], total: int, problems: list[str], top: int | None = None) -> int:
    """Print the table at the end of a run and of print_acc.py, then what is wrong; the exit code.

    With `top`, also how often the label is among so many best, from each row's `rank`; with `candidates` of the rows,
    also how often it is one of them; with `first_nfe`, what choosing those had cost.
    """
    nfe = [row["nfe"] for row in rows if "nfe" in row]
    lines = [("images", f"{len(rows)} of {total}")]
    if all("pred" in row for row in rows):  # a run over a part of the classes has none
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        lines.append(("top-1 accuracy", percent(*metrics.accuracy(pred, label))))
        lines.append(("mean per class", percent(*metrics.mean_per_class(pred, label))))
    if top is not None:
        hits = np.array([row["rank"] < top for row in rows], dtype=bool)
        lines.insert(2, (f"top-{top} accuracy", percent(*metrics.share(hits))))
    if rows and all("candidates" in row for row in rows):
        hits = np.array([row["label"] in row["candidates"] for row in rows], dtype=bool)
        lines.append(("recall", f"{percent(*metrics.share(hits))}, among {len(rows[0]['candidates'])} candidates"))
    if nfe:
        lines.append(("NFE per image", f"{np.mean(nfe):,.0f}  (in all {sum(nfe):,})"))
    if rows and all("first_nfe" in row for row in rows):
        lines.append(("first stage", f"{np.mean([row['first_nfe'] for row in rows]):,.0f} NFE per image"))
    for name, value in lines:
        print(f"{name:<15} {value}")
    return report(problems)


def report(problems: list[str], most: int = 20) -> int:
    """Print what was left out, at most so many lines of it; the exit code."""
    for problem in problems[:most]:
        print(f"not counted: {one_line(problem, None)}", file=sys.stderr)
    if len(problems) > most:
        print(f"not counted: {len(problems) - most} more", file=sys.stderr)
    return 1 if problems else 0


def ahead(indices: Iterable[int], load, fail, most: int = 16) -> Iterator[tuple[int, object]]:
    """(index, load(index)) in order; up to `most` are loaded, in threads, before they are asked for.

    What cannot be read (OSError) is left out, after `fail(index, why)`.
    """
    indices, waiting = iter(indices), deque()
    pool = ThreadPoolExecutor(4)
    try:
        while True:
            waiting.extend((k, pool.submit(load, k)) for k in itertools.islice(indices, most - len(waiting)))
            if not waiting:
                return
            index, image = waiting.popleft()
            if isinstance(error := image.exception(), OSError):
                fail(index, str(error))
            else:
                yield index, image.result()
    finally:
        pool.shutdown(cancel_futures=True)


def evaluate(
    todo: list[int], load, classify, path_of, *, dtype: str, grace: float, earlier: Iterable[dict] = ()
) -> tuple[list[dict], list[str]]:
    """Measure and save images, under a bar of accuracy, NFE per image and NFE/s; their rows and what went wrong.

    `load(index)` reads an image; `classify(images, dtype)` loads the model, takes pairs (index, what was read) and
    gives an iterator of records, in any order; `path_of(index)` is where one goes; `earlier` rows count in the bar.

    An image whose errors in a reduced dtype are not finite is measured again in float32 at the end. One that cannot be
    read, or whose errors are not finite even then, is left out, with a note in the run's folder that goes when it
    succeeds. Raises cluster.Stopped when a signal asked for an
    end: the images in hand are finished if that takes less than `grace` seconds.
    """
    rows, problems, again = [], [], {}  # again: index -> NFE spent in vain
    if not todo:
        return rows, problems
    notes = records.failed(path_of(todo[0]).parent)

    def fail(index: int, why: str) -> None:
        problems.append(f"image {index}: {why}")
        records.note_failure(path_of(index), why)

    total = Counter()
    for row in earlier:
        total.update(images=1, nfe=row["nfe"], right=row["pred"] == row["label"])
    before = total["nfe"]
    with cluster.asked_to_end(grace) as asked:

        def found(indices: Iterable[int], dtype: str) -> Iterator[dict]:
            return classify(itertools.takewhile(lambda _: not asked, ahead(indices, load, fail)), dtype)

        measured = found(todo, dtype)  # loads the model: its errors come before the bar
        started = time.monotonic()
        with tqdm(total=len(todo), dynamic_ncols=True, unit="image") as bar:
            for turn in dict.fromkeys([dtype, "float32"]):
                for record in measured:
                    index, finite = record["index"], bool(record["errors"].isfinite().all())
                    if turn != "float32" and not finite:
                        again[index] = record["nfe"]
                        continue
                    if not finite:
                        fail(index, "the network's answers are not all finite, in float32 too")
                        continue
                    record["nfe"] += again.get(index, 0)
                    records.save_record(path_of(index), record)
                    if index in notes:
                        records.forget_failure(notes[index])
                    rows.append(brief(record))
                    total.update(images=1, nfe=record["nfe"], right=record.get("pred") == record["label"])
                    said = f"accuracy {total['right'] / total['images']:.1%}, " if "pred" in record else ""
                    speed = (total["nfe"] - before) / (time.monotonic() - started)
                    bar.set_postfix_str(f"{said}{total['nfe'] / total['images']:,.0f} NFE/image, {speed:,.0f} NFE/s")
                    bar.update()
                if not again or turn == "float32":
                    break
                measured = found(again, "float32")
        if asked and len(rows) + len(problems) < len(todo):
            raise cluster.Stopped(asked.by)
    return rows, problems
