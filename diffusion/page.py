"""The page of a run, or of several on the same images: what scripts/report.html.jinja shows."""

import datetime
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import numpy as np

import diffusion
from diffusion import InputError, one_line, paths, tables
from diffusion.core.search import even
from diffusion.data import catalogue
from diffusion.data.datasets import as_seen
from diffusion.io import wording
from diffusion.plots import confidence, confusion, style, svg
from diffusion.runs import newer, pack, results, show
from diffusion.runs.images import dataset_of_run
from diffusion.stats import calibration, intervals, metrics

MATRIX = 20  # up to so many classes, the confusion is a matrix; else a list of so many pairs
PROMPTS = 3  # shown in the text; all of them in a table
OUTCOMES = {"right": style.RIGHT, "wrong": style.WRONG, "unlabelled": style.ACCENT}  # -> the colour of the curve


# ---- the answers of a run ----


@dataclass(frozen=True)
class Answers:
    """The images of a run that are done. Columns are the run's classes; a score is -inf if a class was not measured."""

    run: results.Run
    index: np.ndarray  # [n]
    nfe: np.ndarray  # [n]
    pred: np.ndarray  # [n] columns
    runner_up: np.ndarray  # [n] columns; the class with the best score beside the answer
    runner_up_score: np.ndarray  # [n]
    measured: np.ndarray  # [n] number of classes measured
    label: np.ndarray | None  # [n] columns; None: an unlabelled run
    label_score: np.ndarray  # [n] nan: an unlabelled run
    rank: np.ndarray  # [n] the number of classes before the label's
    fit: dict | None  # results.read_calibration
    not_fitted: str  # why there is no fit although there is a file; ""
    sure: np.ndarray  # [n] probability of each answer; nan: no fit
    pairs: tuple[np.ndarray, np.ndarray] | None  # between and within pairs [n], of antithetic noise
    problems: list[str]

    @cached_property
    def lead(self) -> np.ndarray:
        """By how much the mean error of the runner-up is larger than that of the answer, inf: no other class. [n]"""
        return np.where(self.runner_up == self.pred, np.inf, -self.runner_up_score)


def read_answers(run: results.Run) -> Answers:
    """The scores are used as they are read, since those of ImageNet's images take 400 MB. InputError: none is done."""
    column = {int(class_id): k for k, class_id in enumerate(run.classes)}
    fit, not_fitted = None, ""
    if results.has_calibration(run.folder):
        try:
            fit = results.read_calibration(run)
        except InputError as error:
            not_fitted = str(error)
    of_scores: list[dict] = []  # what is kept of the scores of each image

    def use(row: dict, scores: np.ndarray) -> None:
        pred, label = column[row["pred"]], column.get(row["label"])
        others = scores.copy()
        others[pred] = -np.inf
        runner_up = int(others.argmax())
        of_scores.append({
            "runner_up": runner_up,
            "runner_up_score": scores[runner_up],
            "measured": np.isfinite(scores).sum(),
            "label_score": np.nan if label is None else scores[label],
            "sure": calibration.probabilities(scores, fit["temperature"]).max() if fit else np.nan,
        })  # fmt: skip

    decided, problems = results.decided_each(run, use)
    labelled = any(row["label"] != catalogue.NO_LABEL for row in decided)
    rows = []
    for row, more in zip(decided, of_scores, strict=True):
        if labelled and row["label"] not in column:
            problems.append(f"image {row['index']}: {results.strange_label(row['label'])}")
        else:
            rows.append(row | more)
    if not rows:
        raise results.nothing_done(run, problems)

    label = None
    if labelled:
        label = np.searchsorted(run.classes, show.column(rows, "label", int))
    pairs = None
    if show.has(rows, "within_pairs"):
        pairs = show.column(rows, "between_pairs"), show.column(rows, "within_pairs")
    return Answers(
        run=run,
        index=show.column(rows, "index", int),
        nfe=show.column(rows, "nfe", int),
        pred=np.searchsorted(run.classes, show.column(rows, "pred", int)),
        runner_up=show.column(rows, "runner_up", int),
        runner_up_score=show.column(rows, "runner_up_score"),
        measured=show.column(rows, "measured", int),
        label=label,
        label_score=show.column(rows, "label_score"),
        rank=show.column(rows, "rank", int),
        fit=fit,
        not_fitted=not_fitted,
        sure=show.column(rows, "sure"),
        pairs=pairs,
        problems=problems + results.failures(run.folder, run.description),
    )


def names_of(run: results.Run) -> list[str]:
    """The names of the run's classes, by column."""
    names = results.names_of_classes(run)
    return [names[class_id] for class_id in run.classes.tolist()]


# ---- numbers ----


