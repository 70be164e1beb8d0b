"""Runs as tables of pandas, one row an image or an example; their figures; runs on the same images."""

import csv
import itertools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion import InputError
from diffusion.io.wording import count
from diffusion.matching import scores as matching_scores
from diffusion.runs import differences, records, results, show, summary
from diffusion.runs.results import Run
from diffusion.runs.summary import name_of
from diffusion.stats import calibration, metrics
from diffusion.stats.intervals import Measure

FORMULA = (*"=+-@", *"\t\r\n", *"\uff1d\uff0b\uff0d\uff20")  # the last ones are = + - @ in full width
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
SCORES = ("score_", "probability_")  # begin the names of the columns of classes
AT_ONCE = 1000  # rows
SAME = ["dataset", "data", "split"]  # options that name the images of a run


def is_matching(run: Run) -> bool:
    return "examples" in run.description


def read(folder: str | Path, loss: str | None = None) -> Run:
    """A run of any kind that has answers. InputError as results.read."""
    matched = "examples" in records.read_run(records.find_run(folder))
    return results.read(folder, "dataset", loss=loss, answers=not matched)


def check_same(runs: list[Run]) -> None:
    """InputError if runs are on different images."""
    for run in runs[1:]:
        for key in SAME:
            a, b = runs[0].options.get(key), run.options.get(key)
            if a == b:
                continue
            differ = f"{key} is {a!r} and {b!r}"
            if key == "data":
                ours, theirs = records.images_of(runs[0].done.values()), records.images_of(run.done.values())
                unit = "example" if is_matching(run) else "image"
                differ = differences.data_in_words(a, b, ours, theirs, unit=unit, sides=differences.BOTH)
            raise InputError(run.folder, f"on other images than {runs[0].folder}: {differ}")


def read_same(folders: Sequence[str | Path], loss: str | None = None, names: list[str] | None = None) -> dict[str, Run]:
    """Runs on the same images, by `names` of the folders, or by those of `_distinct_names`.

    InputError if they are on different images, or have one name.
    """
    return _named([read(folder, loss) for folder in folders], names)


def _named(runs: list[Run], names: list[str] | None) -> dict[str, Run]:
    """`read_same`, of runs that are read."""
    check_same(runs)
    called = names or _distinct_names(runs)
    if len(set(called)) == len(runs):
        return dict(zip(called, runs, strict=True))
    if names:
        raise InputError(f"--names {' '.join(names)}", "two runs have one name")
    raise _not_different(runs)


def check_names(names: list[str] | None, folders: Sequence[str | Path]) -> None:
    """InputError if there are --names, and not one for each folder."""
    if names and len(names) != len(folders):
        raise InputError(f"--names {' '.join(names)}", f"wanted {len(folders)}, one for each folder")


def _distinct_names(runs: list[Run]) -> list[str]:
    """Names of runs on the same images, by what differs between them.

    Their models, or their prompts, or both; and if these are alike the parts of the folders that differ. Not distinct
    if two folders are the same.
    """
    models = _models(runs)
    prompts = differences.prompts_that_differ([run.description for run in runs])
    both = list(map(_joined, models, prompts))
    for names in (models, prompts, both):
        if len(set(names)) == len(runs) and all(names):
            return names
    folders = differences.different_parts([run.folder for run in runs])
    return list(map(_joined, prompts, folders))


def _joined(first: str, second: str) -> str:
    return ", ".join(filter(None, (first, second)))


def _models(runs: list[Run]) -> list[str]:
    return [Path(str(run.model)).name for run in runs]


def _models_and_prompts(runs: list[Run], groups: dict[str, list[int]]) -> list[str]:
    """The model of each run and, if the runs of its data set have different prompts, its prompts."""
    names = _models(runs)
    for members in groups.values():
        prompts = differences.prompts_that_differ([runs[k].description for k in members])
        for k, words in zip(members, prompts, strict=True):
            names[k] = _joined(names[k], words)
    return names


def _not_different(runs: list[Run]) -> InputError:
    folders = ", ".join(str(run.folder) for run in runs)
    return InputError(folders, "wanted different runs")


def _data_of(runs: list[Run]) -> list[str]:
    """The data set and split of each run in words: those of the first run on them.

    Runs from before data without splits were marked name a split, others on the same data do not.
    """
    words: dict[tuple, str] = {}
    for run in runs:
        words.setdefault(_data_and_split(run), run.data)
    return [words[_data_and_split(run)] for run in runs]


def _data_and_split(run: Run) -> tuple:
    return run.options["dataset"], run.options.get("split")


