"""One page of a run to look at and to pass on: a single HTML file that needs no network.

    python scripts/report.py data/digits/vdigits_1trials_race_3z_500samples --out report.html

Accuracy, confusion, confidence (once scripts/calibrate.py has found a temperature), what an image cost, the most
confident mistakes with their images, and run.json.
"""

import argparse
import base64
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from diffusion import InputError, calibration, cli, metrics, one_line, records
from diffusion.datasets import as_seen, load_dataset
from diffusion.errors import LOSSES

MATRIX = 20  # up to so many classes, the confusion is a matrix; else a list of so many pairs
THUMBNAIL = 192  # pixels, at most
INK, SOFT, LINE, ACCENT = "#1f2328", "#57606a", "#d0d7de", "#0969da"  # become the page's colours of light and dark
NAMED = {INK: "ink", SOFT: "soft", LINE: "line", ACCENT: "accent", cli.RIGHT: "right", cli.WRONG: "wrong"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, help="the folder of a run")
    p.add_argument("--out", type=Path, metavar="HTML", help="default: report.html in that folder")
    p.add_argument("--mistakes", type=int, default=12, help="show at most so many; default %(default)s")
    p.add_argument("--loss", choices=LOSSES, help="which loss decides; default the run's")
    return p


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for spine in axes.spines.values():
        spine.set_color(LINE)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=LINE, labelcolor=SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=LINE, alpha=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def draw_reliability(sure: np.ndarray, hit: np.ndarray) -> Markup:
    """Confidence [n] and share of hits [n] bool, bin by bin."""
    figure, axes = axes_of(4.4, 3.1)
    confidence, share, images = calibration.reliability(sure, hit).T
    low, high = np.array([metrics.wilson(p, n) for p, n in zip(share, images, strict=True)]).T
    place = np.arange(1, len(images) + 1)
    axes.vlines(place, 100 * low, 100 * high, color=cli.RIGHT, alpha=0.5)
    axes.plot(place, 100 * share, "o", markersize=5, color=cli.RIGHT, label="right")
    axes.plot(place, 100 * confidence, "_", markersize=12, markeredgewidth=2, color=ACCENT, label="confidence")
    axes.set(xlabel="bins of equally many images, the least sure first", ylabel="%", ylim=(None, 101))
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    first, last = (f"{confidence[k]:.0%} sure, {share[k]:.0%} right" for k in (0, -1))
    told = f"Confidence and share of right answers, in {len(images)} bins of equally many images"
    return svg(figure, "reliability", f"{told}: the least sure are {first}, the surest {last}")


