"""The summary of a run: every figure with its interval, the options and the versions, with the keys of CLIP_benchmark.

https://github.com/LAION-AI/CLIP_benchmark writes dataset, model, pretrained, task, metrics and language.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.data import catalogue
from diffusion.io.atomic import write_atomic
from diffusion.runs import pack, records, results
from diffusion.runs.results import Run
from diffusion.stats import intervals
from diffusion.stats.intervals import Measure

FILE = "results.json"  # in a run's folder, once it is finished


def name_of(run: Run) -> str:
    """The folder, below $LOG_DIR: DATASET_EXTRA/SEARCH, or DATASET_EXTRA/SEARCH/SPLIT of a class-conditional model."""
    if pack.is_pack(run.folder):
        return pack.opened(run.folder).files["name"]
    parts = 3 if run.folder.name in catalogue.SPLITS else 2
    return "/".join(run.folder.absolute().parts[-parts:])


def measures(run: Run, pred: np.ndarray, label: np.ndarray, rank: np.ndarray) -> list[Measure]:
    """The figures of a run that chooses among classes: accuracies and macro F1; pred, label and rank [n].

    rank: of the label among the classes, 0 if it won.
    """
    top = 5 if len(run.classes) > 5 else None
    return [*intervals.accuracy(pred, label, top, rank), intervals.macro_f1(pred, label)]


def summary(run: Run, figures: Sequence[Measure], nfe: np.ndarray) -> dict:
    """A dict of JSON; nfe [n]: of the images or examples that are done."""
    task = "zeroshot_classification"
    if "examples" in run.description:
        task = "image_caption_selection"
    return {
        "dataset": run.options["dataset"],
        "split": run.split,
        "model": run.model,
        "prompts": run.description.get("prompts"),  # in a line; None: class ids, or an earlier version
        "pretrained": run.options.get("pretrained"),
        "task": task,
        "language": "en",
        "metrics": {m.key: m.value for m in figures},
        "intervals": {m.key: {"low": m.interval[0], "high": m.interval[1], "n": m.n, "how": m.how} for m in figures},
        "images": len(nfe),
        "of": max(run.description.get("chosen", run.description["images"]), len(nfe)),
        "nfe_per_image": float(np.mean(nfe)),
        "decided_by": run.loss,
        "run": name_of(run),
        "options": run.options,
        "versions": run.description.get("versions"),  # of the packages that measured it
    }


def write_json(value, path: Path) -> None:
    """Write a value as JSON. InputError if it cannot be written."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode(errors="replace")))


def is_finished(run: Run) -> bool:
    """Whether each image that the last command chose has a record, or a note that says why it has none."""
    settled = run.done.keys() | records.failed(run.folder).keys()
    wanted = records.indices_of(run.description)
    if wanted is None:
        return len(settled) >= run.description["images"]
    return wanted <= settled


def write_results(folder: Path) -> Path | None:
    """Write results.json into the folder of a run that chooses among classes, once the run is finished.

    An older one is removed while the run is not. Returns the file; None if there is nothing to write, or the folder
    cannot be written to.
    """
    description = records.read_run(folder)
    if description["options"].get("cls") is not None or "examples" in description:
        return None  # runs over a part of the classes have no answers; matching.scores writes that of examples
    run = results.read(folder)
    if not is_finished(run) or not run.done:
        remove_results(folder)
        return None
    rows, _ = results.decided(run, scores=False)
    figures = []
    if rows and all(row["label"] != catalogue.NO_LABEL for row in rows):
        pred, label, rank = np.array([[row["pred"], row["label"], row["rank"]] for row in rows]).T
        figures = measures(run, pred, label, rank)
    return write_figures(run, figures, np.array([row["nfe"] for row in rows]))


def write_figures(run: Run, figures: Sequence[Measure], nfe: np.ndarray) -> Path | None:
    """Write results.json with these figures; None if nothing is done, or the folder cannot be written to."""
    if not len(nfe):
        return None
    path = run.folder / FILE
    try:
        write_json(summary(run, figures, nfe), path)
    except InputError:
        return None
    return path


def remove_results(folder: Path) -> None:
    """Remove results.json, which is not that of the run any more: images are to do. It stays in a read-only folder."""
    with contextlib.suppress(OSError):
        (folder / FILE).unlink()
