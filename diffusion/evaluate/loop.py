"""Many images, from folder to folder: load, classify, record; go on where an earlier run ended; end when asked to."""

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from diffusion import InputWarning, one_line
from diffusion.core.batching import together
from diffusion.core.image import Measured, search_image
from diffusion.core.losses import plain
from diffusion.core.noise import ImageNoise
from diffusion.data.datasets import Dataset
from diffusion.data.images import crop
from diffusion.evaluate import config as run_config
from diffusion.evaluate import sharding
from diffusion.evaluate.progress import Progress
from diffusion.models.loading import Card, Model
from diffusion.paths import script
from diffusion.plots import bars
from diffusion.runs import records, results, show

MOST_NAMED = 20  # files of a folder that are no records of its run


def by_search(
    args,
    card: Card,
    device: torch.device,
    dtype: str,
    points: run_config.Points,
    open_image: Callable[[int], Image],
    interpolation: str,
    told: list | Callable[[int], list],
    arm_class: np.ndarray,
    finish: Callable[[int, Measured], dict],
    *,
    first: Callable | None = None,
    rows: np.ndarray | None = None,
    own_noise: bool = True,
    keep: Callable = plain,
    once: Callable[[Model], tuple[Callable, Callable]] | None = None,
    ask: Callable[[int], tuple[np.ndarray, Callable]] | None = None,
    loras: list[tuple[str, ...]] | None = None,
) -> tuple[Callable, Callable]:
    """`load` and `classify` of `evaluate`: a search over a diffusion model's errors, many images side by side.

    `told` are the prompts or class ids of all images, or a function that gives an image's own; arm_class [arms] is the
    row of each of them, among those that compete; finish(index, measured) makes the record. `first` loads a first stage
    (candidates.py), to which row k is class rows[k]. Noise without a bank is of (--seed, index), or the same for all
    images unless it is their own; interpolation as in images.crop, keep as in errors.together.
    once(model) gives what makes of (index, pixels) a latent and of index the conditions, where not each is made anew;
    ask(index) the arm_class and the start of the search, where images differ in that. `loras` are those that each arm
    has for itself.
    """

    def load(index: int) -> tuple[Tensor, Image]:
        image = open_image(index)
        return crop(image, card.image_size, interpolation), image  # [3, H, W]

    def classify(images: Iterable, turn: str, spent: Callable[[int], None]) -> Iterator[dict]:
        if turn == dtype:  # else it is said already
            run_config.warn_of_one_draw(points)
        pick = first and first(dtype, device)
        model = run_config.load(args, card, device, turn)
        made = once and once(model)
        shared = None if callable(told) else model.conditions(told, loras)
        if shared is not None and isinstance(told[0], str):
            size = f"{shared.nbytes / 1e6:,.1f} MB of embeddings"
            tqdm.write(f"{len(shared)} prompts, such as {one_line(told[0])!r}, kept as {size}")

        def one_image(index: int, pixels: Tensor, image: Image):
            candidates, more = pick(index, image) if pick else (None, {})
            among = np.flatnonzero(np.isin(rows, candidates)) if pick else None
            if made:
                x, conditions = made[0](index, pixels), made[1](index)
            else:
                x = model.encode(pixels[None])[0]  # [c, h, w]
                conditions = model.conditions(told(index)) if shared is None else shared
            classes, start = ask(index) if ask else (arm_class, points.start)
            own = ImageNoise(args.seed, index if own_noise else 0, card.latent)
            measured = yield from search_image(
                x, conditions, classes, start, points.levels, points.rows,
                own if points.bank is None else points.bank, loss=args.loss, signs=points.signs,
                weights=points.weights, among=among, loras=loras,
            )  # fmt: skip
            return finish(index, measured) | more

        tasks = (one_image(index, *read) for index, read in images)
        return together(
            model, tasks, batch_size=args.batch_size, in_flight=args.in_flight, keep=keep, spent=spent
        )  # fmt: skip

    return load, classify


