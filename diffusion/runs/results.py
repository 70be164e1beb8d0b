"""Runs read back: records, decisions, scores."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError
from diffusion.paths import script
from diffusion.runs import records
from diffusion.stats import calibration, metrics


@dataclass(frozen=True)
class Run:
    """A run on disk.

    A row is what competes: several prompts of a class are one row, the mean of them; class ids that a model is told
    compete alone, even where several mean the same class of the data set.
    """

    folder: Path
    about: dict  # run.json
    loss: str  # the one that decides
    class_ids: np.ndarray  # [rows] the class that each row stands for
    arm_class: np.ndarray  # [arms] the row of each arm
    done: dict[int, Path]  # dataset index -> its record, of the images that the last command chose and that are done
    wanted: records.Expected  # of each record

    @property
    def options(self) -> dict:
        return self.about["options"]

    @property
    def classes(self) -> np.ndarray:
        """The class ids, ascending. [K]"""
        return np.unique(self.class_ids)

    @property
    def model(self) -> str | None:
        return self.options.get("version") or self.options.get("model")

    @property
    def data(self) -> str:
        split = self.options.get("split")  # examples have none
        return f"{self.options.get('dataset')}" + (f", {split} split" if split else "")

    @property
    def title(self) -> str:
        return f"{self.data}, model {self.model}"


def read(path: Path, *keys: str, loss: str | None = None, answers: bool = True) -> Run:
    """The run in a folder; DiT's may be named without its last part, the split.

    `loss`: decide by this one, not by the run's. InputError: no run; it lacks one of `keys` or that loss; with
    `answers`, its records do not each choose among all classes.
    """
    folder = records.run_folder(path)
    about = records.read_run(folder)
    if answers and about["options"].get("cls") is not None:
        raise InputError(folder, "a run over a part of the classes, so there are no answers")
    if answers and "examples" in about:
        drawn = "print_winoground.py prints and draws it"
        raise InputError(folder, f"a run of run_winoground.py, whose captions are no classes; {drawn}")
    records.need(folder, about, *keys, "loss")
    decided = about["options"]["loss"]
    if loss and decided in ("cosine", "nll", "vote"):  # baselines and ensembles have one
        raise InputError(f"--loss {loss}", f"{folder} has {decided} only")
    wanted = records.expected(about, loss)
    return Run(folder, about, loss or decided, *competitors(about), records.chosen(folder, about), wanted)


def competitors(about: dict) -> tuple[np.ndarray, np.ndarray]:
    """From run.json, the class id that each row stands for [rows], and the row of each arm [arms] (see Run)."""
    classes = np.array([class_id for *_, class_id in about["arms"]], dtype=int)
    if "all_arms" in about:
        return classes, np.arange(len(classes))
    return np.unique(classes, return_inverse=True)


def names_of_classes(run: Run) -> dict[int, str]:
    return {class_id: name for _, name, class_id in run.about["arms"]}


def names_of_rows(run: Run) -> list[str]:
    names = {int(row): name for row, (_, name, _) in zip(run.arm_class, run.about["arms"], strict=True)}
    return [names[row] for row in range(len(run.class_ids))]


def record_of(run: Run, index: int) -> dict:
    """The record of an image that is done. InputError as records.load_record."""
    return records.load_record(run.done[index], run.wanted)


def failures(folder: Path, about: dict) -> list[str]:
    """Why images that a run's last command chose have no record, one text each; about as in run.json, or {}.

    A note of one that is done is of a worker that came too late.
    """
    wanted = records.indices_of(about)
    done = records.finished(folder)
    notes = records.failed(folder).items()
    notes = {index: note for index, note in notes if index not in done and (wanted is None or index in wanted)}
    return [f"image {index}: {records.read_note(note)}" for index, note in notes.items()]


# ---- many records ----

ROW = ["index", "file", "group", "label", "pred", "decided", "margin", "nfe", "first_nfe", "candidates"]
PAIRS = ["between_pairs", "within_pairs"]
ROW += PAIRS
CHANGED = ["scores", "rank", "votes"]  # what `decider` adds


def brief(record: dict) -> dict:
    """Of a record, what a table needs; published files have no index and count no NFE, few have `candidates`."""
    return {key: record[key] for key in [*ROW, *CHANGED] if key in record}


def read_rows(
    paths: Iterable[Path], *, own: bool, change=None, loss: str | None = None
) -> tuple[list[dict], list[str]]:
    """The index, pred, label and nfe of records, and what is wrong with those that cannot be read.

    `own`: each is a record of the run whose run.json lies beside it, with this loss or the run's (see
    records.expected); else published ones will do. `change(record)` may decide again while the errors are at hand;
    they are not kept, since they do not fit in memory.
    """
    rows, problems, wanted = [], [], {}
    for path in paths:
        if path.parent not in wanted:
            wanted[path.parent] = records.expected(records.read_run(path.parent), loss) if own else None
        try:
            record = records.load_record(path, wanted[path.parent])
            rows.append(brief(change(record) if change else record))
        except FileNotFoundError:
            problems.append(f"{path}: is gone")
        except InputError as error:
            problems.append(str(error))
    return rows, problems


def decider(run: Run, vote: bool = False):
    """`change` of read_rows that decides again by the loss of `run`, or by its `vote`, among classes measured furthest.

    It adds `scores` [K] (see stats.calibration), the label's `rank` among the K classes (K: it is none of them),
    and `votes`, the share of points that prefer the answer to the other classes measured there; nan of less than two.
    """
    column = {int(c): k for k, c in enumerate(run.classes)}

    def decide(record: dict) -> dict:
        votes = np.bincount(
            [column[int(c)] for c in run.class_ids], metrics.votes(record, run.arm_class, run.loss), len(column)
        )
        scores = calibration.scores(record, run.class_ids, run.arm_class, run.loss)
        pred = column[int(run.class_ids[metrics.rescore(record, run.arm_class, run.loss)])]
        if vote:
            pred = int(np.lexsort((-scores, -votes))[0])  # a tie goes to the smaller error
        label = column.get(record["label"])
        rank = len(column) if label is None else calibration.rank(scores, label, pred)
        share = votes[pred] / votes.sum() if votes.sum() > 1 else np.nan
        if run.loss != run.options["loss"]:  # what the record says of pairs is of the run's loss
            record = {key: value for key, value in record.items() if key not in PAIRS}
        return record | {"pred": int(run.classes[pred]), "scores": scores, "rank": rank, "votes": float(share)}

    return decide


def decided(run: Run, vote: bool = False) -> tuple[list[dict], list[str]]:
    """`read_rows` of all images done, decided by `decider`."""
    return read_rows(run.done.values(), own=True, change=decider(run, vote), loss=run.loss)


def read_scores(run: Run) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images done of a run, and what is wrong with others; InputError where none is done.

    index, nfe [n], scores [n, K] (calibration.scores), and label and pred [n] as columns of these: ids ascending. Of a
    run with antithetic noise also between_pairs and within_pairs [n], metrics.pair_squares.
    """
    column = {int(c): k for k, c in enumerate(run.classes)}
    decide = decider(run)

    def score(record: dict) -> dict:
        if record["label"] not in column:
            raise InputError(f"image {record['index']}", f"its label {record['label']} is no class of the run")
        record = decide(record)
        return record | {key: column[record[key]] for key in ("label", "pred")}

    rows, problems = read_rows(run.done.values(), own=True, change=score, loss=run.loss)
    if not rows:
        raise InputError(run.folder, f"{problems[0] if problems else 'no image is done yet'}")
    keys = ["index", "nfe", "scores", "label", "pred"]
    if all("within_pairs" in row for row in rows):
        keys += ["between_pairs", "within_pairs"]
    return {key: np.array([row[key] for row in rows]) for key in keys}, problems


