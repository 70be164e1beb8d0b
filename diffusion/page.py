"""The page of a run, or of several on the same images: what scripts/report.html.jinja shows."""

import datetime
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

import diffusion
from diffusion import InputError, one_line, paths, tables
from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.datasets import Dataset, as_seen, dataset_of
from diffusion.plots import confidence, style, svg
from diffusion.runs import pack, results, show
from diffusion.stats import calibration, intervals, metrics

MATRIX = 20  # up to so many classes, the confusion is a matrix; else a list of so many pairs
PROMPTS = 3  # shown in the text; all of them in a table
METHOD = (
    "Noise is added to an image, and a diffusion model predicts this noise once under each candidate class: the class "
    "under which it predicts best is the answer. Each prediction is one network evaluation (NFE), the unit of cost; a "
    "point is one noise level with one noise sample, and classes are compared at the same points."
)
BASELINE = (
    "The model scores every class of an image at once, and the class with the best score is the answer. NFE counts the "
    "evaluations of its network, the unit of cost."
)


@dataclass(frozen=True)
class Answers:
    """The images of a run that are done; columns of scores are the run's classes."""

    run: results.Run
    index: np.ndarray  # [n]
    nfe: np.ndarray  # [n]
    scores: np.ndarray  # [n, K]
    pred: np.ndarray  # [n] columns
    label: np.ndarray | None  # [n] columns; None: an unlabelled run
    pairs: tuple[np.ndarray, np.ndarray] | None  # between and within pairs [n], of antithetic noise
    problems: list[str]

    @cached_property
    def runner_up(self) -> np.ndarray:
        """The column of the class with the best score beside the answer. [n]"""
        others = self.scores.copy()
        others[np.arange(len(others)), self.pred] = -np.inf
        return others.argmax(1)

    @cached_property
    def lead(self) -> np.ndarray:
        """By how much the mean error of the runner-up is larger than that of the answer, inf: no other class. [n]"""
        rows = np.arange(len(self.scores))
        lead = -self.scores[rows, self.runner_up]
        return np.where(self.runner_up == self.pred, np.inf, lead)


def read_answers(run: results.Run) -> Answers:
    """InputError if no image is done."""
    column = {int(class_id): k for k, class_id in enumerate(run.classes)}
    rows, problems = results.decided(run)
    labelled = any(row["label"] != catalogue.NO_LABEL for row in rows)
    if labelled:
        for row in rows:
            if row["label"] not in column:
                problems.append(f"image {row['index']}: its label {row['label']} is no class of the run")
        rows = [row for row in rows if row["label"] in column]
    if not rows:
        raise InputError(run.folder, problems[0] if problems else "no image is done yet")

    pairs = None
    if all("within_pairs" in row for row in rows):
        between = np.array([row["between_pairs"] for row in rows])
        pairs = between, np.array([row["within_pairs"] for row in rows])
    label = np.array([column[row["label"]] for row in rows]) if labelled else None
    return Answers(
        run,
        np.array([row["index"] for row in rows]),
        np.array([row["nfe"] for row in rows]),
        np.array([row["scores"] for row in rows]),
        np.array([column[row["pred"]] for row in rows]),
        label,
        pairs,
        problems + results.failures(run.folder, run.description),
    )


# ---- numbers ----


def running_difference(record: dict, arm_class: np.ndarray, first: int, second: int, loss: str) -> np.ndarray:
    """Mean error of one class minus that of another after the first 1, 2, ... points measured for both. [n]

    first and second are rows of classes; n is 0 if one of them was not measured.
    """
    a, b = (metrics.errors_of_class(record, arm_class, row, loss) for row in (first, second))
    n = min(len(a), len(b))
    return np.cumsum(a[:n] - b[:n]) / np.arange(1, n + 1)