def numbers_of(answers: Answers) -> list[tuple[str, str]]:
    """The lines of the first table."""
    run, nfe = answers.run, answers.nfe
    total = max(run.description["images"], len(nfe))
    table = [("images", f"{len(nfe):,} of {total:,}")]
    if answers.label is not None:
        table += accuracies_of(answers)
    cost = f"mean {nfe.mean():,.0f}, median {np.median(nfe):,.0f}, at most {nfe.max():,}; in all {nfe.sum():,}"
    table.append(("NFE per image", cost))
    if answers.pairs:
        table += show.pairs_line(*answers.pairs)
    return table


def accuracies_of(answers: Answers) -> list[tuple[str, str]]:
    """The lines of a labelled run: accuracies, and how often the label was among the candidates, if there were some."""
    run = answers.run
    table = []
    top = 5 if len(run.classes) > 5 else None
    for measure in intervals.accuracy(answers.pred, answers.label, top, answers.rank):
        name, value = show.line(measure)
        table.append((name.removesuffix(" accuracy"), value))
    if run.options.get("candidates"):
        recall = show.percent(*metrics.share(np.isfinite(answers.label_score)))
        table.append(("recall", f"{recall}, among {show.span(answers.measured)} candidates"))
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
        return f"{wording.count(len(answers.pred), 'image')} without labels, {cost}."
    right = answers.pred == answers.label
    p, (low, high) = metrics.share(right)
    share = f"{100 * p:.2f}% (95% interval {100 * low:.2f} to {100 * high:.2f})"
    return f"{right.sum():,} of {wording.count(len(right), 'image')} right: {share}, {cost}."


def classes_of(answers: Answers, names: list[str]) -> list[tuple[str, int, int]]:
    """Name, right answers and images of each class that occurs as a label, the hardest first."""
    classes = []
    for column, (right, images) in metrics.per_class(answers.pred, answers.label).items():
        classes.append((names[column], right, images))
    return sorted(classes, key=lambda each: (each[1] / each[2], each[0]))


