"""Runs read back: records, decisions, scores."""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.data.catalogue import NO_LABEL
from diffusion.io import wording
from diffusion.paths import expanded, script
from diffusion.runs import pack, records
from diffusion.stats import calibration, metrics


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Rows compete. Several prompts of a class are one row, their mean; the class ids that condition a class-conditional
    model are a row each, even if several mean the same class of the data set.
    """

    folder: Path
    description: dict  # the contents of run.json
    loss: str  # the one that decides
    class_ids: np.ndarray  # [rows] the class that each row stands for
    arm_class: np.ndarray  # [arms] the row of each arm
    done: dict[int, Path]  # dataset index -> record, of the images that the last command chose and that are done
    wanted: records.Expected  # what each record must agree with

    @property
    def options(self) -> dict:
        return self.description["options"]

    @property
    def n_levels(self) -> int | None:
        """T, as records.n_levels."""
        return records.n_levels(self.description)

    @property
    def classes(self) -> np.ndarray:
        """The class ids, ascending. [K]"""
        return np.unique(self.class_ids)

    @property
    def model(self) -> str | None:
        return self.options.get("version") or self.options.get("model")

    @property
    def split(self) -> str | None:
        """None: the data has no splits, or is of captions."""
        if self.description.get(records.UNSPLIT):
            return None
        return self.options.get("split")

    @property
    def data(self) -> str:
        return wording.with_split(f"{self.options.get('dataset')}", self.split)

    @property
    def data_title(self) -> str:
        """The data in words, without folders and file suffixes: for headings."""
        data = re.sub(r"\.[A-Za-z]{3,5}$", "", Path(f"{self.options.get('dataset')}").name)
        return wording.with_split(data, self.split)

    @property
    def title(self) -> str:
        """Data and model in words: a picture's heading."""
        return f"{self.data_title}, by {Path(str(self.model)).name}"


def read(path: str | Path, *keys: str, loss: str | None = None, answers: bool = True) -> Run:
    """The run in a folder; for a run of a DiT, also in the folder above it (see records.find_run).

    `loss` decides in place of the run's own. InputError if there is no run; if it lacks one of `keys` or that loss; or,
    with `answers`, if its records do not each choose among all classes.
    """
    folder = records.find_run(path)
    description = records.read_run(folder)
    if answers and description["options"].get("cls") is not None:
        raise InputError(folder, "a run over a part of the classes, so there are no answers")
    if answers and "examples" in description:
        drawn = "print_winoground.py prints and draws it"
        raise InputError(folder, f"a run of run_winoground.py, whose captions are no classes; {drawn}")
    records.need(folder, description, *keys, "loss")
    decided = description["options"]["loss"]
    if loss and decided in ("cosine", "nll", "vote"):  # the single loss of a baseline or an ensemble
        raise InputError(f"--loss {loss}", f"{folder} has {decided} only")
    wanted = records.expected(description, loss)
    return Run(
        folder, description, loss or decided, *competitors(description), records.chosen(folder, description), wanted
    )


def strange_label(label: int) -> str:
    """What is wrong with a label that is no class of its run."""
    return "it has no label" if label == NO_LABEL else f"its label {label} is no class of the run"


def competitors(description: dict) -> tuple[np.ndarray, np.ndarray]:
    """From run.json, the class id that each row stands for [rows], and the row of each arm [arms] (see Run)."""
    classes = np.array([class_id for *_, class_id in description["arms"]], dtype=int)
    if "all_arms" in description:
        return classes, np.arange(len(classes))
    class_ids, arm_class = np.unique(classes, return_inverse=True)
    return class_ids, arm_class


def names_of_classes(run: Run) -> dict[int, str]:
    """Class id -> name, in the order of the prompts: that of their csv, else that of the data set."""
    return {class_id: name for _, name, class_id in run.description["arms"]}


def names_of_rows(run: Run) -> list[str]:
    """The name of each row that competes. [rows]"""
    names = [""] * len(run.class_ids)
    for row, (_, name, _) in zip(run.arm_class, run.description["arms"], strict=True):
        names[row] = name
    return names


def order_of_rows(run: Run) -> list[int]:
    """The rows that compete, in the order of the prompts. [rows]"""
    return list(dict.fromkeys(run.arm_class.tolist()))


def record_of(run: Run, index: int) -> dict:
    """The record of an image that is done. Raises as records.load_record."""
    return records.load_record(run.done[index], run.wanted)


def failures(folder: str | Path, description: dict) -> list[str]:
    """Why images that a run's last command chose have no record, one text for each; description as in run.json, or {}.

    A note on an image that is done came from a worker that was too late, and does not count.
    """
    wanted = records.indices_of(description)
    done = records.finished(folder)
    found = []
    for index, note in records.failed(folder).items():
        if index not in done and (wanted is None or index in wanted):
            found.append(f"image {index}: {records.read_note(note)}")
    return found