def row_of(record: dict, run: results.Run, class_id: int) -> int:
    """The row of a class in this record; the best one if several rows stand for the class."""
    rows = np.flatnonzero(run.class_ids == class_id)
    if len(rows) == 1:
        return int(rows[0])
    among = np.isin(np.arange(len(run.class_ids)), rows)
    return metrics.rescore(record, run.arm_class, run.loss, among)


def numbers_of(answers: Answers) -> list[tuple[str, str]]:
    """The lines of the first table."""
    run, nfe = answers.run, answers.nfe
    total = max(run.description["images"], len(nfe))
    table = [("images", f"{len(nfe):,} of {total:,}")]
    if answers.label is not None:
        columns = zip(answers.scores, answers.label, answers.pred, strict=True)
        ranks = np.array([calibration.rank(*each) for each in columns])
        top = 5 if len(run.classes) > 5 else None
        for measure in intervals.accuracy(answers.pred, answers.label, top, ranks):
            name, value = show.line(measure)
            table.append((name.removesuffix(" accuracy"), value))
        if run.options.get("candidates"):
            measured = np.isfinite(answers.scores)
            hits = measured[np.arange(len(nfe)), answers.label]
            recall = f"{show.percent(*metrics.share(hits))}, among {show.span(measured.sum(1))} candidates"
            table.append(("recall", recall))
    cost = f"mean {nfe.mean():,.0f}, median {np.median(nfe):,.0f}, at most {nfe.max():,}; in all {nfe.sum():,}"
    table.append(("NFE per image", cost))
    if answers.pairs:
        table += show.pairs_line(*answers.pairs)
    return table


def evaluations(nfe: np.ndarray) -> str:
    """The mean NFE in words."""
    plural = "s" if nfe.mean() >= 1.5 else ""
    return f"{nfe.mean():,.0f} network evaluation{plural}"


def cost_of(nfe: np.ndarray) -> str:
    """How the evaluations [n] are spread over the images, in one sentence or two."""
    if nfe.min() == nfe.max():
        return f"Every image took {evaluations(nfe)}."
    tenth = len(nfe) // 10
    if tenth == 0:
        return "Evaluations per image."
    share = np.sort(nfe)[-tenth:].sum() / nfe.sum()
    return f"Evaluations per image. The most expensive 10% of images took {share:.0%} of all evaluations."


def lead_of(answers: Answers) -> str:
    """The result of a run in one sentence."""
    cost = f"at {evaluations(answers.nfe)} an image"
    if answers.label is None:
        return f"{len(answers.pred):,} images without labels, {cost}."
    right = answers.pred == answers.label
    p, (low, high) = metrics.share(right)
    share = f"{100 * p:.2f}% (95% interval {100 * low:.2f} to {100 * high:.2f})"
    return f"{right.sum():,} of {len(right):,} images right: {share}, {cost}."


def confusion_of(answers: Answers, names: list[str]) -> tuple[list | None, list | None]:
    """A matrix for few classes, else the most confused pairs (true, predicted, images).

    A row of the matrix: name, and for each predicted class the count, its tint in percent, and whether it is right.
    """
    counts = metrics.confusion(answers.pred, answers.label, list(range(len(names))))
    if len(names) > MATRIX:
        wrong = Counter()
        for r, c in np.argwhere(counts).tolist():
            if r != c:
                wrong[names[r], names[c]] = int(counts[r, c])
        return None, [(*pair, images) for pair, images in wrong.most_common(MATRIX)]
    tints = 45 * counts / counts.sum(1, keepdims=True).clip(1)
    matrix = []
    for r, name in enumerate(names):
        cells = []
        for c in range(len(names)):
            cells.append((int(counts[r, c]), round(tints[r, c]), r == c))
        matrix.append((name, cells))
    return matrix, None


@dataclass(frozen=True)
class Confidence:
    """How confident the answers are, if that is known, and how right these numbers are."""

    sure: np.ndarray | None  # [n] probability of each answer
    text: str
    diagram: str | None = None


