"""What the command lines share: bad input as one line and exit code 2, the device, the shards, the table."""

import argparse
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion import InputError, InputWarning, metrics, records

LOG_DIR = Path(os.environ.get("LOG_DIR", "data"))
DATASET_ROOT = Path(os.environ.get("DATASET_ROOT", "/datasets"))
RIGHT, WRONG = "#1a7f37", "#cf222e"  # the colours of every picture
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def run(main) -> None:
    """Run a script's `main(argv) -> exit code`: InputError is one line and exit code 2, a bug keeps its traceback."""
    program = Path(sys.argv[0]).name
    warnings.simplefilter("ignore")  # what the libraries say to their programmers
    warnings.simplefilter("always", InputWarning)
    warnings.showwarning = lambda message, *_: print(f"{program}: warning: {message}", file=sys.stderr)
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)


def add_model_options(parser: argparse.ArgumentParser, dtype: str | None = None) -> None:
    default = dtype or "float16 on CUDA, else float32"
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"of the network; default {default}")
    parser.add_argument("--device", help="cuda, cuda:1, mps, cpu; default the best there is")
    parser.add_argument("--batch_size", "-b", type=int, default=32, help="evaluations in one network call")


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n_workers", type=int, default=1, help="split the images over this many workers")
    parser.add_argument("--worker_idx", type=int, default=0, help="which of them this is: it takes images[w::n]")
    parser.add_argument("--subset_path", type=Path, help="npy file of the dataset indices to evaluate")


def pick_device(args) -> tuple[torch.device, str]:
    """The device and the dtype's name, from --device and --dtype or what the machine has."""
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(args.device or best)
        torch.empty(1, device=device).cpu()  # "meta" gives no numbers back
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {args.device}: not to be had here ({str(error).splitlines()[0]})") from None
    dtype = args.dtype or ("float16" if device.type == "cuda" else "float32")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("--dtype float16: CPUs compute it hundreds of times slower; use bfloat16 or float32")
    return device, dtype


def at_least_one(args, *names: str) -> None:
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 1")


def not_negative(args, *names: str) -> None:
    for name in names:
        if getattr(args, name) < 0:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 0")


def my_images(args, total: int, most: int | None = None) -> tuple[list[int], list[int]]:
    """The dataset indices of the run, ascending (the first `most`), and this worker's."""
    at_least_one(args, "n_workers")
    if not 0 <= args.worker_idx < args.n_workers:
        raise InputError(f"--worker_idx {args.worker_idx}: must be in 0..{args.n_workers - 1}")
    chosen = np.arange(total)
    if args.subset_path:
        try:
            with args.subset_path.open("rb") as file:
                chosen = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--subset_path {args.subset_path}: cannot be read as npy ({error})") from None
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
    return chosen, chosen[args.worker_idx :: args.n_workers]