def nothing_done(run: Run, problems: list[str], what: str = "image") -> InputError:
    """The error of a run without a valid record: the first problem, if there is one."""
    first = next(iter(problems), f"no {what} is done yet")
    return InputError(run.folder, first)


# ---- many records ----

PAIRS = records.PAIRS
brief = records.brief


def read_rows(
    paths: Iterable[str | Path],
    *,
    of_run: bool,
    change: Callable[[dict], dict] | None = None,
    loss: str | None = None,
    how: str | None = None,
) -> tuple[list[dict], list[str]]:
    """The `brief` of each record, and the problems of those that cannot be read.

    `of_run`: each must be a record of the run whose run.json lies beside it, with this loss or the run's (see
    records.expected); otherwise published ones are read too. `change(record)` may decide again while the errors are in
    memory; they are not kept, since those of all images do not fit. `how` as in records.Reader. Raises pack.Damaged.
    """
    rows: list[dict] = []
    problems: list[str] = []
    readers: dict[Path, records.Reader] = {}
    for path in map(expanded, paths):
        if of_run and path.parent not in readers:
            wanted = records.expected(records.read_run(path.parent), loss)
            readers[path.parent] = records.Reader(path.parent, wanted, change, how)
        try:
            if of_run:
                rows.append(readers[path.parent].row(path))
            else:
                record = records.load_record(path)
                if change:
                    record = change(record)
                rows.append(brief(record))
        except FileNotFoundError:
            problems.append(f"{path}: is gone")
        except pack.Damaged:
            raise
        except InputError as error:
            problems.append(str(error))
    for reader in readers.values():
        reader.close()
    return rows, problems


def decider(run: Run, vote: bool = False) -> Callable[[dict], dict]:
    """A `change` of read_rows that decides again by the loss of `run`, or by `vote`, among classes measured furthest.

    It adds `scores` [K] (see stats.calibration); `rank` of the label among the K classes, K if it is none of them; and
    `votes`, the share of points that prefer the answer to the other classes measured there, nan for fewer than two.
    """
    classes = run.classes
    column = {int(c): k for k, c in enumerate(classes)}
    column_of_row = np.searchsorted(classes, run.class_ids)  # [rows]

    def decide(record: dict) -> dict:
        error = metrics.point_errors(record, run.loss)
        means = metrics.class_errors(record, run.arm_class, run.loss, error)
        winner = metrics.best_row(*means)
        excess = metrics.excess(record, run.arm_class, winner, run.loss, means, error)
        scores = calibration.scores_of(excess, column_of_row)
        votes = np.bincount(column_of_row, metrics.votes(record, run.arm_class, run.loss, error), len(classes))
        pred = int(column_of_row[winner])
        if vote:
            pred = int(np.lexsort((-scores, -votes))[0])  # a tie goes to the smaller error
        label = column.get(record["label"])
        rank = len(classes)
        if label is not None:
            rank = calibration.rank(scores, label, pred)
        share = np.nan
        if votes.sum() > 1:
            share = votes[pred] / votes.sum()
        if run.loss != run.options["loss"]:  # squares of pairs are stored for the run's loss only
            record = {key: value for key, value in record.items() if key not in PAIRS}
        return record | {"pred": int(classes[pred]), "scores": scores, "rank": rank, "votes": float(share)}

    return decide


def decided(run: Run, vote: bool = False, scores: bool = True) -> tuple[list[dict], list[str]]:
    """`read_rows` of all images done, decided by `decider`; with or without the scores, which take K numbers each."""
    if scores:
        rows, table, problems = decided_with_scores(run, vote)
        for row, of_image in zip(rows, table, strict=True):
            row["scores"] = of_image
        return rows, problems

    decide = decider(run, vote)

    def brief_decision(record: dict) -> dict:
        row = decide(record)
        del row["scores"]
        return row

    how = json.dumps(["decided", run.loss, run.options["loss"], vote, run.class_ids.tolist(), run.arm_class.tolist()])
    return read_rows(run.done.values(), of_run=True, change=brief_decision, loss=run.loss, how=how)


def decided_each(run: Run, use: Callable[[dict, np.ndarray], None], vote: bool = False) -> tuple[list[dict], list[str]]:
    """`decided` without the scores, and use(row, scores [K]) of each image as it is read."""
    decide = decider(run, vote)

    def without_scores(record: dict) -> dict:
        row = decide(record)
        use(row, row.pop("scores"))
        return row

    return read_rows(run.done.values(), of_run=True, change=without_scores, loss=run.loss)


def decided_with_scores(run: Run, vote: bool = False) -> tuple[list[dict], np.ndarray, list[str]]:
    """As `decided`; the scores are one table [n, K], as those of ImageNet's 50,000 images take 400 MB."""
    scores = np.empty((len(run.done), len(run.classes)))  # filled in place
    read = itertools.count()

    def keep(row: dict, of_image: np.ndarray) -> None:
        scores[next(read)] = of_image

    rows, problems = decided_each(run, keep, vote)
    return rows, scores[: len(rows)], problems


