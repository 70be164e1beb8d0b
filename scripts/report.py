"""Make a report of a run: a single HTML file that needs no network.

    python scripts/report.py data/digits/vdigits_1trials_race_3z_500samples --out report.html

Accuracy, confusion, confidence (if scripts/calibrate.py has found a temperature), cost per image, the most
confident mistakes, the least certain answers and some right ones with their images, and the options. For several runs
on the same images: first how they compare, then each run.
"""

from diffusion import paths
from diffusion.core import constants
from diffusion.data import catalogue
from diffusion.evaluate import options


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "FOLDER ...")
    options.add(p, "folders FOLDER", "folders of runs", nargs="+")
    options.add(p, "--loss", "decide by this loss; default each run's", choices=constants.LOSSES)
    options.add(p, "--out HTML", "page to write; default report.html in the first folder")
    options.add(p, "--mistakes N", "show at most N mistakes", 12)
    options.add(p, "--others N", "show N of the least certain answers, and N of the right ones", 6)
    return p


import base64
import io
import os
import re
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from diffusion import InputError, one_line, tables
from diffusion.core.search import even
from diffusion.data.datasets import as_seen, dataset_of
from diffusion.io.atomic import write_atomic
from diffusion.plots import style
from diffusion.runs import results, show
from diffusion.stats import calibration, intervals, metrics

MATRIX = 20  # up to so many classes, the confusion is a matrix; else a list of so many pairs
THUMBNAIL = 192  # pixels, at most
INK, SOFT, LINE = "#1f2328", "#57606a", "#d0d7de"  # become the page's colours of light and dark
NAMED = {INK: "ink", SOFT: "soft", LINE: "line"}
NAMED |= {style.ACCENT: "accent", style.RIGHT: "right", style.WRONG: "wrong"}


# ---- pictures ----


def svg(figure, name: str, label: str) -> Markup:
    """A matplotlib figure as part of a page, in its colours; ids begin with `name`, `label` is read aloud."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in NAMED.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1))


def axes_of(width: float, height: float):
    """An empty figure of so many inches, and its axes."""
    figure = style.new(width, height)
    axes = figure.subplots()
    for spine in axes.spines.values():
        spine.set_color(LINE)
    axes.tick_params(colors=LINE, labelcolor=SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    style.open_up(axes, color=LINE, alpha=0.5)
    return figure, axes


def draw_reliability(sure: np.ndarray, hit: np.ndarray, id: str = "") -> Markup:
    """Confidence [n] and share of hits [n] bool, bin by bin."""
    figure, axes = axes_of(4.4, 3.1)
    confidence, share, images = style.draw_reliability(axes, sure, hit, labelcolor=INK).T
    first, last = (f"{confidence[k]:.0%} sure, {share[k]:.0%} right" for k in (0, -1))
    told = f"Confidence and share of right answers, in {len(images)} bins of equally many images"
    return svg(figure, f"{id}reliability", f"{told}: the least sure are {first}, the surest {last}")


def draw_histogram(nfe: np.ndarray, id: str = "") -> Markup:
    """How many images [n] cost how much; logarithmic bins where the costs differ much."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = axes_of(4.4, 3.1)
    wide = nfe.max() > 8 * nfe.min()
    edges = np.geomspace(nfe.min(), nfe.max(), 25) if wide else np.linspace(nfe.min() - 0.5, nfe.max() + 0.5, 25)
    axes.hist(nfe, edges, color=style.ACCENT)
    axes.set(xlabel="NFE of an image", ylabel="images", xscale="log" if wide else "linear")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if nfe.max() < 100 * nfe.min() else (1,)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # else it writes 3 x 10^2 between, over the others
    return svg(
        figure, f"{id}histogram", f"Histogram of the NFE of {len(nfe)} images, from {nfe.min():,} to {nfe.max():,}"
    )