def read_bank(path: Path, points: int, latent: tuple[int, int, int]) -> torch.Tensor:
    """The first `points` rows [points, c, h, w] of a noise bank. Raises InputError when it does not fit."""
    try:
        bank = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise InputError(f"--noise_path {path}: cannot be read ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(bank, torch.Tensor) or tuple(bank.shape[1:]) != latent:
        found = list(bank.shape) if isinstance(bank, torch.Tensor) else type(bank).__name__
        raise InputError(
            f"--noise_path {path}: holds {found}, the model's latents need [n, c, h, w] = {['n', *latent]}"
        )
    if len(bank) < points:
        raise InputError(f"--noise_path {path}: holds {len(bank)} draws, the schedule needs {points}")
    return bank[:points].float()


def noise_of_image(seed: int, index: int, points: int, latent: tuple[int, int, int]) -> torch.Tensor:
    """[points, c, h, w] standard normal draws that depend on (seed, dataset index) alone; more points extend fewer.

    numpy's generator: torch's on the CPU uses 32 bits of a seed, and its first 16 numbers depend on how many follow.
    """
    draws = np.random.default_rng([seed, index]).standard_normal((points, *latent), dtype=np.float32)
    return torch.from_numpy(draws)


def tag(name: str) -> str:
    """A path, hub id or data set's name as one part of a folder name."""
    last = name.removeprefix("hf:").strip("/").removesuffix(".csv").split("/")[-1]
    return re.sub(r"[^\w.+-]+", "_", last).strip("_.") or "data"


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


def percent(p: float, interval: tuple[float, float]) -> str:
    return f"{100 * p:.2f}%  (95% interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def options_of(args, names: Iterable[str], card, data: list, dtype: str, bank: torch.Tensor | None) -> dict:
    """What goes into run.json: the options `names`, and what every run's numbers depend on; `data` is its labels."""
    return {name: getattr(args, name) for name in names} | {
        "img_size": card.image_size,
        "model": args.version if Path(card.source).is_dir() else card.source,  # which of the mirrors
        "data": records.sha256(repr(data)),  # an image more or less would shift the others
        "dtype": dtype,
        "noise": records.sha256(bank.numpy().tobytes()) if bank is not None else None,
    }


def join_run(folder: Path, options: dict, about: dict, mine: list[int]) -> tuple[list[int], dict[int, Path]]:
    """Open the run's folder; which of the images `mine` are still to do, and the records that are there."""
    records.open_run(folder, options, about)
    done = records.finished(folder)
    todo = [k for k in mine if k not in done]
    records.clean(folder, todo)
    return todo, done


def save_figure(figure, path: Path, dpi: int) -> None:
    """Save a matplotlib figure; InputError when there is no such folder, or the suffix is no picture's."""
    try:
        figure.savefig(path, dpi=dpi)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({error})") from None


def read_rows(paths: Iterable[Path], change=lambda record: record) -> tuple[list[dict], list[str]]:
    """The pred, label and nfe of records, and what is wrong with those that cannot be read.

    `change(record)` may decide again while the errors are at hand; they are not kept, since they do not fit in memory.
    """
    rows, problems = [], []
    for path in paths:
        try:
            rows.append(brief(change(records.load_record(path))))
        except InputError as error:
            problems.append(str(error))
    return rows, problems


def brief(record: dict) -> dict:
    return {key: record[key] for key in ("pred", "label", "nfe") if key in record}  # published files count no NFE


def print_accuracy(rows: list[dict], total: int, problems: list[str]) -> int:
    """Print the table at the end of a run and of print_acc.py, then what is wrong; the exit code."""
    nfe = [row["nfe"] for row in rows if "nfe" in row]
    lines = [("images", f"{len(rows)} of {total}")]
    if all("pred" in row for row in rows):  # a run over a part of the classes has none
        pred, label = (np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))
        lines.append(("top-1 accuracy", percent(*metrics.accuracy(pred, label))))
        lines.append(("mean per class", percent(*metrics.mean_per_class(pred, label))))
    if nfe:
        lines.append(("NFE per image", f"{np.mean(nfe):,.0f}  (in all {sum(nfe):,})"))
    for name, value in lines:
        print(f"{name:<16}{value}")
    return report(problems)


def report(problems: list[str], most: int = 20) -> int:
    """Print what was left out, at most so many lines of it; the exit code."""
    for problem in problems[:most]:
        print(f"not counted: {problem}", file=sys.stderr)
    if len(problems) > most:
        print(f"not counted: {len(problems) - most} more", file=sys.stderr)
    return 1 if problems else 0


def finish(folder: Path, images: list[int], problems: list[str]) -> int:
    """Print the table of the whole run, as far as it is done, and what went wrong; the exit code."""
    done = records.finished(folder)
    rows, unreadable = read_rows(done[k] for k in images if k in done)
    return print_accuracy(rows, len(images), problems + unreadable)


def evaluate(todo: list[int], one_image, path_of, earlier: Iterable[dict] = ()) -> list[str]:
    """Measure and save one image after the other, under a bar of accuracy, NFE per image and NFE/s.

    `one_image(index)` -> record; `path_of(index)` -> where it goes; `earlier` rows count in the bar. An image that
    cannot be read, or whose errors are not finite, is left out; returns what was wrong with those.
    """
    problems = []
    total = Counter()
    for row in earlier:
        total.update(images=1, nfe=row["nfe"], right=row["pred"] == row["label"])
    before, started = total["nfe"], time.monotonic()
    for index in (bar := tqdm(todo, dynamic_ncols=True, unit="image")):
        try:
            record = one_image(index)
        except OSError as error:
            problems.append(f"image {index}: {error}")
            continue
        if not record["errors"].isfinite().all():
            problems.append(f"image {index}: the network's answers are not all finite; try --dtype float32")
            continue
        records.save_record(path_of(index), record)
        total.update(images=1, nfe=record["nfe"], right=record.get("pred") == record["label"])
        said = f"accuracy {total['right'] / total['images']:.1%}, " if "pred" in record else ""
        speed = (total["nfe"] - before) / (time.monotonic() - started)
        bar.set_postfix_str(f"{said}{total['nfe'] / total['images']:,.0f} NFE/image, {speed:,.0f} NFE/s")
    return problems