def decisions(run: Run, indices: Iterable[int]) -> Iterator[dict]:
    """What `decider` makes of the images with these indices, one after the other. InputError: cannot be read."""
    reader = records.Reader(run.folder, run.wanted, decider(run))
    for index in indices:
        try:
            yield reader.row(run.done[index])
        except FileNotFoundError:
            raise InputError(run.done[index], "is gone") from None
    reader.close()


def read_scores(run: Run) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images of a run that are done, and the problems of others; InputError if none is done.

    index, nfe [n]; scores [n, K] (calibration.scores), class ids ascending; label and pred [n], as columns of scores.
    A run with antithetic noise also has between_pairs and within_pairs [n], see metrics.pair_squares.
    """
    column = {int(c): k for k, c in enumerate(run.classes)}
    rows, scores, problems = decided_with_scores(run)
    counted = []
    for k, row in enumerate(rows):
        if row["label"] in column:
            counted.append(k)
        else:
            problems.append(f"image {row['index']}: {strange_label(row['label'])}")
    if len(counted) < len(rows):
        rows = [rows[k] for k in counted]
        scores = scores[counted]
    if not rows:
        raise nothing_done(run, problems)

    keys = ["index", "nfe"]
    if all("within_pairs" in row for row in rows):
        keys += PAIRS
    columns = {"scores": scores}
    for key in keys:
        columns[key] = np.array([row[key] for row in rows])
    for key in ("label", "pred"):
        columns[key] = np.array([column[row[key]] for row in rows])
    return columns, problems


def read_full(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All errors of a run that measured every class at every point; InputError if it did not, or if rows share a class.

    errors [images, rows, P], points in ascending levels, weighted if the run was; row [images] of each label, -1 if it
    has none; ascending levels [P]. Images are those of run.done, in its order.
    """
    errors: list[np.ndarray] = []
    labels: list[int] = []
    levels: np.ndarray | None = None
    if len(run.classes) < len(run.class_ids):  # a label would be one of its rows, and the others would count as wrong
        raise InputError(run.folder, "several class ids mean one class, as ObjectNet's; wanted one for each")
    for index in run.done:
        record = record_of(run, index)
        P, counts = len(record["levels"]), record["counts"]
        if len(counts) < 2 or not (counts == P).all():
            wanted = "wanted a run of one stage, such as --to_keep 1 --n_samples 500"
            raise InputError(f"{run.folder}, image {index}", f"not every class was measured at every point; {wanted}")
        order = np.argsort(record["levels"].numpy(), kind="stable")
        ascending = record["levels"].numpy()[order]
        if levels is not None and not np.array_equal(levels, ascending):
            raise InputError(f"{run.folder}, image {index}", "has other noise levels than the images before")
        levels = ascending
        of_arms = metrics.point_errors(record, run.loss).reshape(-1, P)[:, order]
        errors.append(metrics.class_means(of_arms, run.arm_class))
        rows_of_label = np.flatnonzero(run.class_ids == record["label"]).tolist()
        labels.append(next(iter(rows_of_label), -1))
    if levels is None:
        raise nothing_done(run, [])
    return np.array(errors), np.array(labels), levels


def calibration_path(folder: Path) -> Path:
    """The file that scripts/calibrate.py writes: in a run's folder, or beside a packed run."""
    return folder.with_suffix(".calibration.json") if pack.is_pack(folder) else folder / "calibration.json"


def has_calibration(folder: Path) -> bool:
    """Whether scripts/calibrate.py was run on it, or before it was packed."""
    if os.path.exists(calibration_path(folder)):
        return True
    return pack.is_pack(folder) and pack.opened(folder).files["calibration.json"] is not None


def _calibration(folder: Path) -> str:
    """The text of calibration.json; one beside a packed run is newer than that in it. FileNotFoundError: none."""
    path = calibration_path(folder)
    if os.path.exists(path) or not has_calibration(folder):
        return path.read_text()
    return pack.opened(folder).files["calibration.json"]


def read_calibration(run: Run) -> dict:
    """The file of scripts/calibrate.py: temperature; fit, the share of images that it was fitted on; seed.

    InputError if there is no such file, or if it was fitted for another loss or on another run.
    """
    path = calibration_path(run.folder)
    try:
        found = json.loads(_calibration(run.folder))
        read = {key: float(found[key]) for key in ("temperature", "fit")} | {"seed": int(found["seed"])}
        if not 0 < read["temperature"] < np.inf:
            raise ValueError(f"temperature {read['temperature']}")
        loss = str(found["loss"])
        fitted_on = found.get("run", run.wanted.run)
    except FileNotFoundError:
        raise InputError(path, f"no such file; {script('calibrate')} {run.folder} makes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"damaged: {error}") from None
    if fitted_on != run.wanted.run:
        raise InputError(path, f"was fitted on another run; {script('calibrate')} {run.folder} makes it anew")
    if loss != run.loss:
        raise InputError(path, f"was fitted for --loss {loss}, wanted {run.loss}")
    return read
