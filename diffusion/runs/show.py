"""Printed tables of a run."""

import sys
from collections.abc import Sequence

import numpy as np

from diffusion import one_line
from diffusion.data.catalogue import NO_LABEL
from diffusion.paths import script
from diffusion.runs.results import Run, has_calibration, names_of_rows, read_calibration, record_of
from diffusion.stats import calibration, intervals, metrics

# ---- tables ----


def in_percent(p: float, interval: tuple[float, float]) -> str:
    """A share and its interval in a table's cell."""
    return f"{100 * p:.2f} ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def short_percent(p: float, interval: tuple[float, float]) -> str:
    """`in_percent` for a narrow column: one decimal."""
    return f"{100 * p:.1f} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def percent(p: float, interval: tuple[float, float]) -> str:
    """A share and its interval in a line of a table."""
    return f"{100 * p:.2f}%  (95% interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"


def span(counts: Sequence[int]) -> str:
    """The range of counts in words: 4, or 2 to 5."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def line(measure: intervals.Measure) -> tuple[str, str]:
    """A line of a table: the name of a figure, and the figure with its interval."""
    return measure.name, percent(measure.value, measure.interval)


def answers(rows: list[dict]) -> tuple[np.ndarray, np.ndarray] | None:
    """pred and label [n] of rows; None unless all rows have both."""
    if any("pred" not in row or row["label"] == NO_LABEL for row in rows):
        return None
    return column(rows, "pred", int), column(rows, "label", int)


def has(rows: list[dict], key: str) -> bool:
    """Whether there are rows, and all of them have a key."""
    return bool(rows) and all(key in row for row in rows)


def column(rows: list[dict], key: str, dtype: type = float) -> np.ndarray:
    """The values of a key of rows. [n]"""
    return np.array([row[key] for row in rows], dtype=dtype)


def print_accuracy(rows: list[dict], total: int, problems: list[str], top: int | None = None) -> int:
    """Print the table at the end of a run and of print_acc.py, then the problems; the exit code.

    With `top`, also how often the label is among so many best, from each row's `rank`; if the rows have `candidates`,
    also how often it is one of them; if they have `first_nfe`, also the cost of choosing these.
    """
    nfe = [row["nfe"] for row in rows if "nfe" in row]
    unlabelled = NO_LABEL in [row["label"] for row in rows]
    both = answers(rows)  # None: no labels, or a run over a part of the classes, which has no pred
    lines = [("images", f"{len(rows)} of {total}")]
    if unlabelled:
        lines.append(("labels", "none: predictions only"))
    elif both and rows:
        lines += map(line, intervals.accuracy(*both, top, [row.get("rank", 0) for row in rows]))
    if has(rows, "candidates") and not unlabelled:
        hits = np.array([row["label"] in row["candidates"] for row in rows], dtype=bool)
        sizes = [len(row["candidates"]) for row in rows]
        lines.append(("recall", f"{percent(*metrics.share(hits))}, among {span(sizes)} candidates"))
    if nfe:
        lines.append(("NFE per image", f"{np.mean(nfe):,.0f}  (in all {sum(nfe):,})"))
    if has(rows, "first_nfe"):
        lines.append(("first stage", f"{column(rows, 'first_nfe').mean():,.0f} NFE per image"))
    if has(rows, "within_pairs"):
        lines += pairs_line(column(rows, "between_pairs"), column(rows, "within_pairs"))
    for name, value in lines:
        print(f"{name:<15} {value}")
    return report(problems)


def pairs_line(between: np.ndarray, within: np.ndarray) -> list[tuple[str, str]]:
    """How antithetic pairs correlate and what that saves, from metrics.pair_squares of n images [n]; [] if undefined.

    The mean of a pair has the variance of a point times (1 + rho) / 2, in place of 1 / 2: so a point counts as
    1 / (1 + rho) independent ones.
    """
    rho, (low, high) = metrics.pair_correlation(between, within)
    if not np.isfinite(rho):
        return []
    text = f"correlation of a pair {rho:+.2f}, 95% interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        text = f"worse than independent noise, which --noise independent gives ({text})"
    elif high < 0:
        text = f"each evaluation is worth {1 / (1 + rho):.1f} with independent noise ({text})"
    return [("antithetic", text)]


def print_predictions(run: Run, indices: list[int], most: int = 20) -> None:
    """Print the answers of at most so many images without labels, with the cost and how much worse the next class is.

    For a single image, every class. With calibration.json, probabilities too.
    """
    names = names_of_rows(run)
    temperature = None
    if has_calibration(run.folder):
        temperature = read_calibration(run)["temperature"]
    done = [index for index in indices if index in run.done]
    shown = done[:most]
    header = f"\n{'image':<32}{'class':<32}{'error above the best':>22}{'NFE':>8}"
    print(header + f"{'probability':>13}" * bool(temperature))
    for index in shown:
        record = record_of(run, index)
        winner = metrics.rescore(record, run.arm_class, run.loss)
        excess = metrics.excess(record, run.arm_class, winner, run.loss)
        p = None
        if temperature is not None:
            p = calibration.probabilities(-np.maximum(excess, 0), temperature)
        file = one_line(str(record.get("file", index)), 30)
        order = np.argsort(excess, kind="stable")
        others = order[order != winner]
        lines = [winner, *others] if len(indices) == 1 else [winner]
        for k in lines:
            if k != winner and np.isfinite(excess[k]):
                above = f"+{excess[k]:.3g}"
            elif k != winner:
                above = "not measured"
            elif len(indices) == 1:
                above = "the best"
            else:
                above = f"next +{excess[others[0]]:.3g}"
            if k == winner and not record.get("decided", True):
                above += ", undecided"
            probability = "" if p is None else f"{p[k]:>13.4f}"
            print(f"{file:<32}{one_line(names[k], 30):<32}{above:>22}{record['nfe']:>8,}{probability}")
    if len(done) > len(shown):
        print(f"and {len(done) - len(shown)} more: {script('plot_errors')} {run.folder} OUT.png draws them")


def report(problems: list[str], most: int = 20) -> int:
    """Print the problems of what was left out, at most so many lines; the exit code."""
    for problem in problems[:most]:
        print(f"not counted: {one_line(problem, None)}", file=sys.stderr)
    if len(problems) > most:
        print(f"not counted: {len(problems) - most} more", file=sys.stderr)
    return 1 if problems else 0
