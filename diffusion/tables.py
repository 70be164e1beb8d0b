"""Runs as pandas tables, a row for each image or example; their figures; comparison of runs on the same images."""

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion import InputError
from diffusion.data import catalogue
from diffusion.io import wording
from diffusion.matching import scores as matching_scores
from diffusion.runs import pack, records, results, show
from diffusion.runs.results import Run
from diffusion.stats import calibration, intervals, metrics
from diffusion.stats.intervals import Measure

FORMULA = (*"=+-@", *"\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # the last four are = + - @ in full width
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
SAME = ["dataset", "data", "split"]  # options that say which images a run is on


def is_matching(run: Run) -> bool:
    return "examples" in run.about


def read(folder: Path, loss: str | None = None) -> Run:
    """A run of any kind that has answers. InputError as from results.read."""
    matched = "examples" in records.read_run(records.run_folder(folder))
    return results.read(folder, "dataset", loss=loss, answers=not matched)


def read_same(folders: list[Path], loss: str | None = None) -> dict[str, Run]:
    """Runs on the same images, by short names that differ. InputError if they are on other images."""
    runs = [read(folder, loss) for folder in folders]
    for run in runs[1:]:
        for key in SAME:
            a, b = runs[0].options.get(key), run.options.get(key)
            if a != b:
                raise InputError(f"{runs[0].folder} and {run.folder} are on other images", f"{key} is {a!r} and {b!r}")
    first, last = wording.shared([run.folder.parts for run in runs])
    models = [Path(str(run.model)).name for run in runs]
    differing = ["/".join(run.folder.parts[first : len(run.folder.parts) - last]) for run in runs]
    for names in (models, differing):
        if len(set(names)) == len(runs):
            return dict(zip(names, runs, strict=True))
    raise InputError(f"{', '.join(str(run.folder) for run in runs)}", "wanted different runs")


def images(run: Run, *, vote: bool = False, scores: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """A row for each image that is done, and the problems of the others. InputError if none is done.

    Columns, if the run has them: index, file, group, label, label_name, rank (of the label among the classes, 0: it
    won), pred, pred_name, right, margin, decided, nfe, votes (see results.decider). `vote`: decide by the votes of the
    points. `scores`: "score" or "probability", adds a column for each class id.
    """
    names = results.names_of_classes(run)
    temperature = results.read_calibration(run)["temperature"] if scores == "probability" else None
    rows, problems = results.decided(run, vote, scores is not None)
    if not rows:
        raise results.nothing_done(run, problems)
    each = np.array([row.pop("scores") for row in rows]) if scores else None  # [n, K]
    for row in rows:
        for key in ("file", "group"):
            if isinstance(row.get(key), str):  # pandas refuses half a surrogate pair, as of a name that is not UTF-8
                row[key] = row[key].encode(errors="replace").decode()
    table = pd.DataFrame(rows).drop(columns=["candidates", "first_nfe"], errors="ignore")
    if show.answers(rows):
        table["right"] = table.pred == table.label
    else:
        table = table.drop(columns=["label", "rank"])
    for column in table.columns.intersection(["label", "pred"]):
        named = [names.get(class_id, str(class_id)) for class_id in table[column]]
        table.insert(table.columns.get_loc(column) + 1, f"{column}_name", named)
    if each is not None:
        columns = [f"{scores}_{class_id}" for class_id in run.classes]
        table[columns] = each if temperature is None else calibration.probabilities(each, temperature)
    return table, problems


def examples(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """A row for each example of a matching run that is done, and the problems of others. InputError if none is done.

    index, id, tags, nfe; text and, except for a race, image: the margin by which right ones beat wrong ones (0 or less:
    they do not; nan: no such question); right: all questions of the example are answered right.
    """
    done, problems = matching_scores.read_done(run)
    if not done:
        raise results.nothing_done(run, problems, "example")
    race = matching_scores.raced(run)
    rows = []
    for d in done:
        margins = {"text": d.text} if race else {"text": d.text, "image": d.image(False)}
        about = {"index": d.index, "id": d.item.id, "tags": ", ".join(d.item.tags)}
        rows.append(about | margins | {"right": d.margin(False, race) > 0, "nfe": d.nfe})
    return pd.DataFrame(rows), problems


def name_of(run: Run) -> str:
    """A run's folder below $LOG_DIR: DATASET_EXTRA/SEARCH, or DATASET_EXTRA/SEARCH/SPLIT if class-conditional."""
    if pack.is_pack(run.folder):
        return pack.opened(run.folder).files["name"]
    return "/".join(run.folder.absolute().parts[-3 if run.folder.name in catalogue.SPLITS else -2 :])


def to_csv(table: pd.DataFrame) -> str:
    """A table as csv, in which a spreadsheet finds no formula.

    A text that begins with = + - @, a tab or a line break gets a ' before it, as OWASP's page on CSV injection advises;
    numbers stay as they are, also in text columns.
    """

    def guarded(value):
        if not isinstance(value, str) or re.fullmatch(NUMBER, value):
            return value
        return f"'{value}" if value.startswith(FORMULA) else value

    table = table.rename(columns=guarded)
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    table[texts] = table[texts].map(guarded)
    return table.to_csv(index=False)


def rows_of(run: Run, **more) -> tuple[pd.DataFrame, list[str]]:
    """`examples` of a matching run, `images` of any other."""
    return examples(run) if is_matching(run) else images(run, **more)


def figures_of(run: Run, table: pd.DataFrame) -> list[Measure]:
    """The figures of a run from its `rows_of`: accuracies, or the scores of matching; [] if there are no labels."""
    if is_matching(run):
        done, _ = matching_scores.read_done(run)
        items = matching_scores.items_of_run(run)
        columns = matching_scores.columns(done, items, race=matching_scores.raced(run), normal=False)
        found = []
        for name, column in columns.items():
            share = metrics.share_of_clusters(column.hits, metrics.clusters(column.keys))
            found.append(Measure(f"{name}_score", f"{name} score", *share, len(column.hits), "Wilson, by cluster"))
        return found
    if "right" not in table:
        return []
    pred, label = table.pred.to_numpy(), table.label.to_numpy()
    found = intervals.accuracy(pred, label, 5 if len(run.classes) > 5 else None, table["rank"])
    return [*found, intervals.macro_f1(pred, label)]


# ---- side by side ----


def common(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The `rows_of` each run, limited to the images that all have, in one order. InputError if none, or no labels."""
    for name, table in rows.items():
        if "right" not in table:
            raise InputError(name, "its images have no labels")
    found = sorted(set.intersection(*(set(table["index"]) for table in rows.values())))
    if not found:
        raise InputError(", ".join(rows), "there is no image that all of these runs have done")
    return {name: table.set_index("index", drop=False).loc[found] for name, table in rows.items()}


def _runs(runs: dict[str, Run], rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each run, on the images that all have."""
    return pd.DataFrame(
        {
            "run": name,
            "images": len(rows[name]),
            "right, %": show.in_percent(*metrics.share(rows[name].right.to_numpy())),
            "NFE": f"{rows[name].nfe.mean():,.0f}",
            "folder": name_of(run),
        }
        for name, run in runs.items()
    )


def _pairs(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each pair of runs: the second minus the first."""
    lines = []
    for (a, first), (b, second) in itertools.combinations(rows.items(), 2):
        hits = first.right.to_numpy(), second.right.to_numpy()
        difference, (low, high), p = metrics.paired(*hits)
        answer = "pred" if "pred" in first and "pred" in second else "right"  # examples have no pred
        lines.append({
            "first": a,
            "second": b,
            "difference (second - first), points": f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
            "p": f"{p:.2g}",
            "agree, %": f"{100 * np.mean(first[answer].to_numpy() == second[answer].to_numpy()):.1f}",
            "only first right": int(np.sum(hits[0] & ~hits[1])),
            "only second right": int(np.sum(hits[1] & ~hits[0])),
        })  # fmt: skip
    return pd.DataFrame(lines)


def side_by_side(runs: dict[str, Run], rows: dict[str, pd.DataFrame]) -> tuple[list[pd.DataFrame], str]:
    """Two tables from the `rows_of` each run: a line for each run, a line for each pair; and notes on the comparison.

    If one run is a race of examples, which has only a text score, the others are compared by their text scores too.
    """
    same = common(rows)
    shared = len(next(iter(same.values())))
    notes = []
    if any(len(table) > shared for table in rows.values()):
        notes.append(f"On the {shared} images that all runs have done.")
    has_image = ["image" in table and bool(table.image.notna().any()) for table in same.values()]
    if any(has_image) and not all(has_image):
        same = {name: table.assign(right=table.text > 0) for name, table in same.items()}
        notes.append("By the text score alone: a race has no other.")
    return [_runs(runs, same), _pairs(same)], " ".join(notes)