def classify_dataset(
    args, dataset: Dataset, mine: list[int], folder: Path, options: dict, about: dict, load: Callable,
    classify: Callable, *, dtype: str, nfe: int, exact: bool, told: str = "", count_earlier: bool = False,
    picture: Path | None = None,
) -> int:  # fmt: skip
    """Classify the images `mine` of a data set into a run's folder and print the table; the exit code.

    options and about as in records.open_run; load and classify as in `evaluate`; an image costs `nfe`, at most unless
    that is `exact`, and what else is `told` of it; `count_earlier`: images that are done already count in the bar;
    `picture`: what came out, drawn. Images are taken in an order in which all classes come early.
    """
    mine = run_config.in_turns(mine, dataset.labels)
    todo, earlier = join_run(folder, options, about | ({"path": dataset.path} if dataset.path else {}), mine)
    most = "" if exact else "at most "
    counts = f"{len(mine)} images, {len(mine) - len(todo)} done before"
    cost = f"{most}{nfe:,} NFE each{told}, {most}{nfe * len(todo):,} NFE to do"
    print(f"{args.dataset}, {args.split} split: {counts}, {cost} -> {folder}")
    path_of, counted = partial(records.record_path, folder, len(dataset)), earlier if count_earlier else []
    with sharding.working(folder, args.worker_idx, args.n_workers):
        rows, problems = evaluate(
            todo, load, classify, path_of, Progress(len(todo), nfe * len(todo), exact, counted), dtype=dtype,
            grace=args.grace, run=records.fingerprint(options),
        )  # fmt: skip
    if len(mine) < about["images"]:
        print(f"the share of this worker; {script('print_acc')} {folder} counts all {about['images']}")
    code = show.print_accuracy(earlier + rows, len(mine), problems)
    if not dataset.labelled and options.get("cls") is None:  # of a part of the classes, none is the answer
        show.print_predictions(results.read(folder), mine)
    if picture and (rows or earlier):
        run = results.read(folder)
        bars.draw_run(run, sorted(k for k in mine if k in run.done), 50, picture)
        print(picture)
    return code


def join_run(folder: Path, options: dict, about: dict, mine: list[int]) -> tuple[list[int], list[dict]]:
    """Open the run's folder; which of the images `mine` are still to do, and the rows of the others.

    A file that is no record of this run and its image is named, and its image is to do.
    """
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    records.open_run(folder, options, about | {"versions": versions})
    there = records.clean(folder, mine)
    rows, problems = results.read_rows((there[k] for k in mine if k in there), own=True)
    for problem in problems[:MOST_NAMED]:
        warnings.warn(f"{problem}; the image is measured again", InputWarning, stacklevel=2)
    if len(problems) > MOST_NAMED:
        more = f"{len(problems) - MOST_NAMED} more of the files there are no records of this run"
        warnings.warn(f"{folder}: {more}; the images are measured again", InputWarning, stacklevel=2)
    done = {row["index"] for row in rows}
    return [k for k in mine if k not in done], rows


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
    todo: list[int], load, classify, path_of, bar: Progress, *, dtype: str, grace: float, run: str | None = None
) -> tuple[list[dict], list[str]]:
    """Measure and save images, under a bar; their rows and what went wrong.

    `load(index)` reads an image; `classify(images, dtype, spent)` loads the model, takes pairs (index, what was read)
    and gives an iterator of records, in any order, and may tell `spent` of the NFE of each call; `path_of(index)` is
    where a record goes; `run` is the records.fingerprint of the run's options.

    An image whose errors in a reduced dtype are not finite is measured again in float32 at the end. One that cannot be
    read, or whose errors are not finite even then, is left out, with a note in the run's folder that goes when it
    succeeds. Raises cluster.Stopped when a signal asked for an end: the images in hand are finished if that takes less
    than `grace` seconds.
    """
    rows, problems, again = [], [], {}  # again: index -> NFE spent in vain
    if not todo:
        return rows, problems
    records.check_notes(path_of(todo[0]).parent)
    notes = records.failed(path_of(todo[0]).parent)

    def fail(index: int, why: str) -> None:
        problems.append(f"image {index}: {why}")
        bar.left_out()
        records.note_failure(path_of(index), why)

    with sharding.asked_to_end(grace) as asked:

        def found(indices: Iterable[int], dtype: str) -> Iterator[dict]:
            images = itertools.takewhile(lambda _: not asked, ahead(indices, load, fail))
            return classify(images, dtype, bar.call)

        measured = found(todo, dtype)  # loads the model: its errors come before the bar
        with bar:
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
                    records.save_record(path_of(index), record, run)
                    if index in notes:
                        records.forget_failure(notes[index])
                    rows.append(results.brief(record))
                    bar.image(rows[-1])
                if not again or turn == "float32":
                    break
                measured = found(again, "float32")
        if asked and len(rows) + len(problems) < len(todo):
            raise sharding.Stopped(asked.by)
    return rows, problems
