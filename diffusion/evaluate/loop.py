"""Many images, from folder to folder: load, classify, record; go on where an earlier run ended; end when asked to."""

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from diffusion import InputWarning
from diffusion.data.datasets import Dataset
from diffusion.evaluate import sharding
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.progress import Progress
from diffusion.evaluate.selection import in_turns
from diffusion.io.wording import count, with_split
from diffusion.paths import script
from diffusion.plots import bars
from diffusion.runs import newer, records, results, show, summary

MOST_NAMED = 20  # files of a folder that are no records of its run
NOT_FINITE = "the network's predictions are not all finite, in float32 too"


class Classifier:
    """What measures images: subclasses load one image, and classify many.

    `load` runs in threads, before the model is there; its OSError leaves the image out. `classify` loads the model in a
    dtype, takes pairs (index, what `load` returned), and yields their records in any order; it may call `spent` with
    the NFE of each network call.
    """

    def load(self, index: int) -> object:
        raise NotImplementedError

    def classify(self, images: Iterable, dtype: str, spent: Callable[[int], None]) -> Iterator[dict]:
        raise NotImplementedError


@dataclass(frozen=True)
class Folder:
    """The folder of a run, and its run.json: options and details as in records.open_run."""

    path: Path
    options: dict
    details: dict


@dataclass(frozen=True)
class Cost:
    """The NFE of an image: at most, unless it is exact."""

    nfe: int
    exact: bool
    size: str = ""  # of a large record, in words

    def bound(self, amount: str) -> str:
        """A multiple of the cost in words: "at most ", unless it is exact, and the amount."""
        return amount if self.exact else f"at most {amount}"


def classify_dataset(
    config: RunConfig,
    dataset: Dataset,
    mine: list[int],
    folder: Folder,
    classifier: Classifier,
    cost: Cost,
    *,
    count_earlier: bool = False,
    picture: Path | None = None,
) -> int:
    """Classify the images `mine` of a data set into a run's folder and print the table; the exit code.

    `count_earlier`: images that are done already count in the bar; `picture`: draw the answers there. Images are taken
    in an order in which all classes come early.
    """
    mine = in_turns(mine, dataset.labels)
    details = dict(folder.details)
    if dataset.path:
        details["path"] = dataset.path
    if not dataset.has_splits:
        details[records.UNSPLIT] = True
    todo, earlier = join_run(folder.path, folder.options, details, mine, dataset)
    if "prompts" in details:
        print(details["prompts"])
    images = f"{count(len(mine), 'image')}, {len(mine) - len(todo)} done before"
    each, to_do = cost.bound(f"{cost.nfe:,} NFE"), cost.bound(f"{cost.nfe * len(todo):,} NFE")
    nfe = f"{each} each{cost.size}, {to_do} to do"
    data = with_split(config.dataset, config.split if dataset.has_splits else None)
    print(f"{data}: {images}, {nfe} -> {folder.path}")

    bar = Progress(len(todo), cost.nfe * len(todo), cost.exact, earlier if count_earlier else [])
    with sharding.working(folder.path, config.worker_idx, config.n_workers):
        rows, problems = evaluate(
            todo,
            classifier.load,
            classifier.classify,
            partial(records.record_path, folder.path, len(dataset)),
            bar,
            dtype=config.dtype,
            grace=config.grace,
            run=records.expected({"options": folder.options, **details}),
        )

    if len(mine) < details["images"]:
        everything = f"{script('print_acc')} {folder.path}"
        print(f"This worker's share only; for all {count(details['images'], 'image')}: {everything}")
    code = show.print_accuracy(earlier + rows, len(mine), problems)
    summary.write_results(folder.path)
    all_classes = folder.options.get("cls") is None  # of a part of the classes, none is the answer
    if rows + earlier and not dataset.labelled and all_classes:
        show.print_predictions(results.read(folder.path), mine)
    if picture and not rows + earlier:
        print(f"{picture}: not drawn, since no image is done")
    elif picture:
        run = results.read(folder.path)
        bars.draw_run(run, sorted(k for k in mine if k in run.done), 50, picture, dataset)
        print(picture)
    return code