def has_temperature(run: results.Run) -> bool:
    """Whether scripts/calibrate.py was run on it."""
    if pack.is_pack(run.folder):
        return pack.opened(run.folder).files["calibration.json"] is not None
    return (run.folder / "calibration.json").exists()


def confidence_of(answers: Answers, id: str) -> Confidence:
    """By the temperature of scripts/calibrate.py, checked on the images that it was not fitted on."""
    run = answers.run
    if not has_temperature(run):
        if answers.label is None:
            return Confidence(None, "No probabilities: a temperature for them is fitted on labels, and there are none.")
        made = f"{paths.script('calibrate')} FOLDER fits the temperature that makes them"
        return Confidence(None, f"No probabilities yet: {made}.")
    try:
        fit = results.read_calibration(run)
    except InputError as error:
        return Confidence(None, f"No probabilities: {error}.")
    sure = calibration.probabilities(answers.scores, fit["temperature"]).max(1)
    if answers.label is None:
        return Confidence(sure, "There are no labels to check the probabilities on.")
    held = ~calibration.fitted_on(answers.index, fit["fit"], fit["seed"])
    n = int(held.sum())
    if n == 0:
        return Confidence(sure, "The temperature was fitted on all of these images; none is left to check it on.")
    hit = answers.pred[held] == answers.label[held]
    error = calibration.ece(sure[held], hit)
    chance = calibration.ece_by_chance(sure[held])
    text = f"Expected calibration error {error:.3f} on the {n} images that the temperature was not fitted on"
    text += f" ({chance:.3f} is expected by chance if all probabilities are right)."
    if n < confidence.FEW:
        return Confidence(sure, f"{text} A diagram of confidence against accuracy needs {confidence.FEW} such images.")
    return Confidence(sure, f"{text} Lines: 95% intervals.", svg.draw_reliability(sure[held], hit, id))


# ---- cards ----


def chosen_of(answers: Answers, sure: np.ndarray | None, most: int, others: int) -> dict[str, list[int]]:
    """Which answers are shown, rows of `answers`: the most confident mistakes, the least certain, and right ones.

    Least certain is in the order of the number that the cards print: the probability, or the lead if there is none.
    """
    certainty = answers.lead if sure is None else sure
    uncertain = np.argsort(certainty, kind="stable")[:others].tolist()
    if answers.label is None:
        surest = [k for k in np.argsort(-certainty, kind="stable").tolist() if k not in uncertain]
        return {"mistakes": [], "uncertain": uncertain, "right": surest[:others]}
    right = np.flatnonzero(answers.label == answers.pred)
    wrong = np.flatnonzero(answers.label != answers.pred)
    behind = -answers.scores[wrong, answers.label[wrong]]  # how much worse the label is; inf: not measured
    order = np.where(np.isfinite(behind), behind, -1) if sure is None else sure[wrong]
    return {
        "mistakes": wrong[np.argsort(-order, kind="stable")][:most].tolist(),
        "uncertain": uncertain,
        "right": right[even(min(others, len(right)), len(right))].tolist(),
    }


def compared_with(answers: Answers, k: int, kind: str) -> int:
    """The column of the class that an answer is compared with: the label for a mistake, else the runner-up."""
    return int(answers.label[k] if kind == "mistakes" else answers.runner_up[k])


def text_of(answers: Answers, k: int, other: int, record: dict, sure: float | None, names: list[str]) -> tuple:
    """The text of a card, and the curve of the other class's error minus the answer's."""
    run, pred = answers.run, int(answers.pred[k])
    text = "" if sure is None else f"{sure:.1%} confident. "
    if other == pred or not np.isfinite(answers.scores[k, other]):
        lacking = "No other class was measured." if other == pred else f"{names[other]} was not measured."
        return text + lacking, np.zeros(0)
    rows = [row_of(record, run, int(run.classes[column])) for column in (other, pred)]
    curve = running_difference(record, run.arm_class, *rows, run.loss)
    if not len(curve):
        return text + f"{names[other]} was not measured.", curve
    points = "1 shared point" if len(curve) == 1 else f"{len(curve)} shared points"
    side = "ahead of" if curve[-1] >= 0 else "behind"
    return text + f"{side.capitalize()} {names[other]} by {abs(curve[-1]):.3g} after {points}.", curve