def read_full(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a run measured that measured every class at every point; InputError where it did not, or has rows alike.

    errors [images, rows, P], points in ascending levels, weighted where the run was; rows [images] of the labels, -1:
    none's; ascending levels [P]. Images are those of run.done, in its order.
    """
    errors, labels, levels = [], [], None
    if len(run.classes) < len(run.class_ids):  # a label would be one of its rows, and the others wrong
        raise InputError(run.folder, "several class ids mean one class, as ObjectNet's; wanted one for each")
    for index in run.done:
        record = record_of(run, index)
        P, counts = len(record["levels"]), record["counts"]
        if len(counts) < 2 or not (counts == P).all():
            wanted = "wanted a run of one stage, such as --to_keep 1 --n_samples 500"
            raise InputError(f"{run.folder}, image {index}", f"not every class was measured at every point; {wanted}")
        ascending = np.argsort(record["levels"].numpy(), kind="stable")
        if levels is not None and not np.array_equal(levels, record["levels"].numpy()[ascending]):
            raise InputError(f"{run.folder}, image {index}", "has other noise levels than the images before")
        levels = record["levels"].numpy()[ascending]
        of_arms = metrics.point_errors(record, run.loss).reshape(-1, P)[:, ascending]
        errors.append(metrics.class_means(of_arms, run.arm_class))
        labels.append(next(iter(np.flatnonzero(run.class_ids == record["label"])), -1))
    if not errors:
        raise InputError(run.folder, "no image is done yet")
    return np.array(errors), np.array(labels), levels


def read_calibration(run: Run) -> dict:
    """What scripts/calibrate.py wrote: temperature, fit (the share it was fitted on), seed, loss.

    InputError when there is nothing of it, or it is for another loss.
    """
    path = run.folder / "calibration.json"
    try:
        found = json.loads(path.read_text())
        read = {key: float(found[key]) for key in ("temperature", "fit")} | {"seed": int(found["seed"])}
        if not 0 < read["temperature"] < np.inf:
            raise ValueError(f"temperature {read['temperature']}")
        loss = str(found["loss"])
    except FileNotFoundError:
        raise InputError(path, f"no such file; {script('calibrate')} {run.folder} makes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged", error) from None
    if loss != run.loss:
        raise InputError(path, f"was fitted for --loss {loss}, wanted {run.loss}")
    return read