def read_groups(
    folders: Sequence[str | Path], loss: str | None = None, names: list[str] | None = None
) -> dict[str, dict[str, Run]]:
    """Runs by data set, and by name: `names` of the folders, or short ones that are distinct on each data set.

    InputError if two runs are on different images of one data set and split, or have one name on one data set.
    """
    runs = [read(folder, loss) for folder in folders]
    data = _data_of(runs)
    groups: dict[str, list[int]] = {}
    for k, words in enumerate(data):
        groups.setdefault(words, []).append(k)
    for members in groups.values():
        check_same([runs[k] for k in members])
    if names is None and len(groups) == 1:
        return {data[0]: _named(runs, None)}

    choices = [names]
    if names is None:
        folders_of_runs = list(map(name_of, runs))
        searches = [folder.partition("/")[2] for folder in folders_of_runs]
        choices = [_models(runs), _models_and_prompts(runs, groups), searches, folders_of_runs]
    for each in choices:
        named: dict[str, dict[str, Run]] = {}
        for run, words, name in zip(runs, data, each, strict=True):
            named.setdefault(words, {})[name] = run
        if sum(map(len, named.values())) == len(runs):
            return named
    if names is None:
        raise _not_different(runs)
    raise InputError(f"--names {' '.join(names)}", "two runs on one data set have one name")