def draw_histogram(nfe: np.ndarray) -> Markup:
    """How many images [n] cost how much; logarithmic bins where the costs differ much."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = axes_of(4.4, 3.1)
    wide = nfe.max() > 8 * nfe.min()
    edges = np.geomspace(nfe.min(), nfe.max(), 25) if wide else np.linspace(nfe.min() - 0.5, nfe.max() + 0.5, 25)
    axes.hist(nfe, edges, color=ACCENT)
    axes.set(xlabel="NFE of an image", ylabel="images", xscale="log" if wide else "linear")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if nfe.max() < 100 * nfe.min() else (1,)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # else it writes 3 x 10^2 between, over the others
    return svg(figure, "histogram", f"Histogram of the NFE of {len(nfe)} images, from {nfe.min():,} to {nfe.max():,}")


def draw_curve(curve: np.ndarray, name: str, label: str) -> Markup:
    """A running mean [n] against the number of points."""
    figure, axes = axes_of(3.4, 1.5)
    points = np.arange(1, len(curve) + 1)
    axes.axhline(0, color=SOFT, linewidth=1)
    axes.plot(points, curve, color=cli.WRONG, marker="o" if len(curve) < 20 else None, markersize=3)
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
    arms = metrics.arm_errors(record, loss)
    own, other = (np.mean([arms[arm] for arm in np.flatnonzero(arm_class == k)], 0) for k in (label, pred))
    n = min(len(own), len(other))
    return np.cumsum(own[:n] - other[:n]) / np.arange(1, n + 1)


def row_of(record: dict, arm_class: np.ndarray, class_ids: np.ndarray, class_id: int, loss: str) -> int:
    """The row that stands for a class of the data set in this record: the best of those that do."""
    rows = np.flatnonzero(class_ids == class_id)
    among = np.isin(np.arange(len(class_ids)), rows)
    return metrics.rescore(record, arm_class, loss, among) if len(rows) > 1 else int(rows[0])


def summary(rows: list[dict], total: int, K: int, options: dict) -> list[tuple[str, str]]:
    """The lines of the table; rows as cli.read_scores gives them."""
    label, pred, nfe = (np.array([row[key] for row in rows]) for key in ("label", "pred", "nfe"))
    table = [("images", f"{len(rows):,} of {total:,}"), ("top-1", cli.percent(*metrics.accuracy(pred, label)))]
    if K > 5:
        ranks = [calibration.rank(row["scores"], row["label"], row["pred"]) for row in rows]
        table.append(("top-5", cli.percent(*metrics.share(np.array(ranks) < 5))))
    table.append(("mean per class", cli.percent(*metrics.mean_per_class(pred, label))))
    if options.get("candidates"):
        hits = np.array([np.isfinite(row["scores"][row["label"]]) for row in rows])
        among = f", among {options['candidates']} candidates"
        table.append(("recall", cli.percent(*metrics.share(hits)) + among))
    cost = f"mean {nfe.mean():,.0f}, median {np.median(nfe):,.0f}, at most {nfe.max():,}; in all {nfe.sum():,}"
    return [*table, ("NFE per image", cost)]


def confidence_of(args, rows: list[dict], loss: str) -> tuple[np.ndarray | None, Markup | None, str]:
    """The probability of each answer [n] (None: no temperature is known), the reliability diagram, and its caption."""
    if not (args.folder / "calibration.json").exists():
        made = "python scripts/calibrate.py FOLDER fits the temperature that makes them"
        return None, None, f"No probabilities yet: {made}."
    try:
        fit = cli.read_calibration(args.folder, loss)
    except InputError as error:
        return None, None, f"No probabilities: {error}."
    scores, label, pred, index = (np.array([row[key] for row in rows]) for key in ("scores", "label", "pred", "index"))
    sure = calibration.probabilities(scores, fit["temperature"]).max(1)
    held = ~calibration.fitted_on(index, fit["fit"], fit["seed"])
    if not held.any():
        return sure, None, "Every image that is done was fitted on, so nothing is left to check the probabilities on."
    error = calibration.ece(sure[held], (pred == label)[held])
    chance = calibration.ece_by_chance(sure[held])
    text = f"Expected calibration error {error:.3f} on the {held.sum()} images that the temperature was not fitted on"
    text += f" ({chance:.3f} is what so few show where every confidence is right). Bars: 95% intervals."
    return sure, draw_reliability(sure[held], (pred == label)[held]), text


def mistakes_of(
    args, run: dict, done: dict[int, Path], rows: list[dict], sure, names: list[str], loss: str
) -> tuple[list[dict], str]:
    """What is shown of the wrong answers, the surest first; and why their images are not, if they are not."""
    class_ids, arm_class = records.competitors(run)
    known = np.unique(class_ids)
    gap = np.array([-row["scores"][row["label"]] for row in rows])  # by how much the label is worse, inf: not known
    sure_of = np.where(np.isfinite(gap), gap, -1) if sure is None else sure
    wrong = [k for k in np.argsort(-sure_of, kind="stable") if rows[k]["label"] != rows[k]["pred"]][: args.mistakes]
    try:
        dataset, gone = load_dataset(run["options"]["dataset"], run["options"]["split"], cli.DATASET_ROOT), ""
    except InputError as error:
        dataset, gone = None, f"The images cannot be shown: {error}"
    shown = []
    for k in wrong:
        row, index = rows[k], rows[k]["index"]
        record = records.load_record(done[index], own=True, loss=loss, arms=len(arm_class))
        label, pred = (row_of(record, arm_class, class_ids, int(known[row[key]]), loss) for key in ("label", "pred"))
        curve = running_difference(record, arm_class, label, pred, loss)
        text = "" if sure is None else f"{sure[k]:.1%} sure. "
        if len(curve):
            points = "1 shared point" if len(curve) == 1 else f"{len(curve)} shared points"
            text += f"After {points} the answer is {'worse' if curve[-1] < 0 else 'better'} by {abs(curve[-1]):.3g}."
        else:
            text += "Its own class was not among those that were measured."
        image = None
        try:
            image = as_seen(dataset, index, run["options"]) if dataset else None
        except (InputError, IndexError) as error:
            gone = f"Not every image can be shown: {one_line(error)}"
        shown.append({
            "index": index, "answer": names[row["pred"]], "true": names[row["label"]], "text": text,
            "picture": None if image is None else picture(image),
            "small": image is not None and max(image.shape) < 96,
            "curve": draw_curve(curve, f"m{index}", text) if len(curve) > 1 else "",
        })  # fmt: skip
    return shown, gone


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cli.not_negative(args, "mistakes")
    run = records.read_run(args.folder)
    cli.answers(args.folder, run)
    records.need(args.folder, run, "arms", "dataset", "split")
    loss = records.loss_of(args.folder, run, args.loss)
    out = args.out or args.folder / "report.html"
    if not os.path.isdir(out.parent) or os.path.isdir(out):
        raise InputError(f"--out {out}: wanted a file in a folder that exists")
    rows, problems = cli.read_scores(args.folder, run, loss)
    done = records.finished(args.folder)
    problems += cli.failures(args.folder, done)

    options = run["options"]
    class_ids = np.unique([class_id for *_, class_id in run["arms"]])
    name_of = {class_id: name for _, name, class_id in reversed(run["arms"])}
    names = [name_of[k] for k in class_ids.tolist()]
    label, pred, nfe = (np.array([row[key] for row in rows]) for key in ("label", "pred", "nfe"))
    counts = metrics.confusion(pred, label, list(range(len(names))))
    per_class = metrics.per_class(pred, label)
    matrix = confused = None
    if len(names) <= MATRIX:
        share = counts / counts.sum(1, keepdims=True).clip(1)
        matrix = [
            (name, [(int(counts[r, c]), round(45 * share[r, c]), r == c) for c in range(len(names))])
            for r, name in enumerate(names)
        ]
    else:
        pairs = Counter({(r, c): int(counts[r, c]) for r, c in np.argwhere(counts).tolist() if r != c})
        confused = [(names[r], names[c], times) for (r, c), times in pairs.most_common(MATRIX)]
    sure, reliability, reliability_text = confidence_of(args, rows, loss)
    mistakes, gone = mistakes_of(args, run, done, rows, sure, names, loss)

    same = nfe.min() == nfe.max()
    evaluations = f"{nfe.mean():,.0f} network evaluation{'s' if nfe.mean() >= 1.5 else ''}"
    dearest = np.sort(nfe)[-(-len(nfe) // -10) :].sum() / nfe.sum()
    costs = f"What the images cost. The dearest tenth of them took {dearest:.0%} of all evaluations."

    p, (low, high) = metrics.accuracy(pred, label)
    model = options.get("version") or options.get("model")
    sections = ["accuracy", "confusion", "confidence", "mistakes", *["missing"] * bool(problems), "run"]
    titles = {"confidence": "Confidence and cost", "missing": "Not counted", "run": "The run"}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        title=f"{options['dataset']}, {options['split']} split, by {model}",
        lead=f"{(pred == label).sum():,} of {len(rows):,} images right: {100 * p:.2f}%"
        f" (95% interval {100 * low:.2f} to {100 * high:.2f}), at {evaluations} an image.",
        sections=[(id, titles.get(id, id.capitalize())) for id in sections],
        table=summary(rows, max(run["images"], len(rows)), len(names), options),
        classes=sorted(((names[k], *per_class[k]) for k in per_class), key=lambda each: (each[1] / each[2], each[0])),
        names=names,
        matrix=matrix,
        confused=confused,
        reliability=reliability,
        reliability_text=reliability_text,
        histogram=None if same else draw_histogram(nfe),
        histogram_text=f"Every image took {evaluations}." if same else costs,
        mistakes=mistakes,
        wrong=int((pred != label).sum()),
        gone=gone,
        problems=problems,
        run=json.dumps(run, indent=1, ensure_ascii=False),
        folder=f"{args.folder.resolve().name}, decided by {loss}",
    )
    text = page.encode(errors="replace")  # a JSON's half surrogate pair is a question mark
    records.write_atomic(out, lambda file: file.write(text))
    print(out)
    return cli.report(problems)


if __name__ == "__main__":
    cli.run(main)
