"""Runs read back: one view of a run for every script, its errors and scores as arrays, and the table of accuracy."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import InputError, calibration, measures, metrics, one_line, records
from diffusion.names import NO_LABEL, script


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
        raise InputError(f"{folder}: a run over a part of the classes, so there are no answers")
    if answers and "examples" in about:
        drawn = "print_winoground.py prints and draws it"
        raise InputError(f"{folder}: a run of run_winoground.py, whose captions are no classes; {drawn}")
    records.need(folder, about, *keys, "loss")
    decided = about["options"]["loss"]
    if loss and decided in ("cosine", "nll", "vote"):  # baselines and ensembles have one
        raise InputError(f"--loss {loss}: {folder} has {decided} only")
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

    It adds `scores` [K] (see diffusion.calibration), the label's `rank` among the K classes (K: it is none of them),
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
            raise InputError(f"image {record['index']}: its label {record['label']} is no class of the run")
        record = decide(record)
        return record | {key: column[record[key]] for key in ("label", "pred")}

    rows, problems = read_rows(run.done.values(), own=True, change=score, loss=run.loss)
    if not rows:
        raise InputError(f"{run.folder}: {problems[0] if problems else 'no image is done yet'}")
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
        raise InputError(f"{run.folder}: several class ids mean one class, as ObjectNet's; wanted one for each")
    for index in run.done:
        record = record_of(run, index)
        P, counts = len(record["levels"]), record["counts"]
        if len(counts) < 2 or not (counts == P).all():
            wanted = "wanted a run of one stage, such as --to_keep 1 --n_samples 500"
            raise InputError(f"{run.folder}, image {index}: not every class was measured at every point; {wanted}")
        ascending = np.argsort(record["levels"].numpy(), kind="stable")
        if levels is not None and not np.array_equal(levels, record["levels"].numpy()[ascending]):
            raise InputError(f"{run.folder}, image {index}: has other noise levels than the images before")
        levels = record["levels"].numpy()[ascending]
        of_arms = metrics.point_errors(record, run.loss).reshape(-1, P)[:, ascending]
        errors.append(metrics.class_means(of_arms, run.arm_class))
        labels.append(next(iter(np.flatnonzero(run.class_ids == record["label"])), -1))
    if not errors:
        raise InputError(f"{run.folder}: no image is done yet")
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
        raise InputError(f"no {path}; {script('calibrate')} {run.folder} makes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if loss != run.loss:
        raise InputError(f"{path} was fitted for --loss {loss}, wanted {run.loss}")
    return read


# ---- tables ----


def in_percent(p: float, interval: tuple[float, float]) -> str:
    """A share and its interval in a table's cell."""
    return f"{100 * p:.2f} ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def percent(p: float, interval: tuple[float, float]) -> str:
    return f"{100 * p:.2f}%  (95% interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def span(counts: Sequence[int]) -> str:
    """Counts in words: 4, or 2 to 5."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def line(measure: measures.Measure) -> tuple[str, str]:
    """Of a table: the name of a figure, and the figure with its interval."""
    return measure.name, percent(measure.value, measure.interval)


def answers(rows: list[dict]) -> tuple[np.ndarray, np.ndarray] | None:
    """pred and label [n] of rows that all have both."""
    if any("pred" not in row or row["label"] == NO_LABEL for row in rows):
        return None
    return tuple(np.array([row[key] for row in rows], dtype=int) for key in ("pred", "label"))


def print_accuracy(rows: list[dict], total: int, problems: list[str], top: int | None = None) -> int:
    """Print the table at the end of a run and of print_acc.py, then what is wrong; the exit code.

    With `top`, also how often the label is among so many best, from each row's `rank`; with `candidates` of the rows,
    also how often it is one of them; with `first_nfe`, what choosing those had cost.
    """
    nfe = [row["nfe"] for row in rows if "nfe" in row]
    lines = [("images", f"{len(rows)} of {total}")]
    if any(row["label"] == NO_LABEL for row in rows):
        lines.append(("labels", "none: predictions only"))
    elif both := answers(rows):  # a run over a part of the classes has no pred
        lines += map(line, measures.accuracy(*both, top, [row.get("rank", 0) for row in rows]))
    if rows and all("candidates" in row and row["label"] != NO_LABEL for row in rows):
        hits = np.array([row["label"] in row["candidates"] for row in rows], dtype=bool)
        sizes = [len(row["candidates"]) for row in rows]
        lines.append(("recall", f"{percent(*metrics.share(hits))}, among {span(sizes)} candidates"))
    if nfe:
        lines.append(("NFE per image", f"{np.mean(nfe):,.0f}  (in all {sum(nfe):,})"))
    if rows and all("first_nfe" in row for row in rows):
        lines.append(("first stage", f"{np.mean([row['first_nfe'] for row in rows]):,.0f} NFE per image"))
    if rows and all("within_pairs" in row for row in rows):
        both = (np.array([row[key] for row in rows]) for key in ("between_pairs", "within_pairs"))
        lines += pairs_line(*both)
    for name, value in lines:
        print(f"{name:<15} {value}")
    return report(problems)


def pairs_line(between: np.ndarray, within: np.ndarray) -> list[tuple[str, str]]:
    """How antithetic pairs correlate and what that saves, of metrics.pair_squares of n images [n]; none where unknown.

    The mean of a pair has the variance of 1 + rho of a point, in place of that of two: so a point counts as
    1 / (1 + rho) independent ones.
    """
    rho, (low, high) = metrics.pair_correlation(between, within)
    if not np.isfinite(rho):
        return []
    text = f"correlate {rho:+.2f}  (95% interval {low:+.2f} to {high:+.2f})"
    if low > 0:
        text += ": worse than independent noise, which --noise independent gives"
    elif high < 0:
        text += f": a point is as good as {1 / (1 + rho):.1f} of independent noise"
    return [("noise in pairs", text)]


def print_predictions(run: Run, indices: list[int], most: int = 20) -> None:
    """Of images without labels, at most so many: what each is, by how much the next class is worse, and the cost.

    Of a single image, every class. With calibration.json, probabilities too.
    """
    known = names_of_rows(run)
    temperature = read_calibration(run)["temperature"] if (run.folder / "calibration.json").exists() else None
    done = [index for index in indices if index in run.done]
    shown = done[:most]
    print(
        f"\n{'image':<32}{'class':<32}{'error above the best':>22}{'NFE':>8}"
        + f"{'probability':>13}" * bool(temperature)
    )
    for index in shown:
        record = record_of(run, index)
        winner = metrics.rescore(record, run.arm_class, run.loss)
        excess = metrics.excess(record, run.arm_class, winner, run.loss)
        p = None if temperature is None else calibration.probabilities(-np.maximum(excess, 0), temperature)
        file = one_line(str(record.get("file", index)), 30)
        order = [winner, *(k for k in np.argsort(excess, kind="stable") if k != winner)]
        for k in order if len(indices) == 1 else order[:1]:
            above = "the best" if k == winner else f"+{excess[k]:.3g}" if np.isfinite(excess[k]) else "not measured"
            if k == winner and len(indices) > 1:
                above = f"next +{excess[order[1]]:.3g}"
            above += "" if record.get("decided", True) or k != winner else ", undecided"
            last = f"{p[k]:>13.4f}" if temperature else ""
            print(f"{file:<32}{one_line(known[k], 30):<32}{above:>22}{record['nfe']:>8,}{last}")
    if len(done) > len(shown):
        print(f"and {len(done) - len(shown)} more: {script('plot_errors')} {run.folder} OUT.png draws them")


def report(problems: list[str], most: int = 20) -> int:
    """Print what was left out, at most so many lines of it; the exit code."""
    for problem in problems[:most]:
        print(f"not counted: {one_line(problem, None)}", file=sys.stderr)
    if len(problems) > most:
        print(f"not counted: {len(problems) - most} more", file=sys.stderr)
    return 1 if problems else 0