def predictions_of(answers: Answers, names: list[str]) -> list[tuple[str, int]]:
    """Name of each predicted class and how often it is predicted, the most frequent first."""
    counts = np.bincount(answers.pred, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return [(names[k], int(counts[k])) for k in order if counts[k]]


@dataclass(frozen=True)
class Confidence:
    """How confident the answers are, if that is known, and how right these numbers are."""

    sure: np.ndarray | None  # [n] probability of each answer
    text: str
    diagram: str | None = None


def confidence_of(answers: Answers, id: str) -> Confidence:
    """By the temperature of scripts/calibrate.py, checked on the images that it was not fitted on."""
    run = answers.run
    if not results.has_calibration(run.folder):
        if answers.label is None:
            return Confidence(None, "No probabilities: a temperature for them is fitted on labels, and there are none.")
        made = f"{paths.script('calibrate')} FOLDER fits the temperature that makes them"
        return Confidence(None, f"No probabilities yet: {made}.")
    fit, sure = answers.fit, answers.sure
    if fit is None:
        return Confidence(None, f"No probabilities: {answers.not_fitted}.")
    if answers.label is None:
        return Confidence(sure, "There are no labels to check the probabilities on.")
    held = ~calibration.fitted_on(answers.index, fit["fit"], fit["seed"])
    n = int(held.sum())
    if n == 0:
        return Confidence(sure, "The temperature was fitted on all of these images; none is left to check it on.")

    hit = answers.pred[held] == answers.label[held]
    error = calibration.ece(sure[held], hit)
    chance = calibration.ece_by_chance(sure[held])
    images = wording.count(n, "image")
    text = f"Expected calibration error {error:.3f} on the {images} that the temperature was not fitted on"
    text += f" ({chance:.3f} is expected by chance if all probabilities are right)."
    if n < confidence.FEW:
        return Confidence(sure, f"{text} A diagram of confidence against accuracy needs {confidence.FEW} such images.")
    return Confidence(sure, f"{text} Lines: 95% intervals.", svg.draw_reliability(sure[held], hit, id))


# ---- cards ----


@dataclass(frozen=True)
class Card:
    """An answer with its image."""

    index: int
    file: str
    answer: str
    true: str  # "" for an unlabelled image
    outcome: str  # of OUTCOMES
    text: str
    picture: str | None  # a URI; None: the image cannot be shown
    small: bool  # whether the picture is so small that its pixels are shown as squares
    curve: str  # svg; "" if there is none


class Images:
    """The images of a run as they were classified.

    `problem` is why one cannot be shown, "" so far; `changed` names those that may be others now, "" if there is none.
    """

    def __init__(self, run: results.Run):
        self.options = run.options
        self.problem = ""
        self.changed = ""
        self.dataset = None
        try:
            self.dataset = dataset_of_run(run)
            self.changed = newer.in_words(self.dataset.located, run.done)
        except InputError as error:
            self.problem = f"The images cannot be shown: {error}"

    def open(self, index: int) -> np.ndarray | None:
        """Image `index` as [h, w, 3] in 0..1; None if it cannot be shown."""
        if self.dataset is None:
            return None
        try:
            return as_seen(self.dataset, index, self.options)
        except (InputError, IndexError) as error:
            if not self.problem:
                self.problem = f"Not every image can be shown: {one_line(error)}"
            return None


def chosen_of(answers: Answers, sure: np.ndarray | None, mistakes: int, others: int) -> dict[str, list[int]]:
    """Which answers are shown, rows of `answers`: the most confident mistakes, the least certain, and right ones.

    At most `mistakes` of the first kind and `others` of each other one. Least certain is in the order of the number
    that the cards print: the probability, or the lead if there is none.
    """
    certainty = answers.lead if sure is None else sure
    uncertain = np.argsort(certainty, kind="stable")[:others].tolist()
    if answers.label is None:
        surest = np.argsort(-certainty, kind="stable").tolist()
        certain = [k for k in surest if k not in uncertain]
        return {"mistakes": [], "uncertain": uncertain, "right": certain[:others]}

    wrong = np.flatnonzero(answers.label != answers.pred)
    if sure is None:
        behind = -answers.label_score[wrong]  # how much worse the label is; inf: not measured
        order = np.where(np.isfinite(behind), behind, -1)
    else:
        order = sure[wrong]
    right = np.flatnonzero(answers.label == answers.pred)
    return {
        "mistakes": wrong[np.argsort(-order, kind="stable")][:mistakes].tolist(),
        "uncertain": uncertain,
        "right": right[even(min(others, len(right)), len(right))].tolist(),
    }


def cards_of(
    answers: Answers, rows: list[int], kind: str, sure: np.ndarray | None, images: Images, id: str
) -> list[Card]:
    """The cards of some answers of one kind, a key of `chosen_of`; ids of their curves begin with `id`.

    A mistake is compared with its label, any other answer with the runner-up.
    """
    compared_with = answers.label if kind == "mistakes" else answers.runner_up
    cards = []
    for k in rows:
        likely = ""
        if sure is not None:
            likely = f"{sure[k]:.1%} confident. "
        cards.append(card_of(answers, k, int(compared_with[k]), likely, images, f"{id}{kind[0]}"))
    return cards


def card_of(answers: Answers, k: int, other: int, likely: str, images: Images, id: str) -> Card:
    """The card of answer k, compared with the class of column `other`; its text begins with `likely`."""
    run, names = answers.run, names_of(answers.run)
    index, pred = int(answers.index[k]), int(answers.pred[k])
    record = results.record_of(run, index)
    if answers.label is None:
        true, outcome = "", "unlabelled"
    else:
        true = names[answers.label[k]]
        outcome = "right" if answers.label[k] == pred else "wrong"

    text, curve = f"{likely}No other class was measured.", ""
    if other != pred:
        difference = np.zeros(0)
        score = answers.runner_up_score[k] if other == answers.runner_up[k] else answers.label_score[k]
        if np.isfinite(score):
            first = row_of(record, run, int(run.classes[other]))
            second = row_of(record, run, int(run.classes[pred]))
            difference = running_difference(record, run.arm_class, first, second, run.loss)
        text = likely + lead_text(difference, names[other])
        if len(difference) > 1:
            curve = svg.draw_curve(difference, f"{id}{index}", text, OUTCOMES[outcome])

    image = images.open(index)
    picture, small = None, False
    if image is not None:
        picture, small = svg.picture(image), max(image.shape) < 96
    return Card(index, record.get("file", ""), names[pred], true, outcome, text, picture, small, curve)


def lead_text(difference: np.ndarray, other: str) -> str:
    """How far an answer is ahead of another class, from their `running_difference` [n]."""
    if not len(difference):
        return f"{other} was not measured."
    points = "1 shared point" if len(difference) == 1 else f"{len(difference)} shared points"
    side = "Ahead of" if difference[-1] >= 0 else "Behind"
    return f"{side} {other} by {abs(difference[-1]):.3g} after {points}."


def running_difference(record: dict, arm_class: np.ndarray, first: int, second: int, loss: str) -> np.ndarray:
    """Mean error of one class minus that of another after the first 1, 2, ... points measured for both. [n]

    first and second are rows of classes; n is 0 if one of them was not measured.
    """
    a = metrics.errors_of_class(record, arm_class, first, loss)
    b = metrics.errors_of_class(record, arm_class, second, loss)
    n = min(len(a), len(b))
    return np.cumsum(a[:n] - b[:n]) / np.arange(1, n + 1)


def row_of(record: dict, run: results.Run, class_id: int) -> int:
    """The row of a class in this record; the best one if several rows stand for the class."""
    rows = np.flatnonzero(run.class_ids == class_id)
    if len(rows) == 1:
        return int(rows[0])
    among = np.isin(np.arange(len(run.class_ids)), rows)
    return metrics.rescore(record, run.arm_class, run.loss, among)


# ---- about the run ----


def local(value) -> str:
    """As text, without the folders of an absolute path: pages travel, and those are this machine's."""
    return Path(str(value)).name if os.path.isabs(str(value)) else str(value)


def options_of(run: results.Run) -> list[tuple[str, str]]:
    """Every option that can change a number; hashes are abbreviated. No `split` if the data has none."""
    found = []
    for key, value in run.options.items():
        if key == "split" and run.split is None:
            continue
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
    prompts, classes = wording.count(len(arms), "prompt"), wording.count(len(run.classes), "class")
    return f"{prompts} for {classes}: {some}{more}", arms


def facts_of(run: results.Run) -> list[tuple[str, str]]:
    """When, with what and how a run was measured."""
    files = [run.folder] if pack.is_pack(run.folder) else run.done.values()
    last = max(map(os.path.getmtime, files))
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
        facts.append(("command", " ".join(map(local, command.split()))))
    if versions:
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    facts.append(("page", f"made by diffusion-classifier {diffusion.__version__}"))
    facts.append(("folder", f"{run.folder.resolve().name}, decided by {run.loss}"))
    return facts


# ---- the page ----


def content(answers: Answers, mistakes: int, others: int, number: int, name: str) -> dict:
    """The variables of the template for a run; number: which of several, 0 if there is one; its name, "" by default.

    mistakes, others: how many of each kind of answer are shown at most.
    """
    run, nfe, names = answers.run, answers.nfe, names_of(answers.run)
    id, title = "", name or run.title
    if number:
        id, title = f"run{number}-", f"Run {number}: {title}"
    sureness = confidence_of(answers, id)
    found = {
        "id": id,  # begins the ids of its sections
        "title": title,
        "lead": lead_of(answers),
        "facts": facts_of(run),
        "prompts": prompts_of(run)[1],
        "options": options_of(run),
        "problems": answers.problems,
        "labelled": answers.label is not None,
        "race": run.options.get("search") == "race",
        "table": numbers_of(answers),
        "reliability": sureness.diagram,
        "reliability_text": sureness.text,
        "order": "lead over the next class" if sureness.sure is None else "probability",
        "histogram": svg.draw_histogram(nfe, id) if nfe.min() < nfe.max() else None,
        "histogram_text": cost_of(nfe),
    }
    if answers.label is None:
        found["predicted"] = predictions_of(answers, names)
    else:
        order = np.searchsorted(run.classes, list(results.names_of_classes(run))).tolist()  # columns, as the prompts
        counts = metrics.confusion(answers.pred, answers.label, order)
        found["wrong"] = int((answers.pred != answers.label).sum())
        found["classes"] = classes_of(answers, names)
        found["names"] = [names[column] for column in order]
        found["matrix"] = counts.tolist() if len(names) <= MATRIX else None
        found["confused"] = confusion.most_confused(counts, MATRIX)

    images = Images(run)
    for kind, rows in chosen_of(answers, sureness.sure, mistakes, others).items():
        found[kind] = cards_of(answers, rows, kind, sureness.sure, images, id)
    found["gone"] = ". ".join(filter(None, [images.changed, images.problem]))
    return found


def compared(runs: dict[str, results.Run]) -> dict:
    """The tables of scripts/compare.py for several runs; of each column, whether it holds numbers."""
    rows = {name: tables.images(run)[0] for name, run in runs.items()}
    found, note = tables.side_by_side(runs, rows)
    shown = []
    for table in found:
        columns = [(name, name not in ("run", "folder", "first", "second")) for name in table.columns]
        shown.append((columns, table.to_numpy().tolist()))
    return {"on": note, "tables": shown}


def render(runs: dict[str, results.Run], read: list[Answers], *, mistakes: int, others: int) -> str:
    """The page of runs, by name, and their answers; as `content`."""
    several = len(runs) > 1
    numbers = range(1, len(runs) + 1) if several else [0]
    each = []
    for k, name, answers in zip(numbers, runs, read, strict=True):
        each.append(content(answers, mistakes, others, k, name))
    title = each[0]["title"]
    comparison = None
    if several:
        title = f"{len(each)} runs on {read[0].run.data_title}"
        if all(answers.label is not None for answers in read):
            comparison = compared(runs)

    template = paths.program("scripts/report.html.jinja")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    diffusion_model = read[0].run.n_levels is not None  # else a baseline
    return environment.get_template(template.name).render(
        title=title, runs=each, several=several, comparison=comparison, diffusion_model=diffusion_model
    )