def cards(answers: Answers, chosen: dict[str, list[int]], sure: np.ndarray | None, id: str, dataset: Dataset | None):
    """By kind, what is shown of the chosen answers; and why an image cannot be shown, "" if all can."""
    run, gone = answers.run, ""
    names = _names(run)
    shown = {}
    for kind, rows in chosen.items():
        shown[kind] = []
        for k in rows:
            index, pred = int(answers.index[k]), int(answers.pred[k])
            label = None if answers.label is None else int(answers.label[k])
            other = compared_with(answers, k, kind)
            record = results.record_of(run, index)
            text, curve = text_of(answers, k, other, record, None if sure is None else sure[k], names)
            image = None
            if dataset:
                try:
                    image = as_seen(dataset, index, run.options)
                except (InputError, IndexError) as error:
                    gone = gone or f"Not every image can be shown: {one_line(error)}"
            colour = style.outcome_colour(pred, label, labelled=label is not None)
            drawn = svg.draw_curve(curve, f"{id}{kind[0]}{index}", text, colour) if len(curve) > 1 else ""
            shown[kind].append({
                "index": index, "file": record.get("file", ""), "answer": names[pred],
                "true": "" if label is None else names[label],
                "outcome": {style.RIGHT: "right", style.WRONG: "wrong", style.ACCENT: "accent"}[colour], "text": text,
                "picture": None if image is None else svg.picture(image),
                "small": image is not None and max(image.shape) < 96, "curve": Markup(drawn),
            })  # fmt: skip
    return shown, gone


def _names(run: results.Run) -> list[str]:
    """The names of the run's classes, by column."""
    names = results.names_of_classes(run)
    return [names[class_id] for class_id in run.classes.tolist()]


# ---- about the run ----


def local(value) -> str:
    """As text, without the folders of an absolute path: pages travel, and those are this machine's."""
    return Path(str(value)).name if os.path.isabs(str(value)) else str(value)