def join_run(
    folder: Path,
    options: dict,
    details: dict,
    mine: list[int],
    dataset: Dataset | None = None,
    files: newer.Files | None = None,
) -> tuple[list[int], list[dict]]:
    """Open the run's folder; the images of `mine` that are still to do, and the rows of the others.

    InputError, which names the images of `dataset` that are others, if it holds a run with other options. A file that
    is no record of this run and its image is named in a warning, and its image is still to do. Another warning names
    images that are newer than their records; `files` are those of the images, by default of `dataset`.
    """
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    images = dataset.named_images if dataset else None
    records.open_run(folder, options, details | {"versions": versions}, images)
    there = records.clean(folder, mine)
    rows, problems = results.read_rows((there[k] for k in mine if k in there), of_run=True)
    for problem in problems[:MOST_NAMED]:
        warnings.warn(f"{problem}; the image is measured again", InputWarning, stacklevel=2)
    unnamed = len(problems) - MOST_NAMED
    if unnamed > 0:
        more = f"{unnamed} more of the files there are no records of this run"
        warnings.warn(f"{folder}: {more}; the images are measured again", InputWarning, stacklevel=2)
    done = {row["index"] for row in rows}
    if files is None and dataset:
        files = dataset.located
    newer.warn(files or {}, {k: there[k] for k in done})
    todo = [k for k in mine if k not in done]
    if todo:
        summary.remove_results(folder)
    return todo, rows


def ahead(indices: Iterable[int], load, fail, most: int = 16) -> Iterator[tuple[int, object]]:
    """(index, load(index)) in order; up to `most` are loaded, in threads, before they are asked for.

    An image that cannot be read (OSError) is left out, after `fail(index, why)`.
    """
    indices, waiting = iter(indices), deque()
    pool = ThreadPoolExecutor(4)
    try:
        while True:
            waiting.extend((k, pool.submit(load, k)) for k in itertools.islice(indices, most - len(waiting)))
            if not waiting:
                return
            index, image = waiting.popleft()
            error = image.exception()
            if isinstance(error, OSError):
                fail(index, str(error))
            else:
                yield index, image.result()
    finally:
        pool.shutdown(cancel_futures=True)


def evaluate(
    todo: list[int],
    load,
    classify,
    path_of,
    bar: Progress,
    *,
    dtype: str,
    grace: float,
    run: records.Expected | None = None,
) -> tuple[list[dict], list[str]]:
    """Measure and save images, under a bar; their rows, and what went wrong.

    load(index) and classify(images, dtype, spent) as those of Classifier; path_of(index) is the path of a record; `run`
    is what the run's records must agree with.

    An image whose errors in a reduced dtype are not finite is measured again in float32 at the end. One that cannot be
    read, or whose errors are not finite even then, is left out, with a note in the run's folder that goes when it
    succeeds. Raises sharding.Stopped when a signal asked for an end: the images in hand are finished if that takes less
    than `grace` seconds.
    """
    rows, problems = [], []
    spent_in_vain: dict[int, int] = {}  # image whose errors were not finite -> its NFE
    if not todo:
        return rows, problems
    folder = path_of(todo[0]).parent
    records.check_notes(folder)
    notes = records.failed(folder)

    def fail(index: int, why: str) -> None:
        problems.append(f"image {index}: {why}")
        bar.left_out()
        records.note_failure(path_of(index), why)

    def save(record: dict) -> None:
        index = record["index"]
        record["nfe"] += spent_in_vain.get(index, 0)
        records.save_record(path_of(index), record, run)
        if index in notes:
            records.forget_failure(notes[index])
        rows.append(results.brief(record))
        bar.image(rows[-1])

    with sharding.asked_to_end(grace) as asked:

        def measure(indices: Iterable[int], dtype: str) -> Iterator[dict]:
            images = itertools.takewhile(lambda _: not asked, ahead(indices, load, fail))
            return classify(images, dtype, bar.call)

        measured = measure(todo, dtype)  # loads the model: its errors come before the bar
        with bar:
            for record in measured:
                if record["errors"].isfinite().all():
                    save(record)
                elif dtype == "float32":
                    fail(record["index"], NOT_FINITE)
                else:
                    spent_in_vain[record["index"]] = record["nfe"]
            if spent_in_vain:
                for record in measure(list(spent_in_vain), "float32"):
                    if record["errors"].isfinite().all():
                        save(record)
                    else:
                        fail(record["index"], NOT_FINITE)
        if asked and len(rows) + len(problems) < len(todo):
            raise sharding.Stopped(asked.by)
    return rows, problems