def images(run: Run, *, vote: bool = False, scores: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """One row for each image that is done, and what is wrong with the others. InputError if none is done.

    index, file, group, label, label_name, rank (of the label among the classes, 0: it won), pred, pred_name, right,
    margin, decided, nfe, votes (see results.decider), as far as the run has them. `vote`: the points vote. `scores`:
    "score" or "probability", with a column for each class, score_NAME, in the order of class ids; with probabilities
    also `fitted_on`, whether the temperature was fitted on the image.
    """
    fit = None
    if scores == "probability":
        fit = results.read_calibration(run)
    if scores:
        rows, of_classes, problems = results.decided_with_scores(run, vote)
    else:
        rows, problems = results.decided(run, vote, scores=False)
    if not rows:
        raise results.nothing_done(run, problems)

    for row in rows:
        for key in ("file", "group"):
            if isinstance(row.get(key), str):  # pandas refuses half a surrogate pair, as of a name that is not UTF-8
                row[key] = row[key].encode(errors="replace").decode()
    table = pd.DataFrame(rows).drop(columns=["candidates", "first_nfe"], errors="ignore")
    if show.answers(rows):
        table["right"] = table.pred == table.label
    else:
        table = table.drop(columns=["label", "rank"])
    _insert_names(table, results.names_of_classes(run))

    if fit:
        table["fitted_on"] = calibration.fitted_on(table["index"].to_numpy(), fit["fit"], fit["seed"])
        calibration.to_probabilities(of_classes, fit["temperature"])
    if scores:
        columns = pd.DataFrame(of_classes, columns=_class_columns(run, scores), index=table.index, copy=False)
        table = pd.concat([table, columns], axis=1)
    return table, problems


def _insert_names(table: pd.DataFrame, names: dict[int, str]) -> None:
    """Insert label_name and pred_name behind label and pred, as far as the table has them; names by class id."""
    for column in table.columns.intersection(["label", "pred"]):
        named = [names.get(class_id, str(class_id)) for class_id in table[column]]
        table.insert(table.columns.get_loc(column) + 1, f"{column}_name", named)


def _class_columns(run: Run, prefix: str) -> list[str]:
    """A column's name for each class: its name, with its id if another class has the same name."""
    names = results.names_of_classes(run)
    counts = Counter(names.values())
    columns = []
    for class_id in run.classes.tolist():
        column = f"{prefix}_{names[class_id]}"
        if counts[names[class_id]] > 1:
            column += f"_{class_id}"
        columns.append(column)
    return columns


def examples(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """One row for each example of a matching run that is done, and what is wrong with the others.

    index, id, tags, nfe; text and image, the margins of these scores: positive if the score is right, nan if the
    example has no such score (a race has no image score); right, whether all of its scores are. InputError if no
    example is done.
    """
    done, problems = matching_scores.read_done(run)
    if not done:
        raise results.nothing_done(run, problems, "example")
    race = matching_scores.raced(run)
    rows = []
    for d in done:
        row = {"index": d.index, "id": d.item.id, "tags": ", ".join(d.item.tags), "text": d.text}
        if not race:
            row["image"] = d.image(False)
        row["right"] = d.margin(False, race) > 0
        row["nfe"] = d.nfe
        rows.append(row)
    return pd.DataFrame(rows), problems


def parts_of(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table in parts of a few rows, at least one part: the text of all rows takes several times its memory."""
    for k in range(0, max(len(table), 1), AT_ONCE):
        yield table.iloc[k : k + AT_ONCE]


def to_csv(table: pd.DataFrame) -> Iterator[str]:
    """A table as csv, in parts. No text is a formula to a spreadsheet.

    A text that begins with = + - @, a tab or a line break gets a ' before it, as OWASP's page on CSV injection advises;
    numbers stay as they are, also those in texts. The file is that of DataFrame.to_csv, which takes three times as long
    (pandas 3.1), since it copies numbers into an array of objects.
    """
    writer = csv.writer(_Echo(), lineterminator="\n")
    lines = [writer.writerow(map(_cell, table.columns))]
    for part in parts_of(table):
        for cells, numbers in zip(*_rows_of(part), strict=True):
            line = writer.writerow(map(_cell, cells))
            if numbers:
                texts = ",".join(map(repr, numbers)).replace("nan", "")  # nan: a class of another run
                line = f"{line[:-1]},{texts}\n"
            lines.append(line)
        yield "".join(lines)
        lines = []


def _cell(value):
    """A value of a table as it is written to a csv: "" for one that is missing, a text that is no formula."""
    if pd.isna(value):
        return ""
    if isinstance(value, str) and value.startswith(FORMULA) and not re.fullmatch(NUMBER, value):
        return f"'{value}"
    return value


class _Echo:
    """A file that keeps nothing: csv.writer returns what `write` returns."""

    def write(self, text: str) -> str:
        return text


def to_json_lines(table: pd.DataFrame) -> Iterator[str]:
    """A line of JSON for each row, in which a number reads back bit for bit; null stands for nan and infinity.

    DataFrame.to_json rounds to 15 decimals at most (pandas 2), and a double needs up to 17 digits.
    """
    names = list(table.columns)
    scored = len(names) - _trailing(table)
    keys = [f", {json.dumps(name, ensure_ascii=False)}: " for name in names[scored:]]
    for part in parts_of(table):
        for cells, numbers in zip(*_rows_of(part), strict=True):
            row = {}
            for name, value in zip(names[:scored], cells, strict=True):
                infinite = isinstance(value, float) and not math.isfinite(value)
                row[name] = None if infinite else value
            line = json.dumps(row, ensure_ascii=False)
            if numbers:
                texts = map(float.__repr__, numbers)
                if not math.isfinite(sum(numbers)):
                    texts = [repr(value) if math.isfinite(value) else "null" for value in numbers]
                line = line[:-1] + "".join(map(operator.add, keys, texts)) + "}"
            yield f"{line}\n"


def _trailing(table: pd.DataFrame) -> int:
    """The number of columns at the end of a table that `images` adds for scores: many, and all of them float64."""
    columns = list(zip(table.columns, table.dtypes, strict=True))
    count = 0
    for name, dtype in reversed(columns[1:]):
        if not str(name).startswith(SCORES) or dtype != np.float64:
            break
        count += 1
    return count


def _rows_of(part: pd.DataFrame) -> tuple[list[tuple], list[list[float]]]:
    """The rows of a table as values of Python: its first columns, and those of `_trailing`."""
    first = part.shape[1] - _trailing(part)
    cells = part.iloc[:, :first].itertuples(index=False, name=None)
    return list(cells), part.iloc[:, first:].to_numpy(np.float64).tolist()


def rows_of(run: Run, **more) -> tuple[pd.DataFrame, list[str]]:
    """`examples` of a matching run, `images` of any other."""
    return examples(run) if is_matching(run) else images(run, **more)


def figures_of(run: Run, table: pd.DataFrame) -> list[Measure]:
    """The figures of a run from its `rows_of`: accuracies, or the scores of matching; [] if it has no labels."""
    if is_matching(run):
        return matching_scores.measures(run)
    if "right" not in table:
        return []
    return summary.measures(run, table.pred.to_numpy(), table.label.to_numpy(), table["rank"].to_numpy())


# ---- side by side ----


def rows_of_runs(runs: dict[str, Run]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """`rows_of` of each run, and the problems of all of them."""
    rows, problems = {}, []
    for name, run in runs.items():
        rows[name], wrong = rows_of(run)
        problems += wrong
    return rows, problems


def common(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Each run's `rows_of` for the images that all have, in one order. InputError: there are none, or no labels."""
    for name, table in rows.items():
        if "right" not in table:
            raise InputError(name, "its images have no labels")
    done = [set(table["index"]) for table in rows.values()]
    shared = sorted(set.intersection(*done))
    if not shared:
        raise InputError(", ".join(rows), "there is no image that all of these runs have done")
    return {name: table.set_index("index", drop=False).loc[shared] for name, table in rows.items()}


def comparable(rows: dict[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], str]:
    """`common`, with the text scores alone if some runs have no other; and a note if either changes something.

    A race of examples has a text score alone.
    """
    same = common(rows)
    notes = []
    shared = len(next(iter(same.values())))
    if max(map(len, rows.values())) > shared:
        notes.append(f"On the {count(shared, 'image')} that all runs have done.")
    asked = ["image" in table and bool(table.image.notna().any()) for table in same.values()]
    if any(asked) and not all(asked):
        same = {name: table.assign(right=table.text > 0) for name, table in same.items()}
        notes.append("By the text score alone: a race has no other.")
    return same, " ".join(notes)


def accuracy_of(table: pd.DataFrame) -> str:
    """Accuracy in percent, with its interval, of a run's rows."""
    return show.in_percent(*metrics.share(table.right.to_numpy()))


def mean_nfe(table: pd.DataFrame) -> str:
    """The mean cost of an image or example, of a run's rows."""
    return f"{table.nfe.mean():,.0f}"


def _runs(runs: dict[str, Run], rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each run, on the images that all have."""
    lines = []
    for name, run in runs.items():
        table = rows[name]
        lines.append({
            "run": name,
            "images": len(table),
            "right, %": accuracy_of(table),
            "NFE": mean_nfe(table),
            "folder": name_of(run),
        })  # fmt: skip
    return pd.DataFrame(lines)


def pairs(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each pair of runs, from `comparable` rows: the paired difference of their accuracies."""
    lines = []
    for (a, first), (b, second) in itertools.combinations(rows.items(), 2):
        right_a, right_b = first.right.to_numpy(), second.right.to_numpy()
        difference, (low, high), p = metrics.paired(right_a, right_b)
        answer = "pred" if "pred" in first and "pred" in second else "right"  # examples have no answer
        agree = np.mean(first[answer].to_numpy() == second[answer].to_numpy())
        lines.append({
            "first": a,
            "second": b,
            "difference (second - first), points": f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
            "p": f"{p:.2g}",
            "agree, %": f"{100 * agree:.1f}",
            "only first right": int(np.sum(right_a & ~right_b)),
            "only second right": int(np.sum(right_b & ~right_a)),
        })  # fmt: skip
    return pd.DataFrame(lines)


def side_by_side(runs: dict[str, Run], rows: dict[str, pd.DataFrame]) -> tuple[list[pd.DataFrame], str]:
    """Runs on one data set: a table with a line for each run, one with a line for each pair; and a note."""
    same, note = comparable(rows)
    return [_runs(runs, same), pairs(same)], note


def over_data(groups: dict[str, dict[str, Run]]) -> tuple[list[pd.DataFrame], str, list[str]]:
    """Runs on several data sets: accuracy and NFE, models down and data sets across, and a line for each pair.

    groups: as `read_groups`. Returns the tables, a note, and what is wrong with images that are not counted.
    """
    groups = _short_titles(groups)
    accuracy: dict[str, dict[str, str]] = {}  # data set -> run -> cell
    nfe: dict[str, dict[str, str]] = {}
    lines, notes, problems = [], [], []
    for data, runs in groups.items():
        rows, wrong = rows_of_runs(runs)
        problems += wrong
        same, note = comparable(rows)
        if note:
            notes.append(f"{data}: {note}")
        accuracy[data], nfe[data] = {}, {}
        for name, table in same.items():
            accuracy[data][name] = accuracy_of(table)
            nfe[data][name] = mean_nfe(table)
        if len(same) > 1:
            lines.append(pairs(same).assign(data=data))
    names = dict.fromkeys(itertools.chain.from_iterable(groups.values()))  # a set has no order
    tables = [_across(accuracy, names, "right, %"), _across(nfe, names, "NFE")]
    if lines:
        all_pairs = pd.concat(lines, ignore_index=True)
        all_pairs.insert(0, "data", all_pairs.pop("data"))
        tables.append(all_pairs)
    return tables, " ".join(notes), problems


def _short_titles(groups: dict[str, dict[str, Run]]) -> dict[str, dict[str, Run]]:
    """The groups by the name of their data set alone, if no two are splits of one data set."""
    titles = []
    for runs in groups.values():
        first = next(iter(runs.values()))
        titles.append(Path(first.options["dataset"]).name)
    if len(set(titles)) < len(groups):
        return groups
    return dict(zip(titles, groups.values(), strict=True))


def _across(cells: dict[str, dict[str, str]], names: Iterable[str], corner: str) -> pd.DataFrame:
    """A line for each name, a column for each data set; "-": no run."""
    lines = []
    for name in names:
        line = {corner: name}
        for data, cell_of in cells.items():
            line[data] = cell_of.get(name, "-")
        lines.append(line)
    return pd.DataFrame(lines)