def options_of(run: results.Run) -> list[tuple[str, str]]:
    """Every option that can change a number; hashes are abbreviated."""
    found = []
    for key, value in run.options.items():
        found.append((key, re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", local(value))))
    return found


def prompts_of(run: results.Run) -> tuple[str, list[tuple[str, str]]]:
    """A line about the prompts with some of them, and all of them with their class; [] for class ids."""
    arms = [(name, text) for text, name, _ in run.description["arms"] if isinstance(text, str)]
    if not arms:
        return f"{len(run.description['arms'])} class ids, no prompts", []
    if run.description.get("prompts"):
        sentence = re.sub(r"(?<=, from )/.*?(?=, such as )", lambda path: local(path[0]), run.description["prompts"])
        return sentence, arms
    some = ", ".join(f"“{text}”" for _, text in arms[:PROMPTS])
    more = ", ..." if len(arms) > PROMPTS else ""
    return f"{len(arms)} prompts for {len(run.classes)} classes: {some}{more}", arms


def facts_of(run: results.Run) -> list[tuple[str, str]]:
    """When, with what and how a run was measured."""
    files = [run.folder] if pack.is_pack(run.folder) else run.done.values()
    last = max(os.path.getmtime(path) for path in files)
    day = datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat()
    versions = run.description.get("versions") or {}
    facts = [
        ("model", local(run.model)),
        ("data", local(run.data)),
        ("prompts", prompts_of(run)[0]),
        ("measured", f"{day} (the last image)"),
    ]
    command = run.description.get("command")
    if command:
        facts.append(("command", " ".join(local(word) for word in command.split())))
    if versions:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    facts.append(("page", f"made by diffusion-classifier {diffusion.__version__}"))
    facts.append(("folder", f"{run.folder.resolve().name}, decided by {run.loss}"))
    return facts


# ---- the page ----


def content(answers: Answers, mistakes: int, others: int, number: int) -> dict:
    """The variables of the template for a run; number: which of several, 0 if there is one.

    mistakes, others: how many of each kind of answer are shown at most.
    """
    run, nfe = answers.run, answers.nfe
    id = f"run{number}-" if number else ""  # begins the ids of its sections
    names, labelled = _names(run), answers.label is not None
    sureness = confidence_of(answers, id)
    try:
        dataset, gone = dataset_of(run.description, catalogue.DATASET_ROOT), ""
    except InputError as error:
        dataset, gone = None, f"The images cannot be shown: {error}"
    chosen = chosen_of(answers, sureness.sure, mistakes, others)
    shown, lost = cards(answers, chosen, sureness.sure, id, dataset)

    matrix, confused, classes = None, None, []
    if labelled:
        matrix, confused = confusion_of(answers, names)
        for column, (right, images) in metrics.per_class(answers.pred, answers.label).items():
            classes.append((names[column], right, images))
        classes.sort(key=lambda each: (each[1] / each[2], each[0]))
    counts = np.bincount(answers.pred, minlength=len(names))
    predicted = [(names[k], int(counts[k])) for k in np.argsort(-counts, kind="stable") if counts[k]]

    titles = {"accuracy": "Accuracy" if labelled else "Predictions"}
    if labelled:
        titles["confusion"] = "Confusion"
    titles["confidence"] = "Confidence and cost"
    if labelled:
        titles["mistakes"] = "Mistakes"
    titles["answers"] = "Other answers" if labelled else "Answers"
    if answers.problems:
        titles["missing"] = "Not counted"
    titles["run"] = "The run"

    prefix = f"Run {number}: " if number else ""
    return {
        "id": id,
        "title": prefix + run.title,
        "lead": lead_of(answers),
        "method": METHOD if run.n_levels else BASELINE,
        "sections": list(titles.items()),
        "facts": facts_of(run),
        "prompts": prompts_of(run)[1],
        "labelled": labelled,
        "table": numbers_of(answers),
        "classes": classes,
        "predicted": predicted,
        "names": names,
        "matrix": matrix,
        "confused": confused,
        "reliability": sureness.diagram and Markup(sureness.diagram),
        "reliability_text": sureness.text,
        "order": "probability" if sureness.sure is not None else "lead over the next class",
        "histogram": None if nfe.min() == nfe.max() else Markup(svg.draw_histogram(nfe, id)),
        "histogram_text": cost_of(nfe),
        **shown,
        "wrong": int((answers.pred != answers.label).sum()) if labelled else 0,
        "gone": gone or lost,
        "problems": answers.problems,
        "options": options_of(run),
    }


def compared(runs: dict[str, results.Run]) -> dict:
    """The tables of scripts/compare.py for several runs; of each column, whether it holds numbers."""
    found, note = tables.side_by_side(runs, {name: tables.images(run)[0] for name, run in runs.items()})
    shown = []
    for table in found:
        numeric = [column not in ("run", "folder", "first", "second") for column in table.columns]
        shown.append((list(zip(table.columns, numeric, strict=True)), table.to_numpy().tolist()))
    return {"on": note, "tables": shown}


def render(runs: dict[str, results.Run], read: list[Answers], *, mistakes: int, others: int) -> str:
    """The page of runs, by name, and their answers; as `content`."""
    several = len(runs) > 1
    each = [content(answers, mistakes, others, k if several else 0) for k, answers in enumerate(read, 1)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.program("scripts/report.html.jinja").parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    first = each[0]
    labelled = all(answers.label is not None for answers in read)
    return environment.get_template("report.html.jinja").render(
        title=f"{len(each)} runs on {read[0].run.data}" if several else first["title"],
        lead="" if several else first["lead"],
        method=first["method"],
        runs=each,
        comparison=compared(runs) if several and labelled else None,
        several=several,
    )