def draw_curve(curve: np.ndarray, name: str, label: str) -> Markup:
    """A running mean [n] against the number of points."""
    figure, axes = axes_of(3.4, 1.5)
    points = np.arange(1, len(curve) + 1)
    axes.axhline(0, color=SOFT, linewidth=1)
    axes.plot(points, curve, color=style.WRONG, marker="o" if len(curve) < 20 else None, markersize=3)
    axes.set_xlabel("points", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.locator_params(axis="y", nbins=4)
    return svg(figure, name, label)


def picture(image: np.ndarray) -> str:
    """An image [h, w, 3] in 0..1 as the URI of its own data."""
    file = io.BytesIO()
    shown = Image.fromarray((255 * image).round().astype(np.uint8))
    shown.thumbnail((THUMBNAIL, THUMBNAIL))
    small = max(image.shape) <= THUMBNAIL
    shown.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


# ---- numbers ----


def running_difference(record: dict, arm_class: np.ndarray, label: int, pred: int, loss: str) -> np.ndarray:
    """Mean error of one class less another's after the first 1, 2, ... points that both were measured on. [n]

    label and pred are rows of classes; n may be 0: the label was no candidate.
    """
    own, other = (metrics.errors_of_class(record, arm_class, k, loss) for k in (label, pred))
    n = min(len(own), len(other))
    return np.cumsum(own[:n] - other[:n]) / np.arange(1, n + 1)


def row_of(record: dict, run: results.Run, class_id: int) -> int:
    """The row that stands for a class of the data set in this record: the best of those that do."""
    rows = np.flatnonzero(run.class_ids == class_id)
    among = np.isin(np.arange(len(run.class_ids)), rows)
    return metrics.rescore(record, run.arm_class, run.loss, among) if len(rows) > 1 else int(rows[0])


def summary(run: results.Run, read: dict[str, np.ndarray], total: int) -> list[tuple[str, str]]:
    """The lines of the table, of what results.read_scores gives."""
    scores, label, pred, nfe = (read[key] for key in ("scores", "label", "pred", "nfe"))
    ranks = [calibration.rank(*each) for each in zip(scores, label, pred, strict=True)]
    accuracies = map(show.line, intervals.accuracy(pred, label, 5 if len(run.classes) > 5 else None, ranks))
    table = [("images", f"{len(label):,} of {total:,}")]
    table += [(name.removesuffix(" accuracy"), value) for name, value in accuracies]
    if run.options.get("candidates"):
        measured = np.isfinite(scores)
        hits = measured[np.arange(len(label)), label]
        among = f", among {show.span(measured.sum(1))} candidates"
        table.append(("recall", show.percent(*metrics.share(hits)) + among))
    cost = f"mean {nfe.mean():,.0f}, median {np.median(nfe):,.0f}, at most {nfe.max():,}; in all {nfe.sum():,}"
    table.append(("NFE per image", cost))
    if "within_pairs" in read:
        table += show.pairs_line(read["between_pairs"], read["within_pairs"])
    return table


def confidence_of(
    run: results.Run, read: dict[str, np.ndarray], id: str
) -> tuple[np.ndarray | None, Markup | None, str]:
    """The probability of each answer [n] (None: no temperature is known), the reliability diagram, and its caption."""
    if not (run.folder / "calibration.json").exists():
        made = f"{paths.script('calibrate')} FOLDER fits the temperature that makes them"
        return None, None, f"No probabilities yet: {made}."
    try:
        fit = results.read_calibration(run)
    except InputError as error:
        return None, None, f"No probabilities: {error}."
    sure, hit = calibration.probabilities(read["scores"], fit["temperature"]).max(1), read["pred"] == read["label"]
    held = ~calibration.fitted_on(read["index"], fit["fit"], fit["seed"])
    if not held.any():
        return sure, None, "Every image that is done was fitted on, so nothing is left to check the probabilities on."
    error = calibration.ece(sure[held], hit[held])
    chance = calibration.ece_by_chance(sure[held])
    text = f"Expected calibration error {error:.3f} on the {held.sum()} images that the temperature was not fitted on"
    text += f" ({chance:.3f} is what so few show where every confidence is right). Bars: 95% intervals."
    return sure, draw_reliability(sure[held], hit[held], id), text


def text_of(record: dict, run: results.Run, label: int, pred: int, sure: float | None, called: dict) -> tuple:
    """What is said of an answer, and the curve of its own class less the answer, of the runner-up where it is right.

    label and pred are class ids.
    """
    against = label
    if label == pred:
        scores = calibration.scores(record, run.class_ids, run.arm_class, run.loss)
        others = np.where(run.classes == pred, -np.inf, scores)
        against = int(run.classes[others.argmax()]) if np.isfinite(others).any() else pred
    text = "" if sure is None else f"{sure:.1%} sure. "
    if against == pred:
        return text + "No other class was measured.", np.zeros(0)
    rows = [row_of(record, run, class_id) for class_id in (against, pred)]
    curve = running_difference(record, run.arm_class, *rows, run.loss)
    if len(curve):
        points = "1 shared point" if len(curve) == 1 else f"{len(curve)} shared points"
        than = f" than {called[against]}" if label == pred else ""
        text += f"After {points} the answer is {'worse' if curve[-1] < 0 else 'better'}{than} by {abs(curve[-1]):.3g}."
    else:
        text += "Its own class was not among those that were measured."
    return text, curve


def cards(run: results.Run, read: dict[str, np.ndarray], sure: np.ndarray | None, chosen, id: str, dataset) -> tuple:
    """What is shown of some answers, rows of `read`, with their images, if there is a `dataset`; and what is gone."""
    known, shown, gone = results.names_of_classes(run), [], ""
    for k in chosen:
        index = int(read["index"][k])
        record = results.record_of(run, index)
        label, pred = (int(run.classes[read[key][k]]) for key in ("label", "pred"))
        text, curve = text_of(record, run, label, pred, None if sure is None else sure[k], known)
        image = None
        try:
            image = as_seen(dataset, index, run.options) if dataset else None
        except (InputError, IndexError) as error:
            gone = f"Not every image can be shown: {one_line(error)}"
        shown.append({
            "index": index, "file": record.get("file", ""), "answer": known[pred], "true": known[label],
            "right": label == pred, "text": text, "picture": None if image is None else picture(image),
            "small": image is not None and max(image.shape) < 96,
            "curve": draw_curve(curve, f"{id}{index}", text) if len(curve) > 1 else "",
        })  # fmt: skip
    return shown, gone


def chosen_of(read: dict[str, np.ndarray], sure: np.ndarray | None, most: int, others: int) -> dict[str, list[int]]:
    """Which answers are shown, rows of `read`: the surest wrong ones, the least certain, right ones spread evenly."""
    labels, preds, scores = read["label"], read["pred"], read["scores"]
    gap = -scores[np.arange(len(labels)), labels]  # by how much the label is worse, inf: not known
    sure_of = np.where(np.isfinite(gap), gap, -1) if sure is None else sure
    wrong = [k for k in np.argsort(-sure_of, kind="stable") if labels[k] != preds[k]]
    ahead = -np.sort(scores, 1)[:, -2] if scores.shape[1] > 1 else np.full(len(labels), np.inf)
    right = np.flatnonzero(labels == preds)
    return {
        "mistakes": wrong[:most],
        "uncertain": np.argsort(ahead, kind="stable")[:others].tolist(),
        "right": right[even(min(others, len(right)), len(right))].tolist(),
    }


def confusion_of(pred: np.ndarray, label: np.ndarray, called: list[str]) -> tuple[list | None, list | None]:
    """Of few classes a matrix: name, and per answer its count, tint in percent, and whether it is right; else pairs."""
    counts = metrics.confusion(pred, label, list(range(len(called))))
    if len(called) <= MATRIX:
        tints = 45 * counts / counts.sum(1, keepdims=True).clip(1)
        cells = [[(int(n), round(tint), r == c) for c, (n, tint) in enumerate(zip(*row, strict=True))]
                 for r, row in enumerate(zip(counts, tints, strict=True))]  # fmt: skip
        return list(zip(called, cells, strict=True)), None
    pairs = Counter({(r, c): int(counts[r, c]) for r, c in np.argwhere(counts).tolist() if r != c})
    return None, [(called[r], called[c], times) for (r, c), times in pairs.most_common(MATRIX)]


def options_of(run: results.Run) -> list[tuple[str, str]]:
    """Every option that can change a number; of a hash its beginning, of a local path its end."""
    short = {key: re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", local(value)) for key, value in run.options.items()}
    return list(short.items())


def local(value) -> str:
    """As text; of an absolute path its last part: whose machine it was on is nobody's business."""
    return Path(str(value)).name if os.path.isabs(str(value)) else str(value)


def content(run: results.Run, read: dict[str, np.ndarray], problems: list[str], args, number: int) -> dict:
    """What the page says of a run, of what results.read_scores gives; `number`: which of several, 0 of one."""
    id = f"run{number}-" if number else ""  # begins the ids of its sections
    known = results.names_of_classes(run)
    called = [known[k] for k in run.classes.tolist()]
    label, pred, nfe = (read[key] for key in ("label", "pred", "nfe"))
    matrix, confused = confusion_of(pred, label, called)
    per_class = metrics.per_class(pred, label)
    sure, reliability, reliability_text = confidence_of(run, read, id)
    try:
        dataset, gone = dataset_of(run.about, catalogue.DATASET_ROOT), ""
    except InputError as error:
        dataset, gone = None, f"The images cannot be shown: {error}"
    shown = {}
    for name, chosen in chosen_of(read, sure, args.mistakes, args.others).items():
        shown[name], lost = cards(run, read, sure, chosen, f"{id}{name[0]}", dataset)
        gone = gone or lost

    same = nfe.min() == nfe.max()
    evaluations = f"{nfe.mean():,.0f} network evaluation{'s' if nfe.mean() >= 1.5 else ''}"
    dearest = np.sort(nfe)[-(-len(nfe) // -10) :].sum() / nfe.sum()
    costs = f"What the images cost. The dearest tenth of them took {dearest:.0%} of all evaluations."
    p, (low, high) = metrics.accuracy(pred, label)
    sections = ["accuracy", "confusion", "confidence", "mistakes", "answers", *["missing"] * bool(problems), "run"]
    titles = {"confidence": "Confidence and cost", "answers": "Other answers", "missing": "Not counted"}
    titles |= {"run": "The run"}
    return {
        "id": id,
        "title": (f"Run {number}: " if number else "") + f"{run.data}, by {local(run.model)}",
        "lead": f"{(pred == label).sum():,} of {len(label):,} images right: {100 * p:.2f}%"
        f" (95% interval {100 * low:.2f} to {100 * high:.2f}), at {evaluations} an image.",
        "sections": [(each, titles.get(each, each.capitalize())) for each in sections],
        "table": summary(run, read, max(run.about["images"], len(label))),
        "classes": sorted(((called[k], *per_class[k]) for k in per_class), key=lambda c: (c[1] / c[2], c[0])),
        "names": called,
        "matrix": matrix,
        "confused": confused,
        "reliability": reliability,
        "reliability_text": reliability_text,
        "histogram": None if same else draw_histogram(nfe, id),
        "histogram_text": f"Every image took {evaluations}." if same else costs,
        **shown,
        "wrong": int((pred != label).sum()),
        "gone": gone,
        "problems": problems,
        "options": options_of(run),
        "folder": f"{run.folder.resolve().name}, decided by {run.loss}",
    }


def compared(runs: dict[str, results.Run]) -> dict:
    """The tables of scripts/compare.py, of several runs."""
    tables_of, on = tables.side_by_side(runs, {name: tables.images(run)[0] for name, run in runs.items()})
    return {"on": on, "tables": [(list(table.columns), table.to_numpy().tolist()) for table in tables_of]}


def page(runs: dict[str, results.Run], read: list, args) -> str:
    """The page of runs, and of what results.read_scores gives of each."""
    several = len(runs) > 1
    each = [
        content(run, *found, args, k if several else 0)
        for k, (run, found) in enumerate(zip(runs.values(), read, strict=True), 1)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    first = each[0]
    return environment.get_template("report.html.jinja").render(
        title=f"{len(each)} runs on {next(iter(runs.values())).data}" if several else first["title"],
        lead="" if several else first["lead"],
        runs=each,
        comparison=compared(runs) if several else None,
    )


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    options.not_negative(args, "mistakes", "others")
    args.folders = [Path(folder) for folder in args.folders]
    first = results.read(args.folders[0], "arms", "dataset", "split", loss=args.loss)
    runs = tables.read_same(args.folders, args.loss) if len(args.folders) > 1 else {"": first}
    out = args.out or first.folder / "report.html"
    if not os.path.isdir(out.parent) or os.path.isdir(out):
        raise InputError(f"--out {out}", "wanted a file in a folder that exists")
    read = []
    for run in runs.values():
        found, problems = results.read_scores(run)
        read.append((found, problems + results.failures(run.folder, run.about)))
    text = page(runs, read, args).encode(errors="replace")  # a JSON's half surrogate pair is a ?
    write_atomic(out, lambda file: file.write(text))
    print(out)
    return show.report([problem for _, problems in read for problem in problems])


if __name__ == "__main__":
    options.run(main)
