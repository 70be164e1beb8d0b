"""A run of run_winoground.py, read: the scores of its examples, their table, their gallery."""

from pathlib import Path

import numpy as np

from diffusion import InputError, figures, metrics, records, results
from diffusion.results import Run

COLUMNS, GALLERY = 3, 12  # examples in a row of the gallery, and in all of it


def _told(run: Run, e: int) -> dict:
    """The id, tag and captions of an example. InputError where run.json does not tell of it."""
    match run.about["examples"].get(str(e)):
        case {"id": str(), "tag": str(), "captions": [str(), str()]} as told:
            return told
        case told:
            wanted = "wanted its id, tag and captions"
            raise InputError(f"{run.folder / 'run.json'}: example {e} is {told!r:.60}, {wanted}")


def _raced(run: Run) -> bool:
    """Then two images may have been measured at different points."""
    return run.options.get("search") == "race"


def read_errors(run: Run) -> tuple[np.ndarray, dict[int, dict], list[str]]:
    """Mean errors [n, caption 2 (and the empty one) 3, image 2] of complete examples, what these are, what is wrong.

    The record of image k of example e has number 2 e + k; the empty caption's errors are nan where not measured.
    InputError where it is no run of examples.
    """
    if "examples" not in run.about:
        raise InputError(f"{run.folder} is no run of run_winoground.py")
    found, problems = {}, []
    for number, path in run.done.items():
        try:
            record = records.load_record(path, own=True, loss=run.loss)
            means = [part.mean() for part in metrics.arm_errors(record, run.loss)][:3]
        except InputError as error:
            problems.append(str(error))
            continue
        found.setdefault(number // 2, np.full((3, 2), np.nan))[: len(means), number % 2] = means
    examples = {e: _told(run, e) for e, errors in sorted(found.items()) if not np.isnan(errors[:2]).any()}
    return np.array([found[e] for e in examples]).reshape(-1, 3, 2), examples, problems


def print_scores(run: Run) -> int:
    """Print text, image and group scores (of a race, the text score), of all examples and by tag.

    Where the empty caption was measured, also with its error subtracted from its image's. The exit code.
    """
    errors, examples, problems = read_errors(run)
    tags = np.array([told["tag"] for told in examples.values()])
    print(f"{'examples':<16}{len(examples)} of {max(run.about['images'] // 2, len(examples))}")
    right = {"": metrics.winoground(-errors[:, :2])}
    if _raced(run):
        right = {"": {"text": right[""]["text"]}}
    elif len(errors) and not np.isnan(errors).any():
        right[", normalized"] = metrics.winoground(errors[:, 2:] - errors[:, :2])
    groups = {"all": np.full(len(examples), True)} | {tag: tags == tag for tag in dict.fromkeys(tags) if tag}
    for how, scores in right.items():
        print(f"\n{'score' + how:<20}{'n':>6}" + "".join(f"{name:>24}" for name in scores))
        for group, mask in groups.items():
            cells = [metrics.share(correct[mask]) for correct in scores.values()]
            shown = [f"{100 * p:.1f}% ({100 * low:.1f} to {100 * high:.1f})" for p, (low, high) in cells]
            print(f"{group:<20}{mask.sum():>6}" + "".join(f"{cell:>24}" for cell in shown))
    return results.report(problems)


def draw_gallery(run: Run, pairs, path: Path) -> None:
    """The examples of a run, worst first: images, captions, and the four errors."""
    if _raced(run):
        apart = "is a race, its images were measured at different points"
        raise InputError(f"--gallery: wanted a grid; {run.folder} {apart}")
    errors, examples, _ = read_errors(run)
    if not examples:
        raise InputError(f"{run.folder}: no example is done yet")
    normalized = not np.isnan(errors).any()
    scores = errors[:, 2:] - errors[:, :2] if normalized else -errors[:, :2]  # [n, caption, image]
    right = metrics.winoground(scores)
    margin = np.min([
        scores[:, k, k] - other for k in (0, 1) for other in (scores[:, 1 - k, k], scores[:, k, 1 - k])
    ], 0)  # fmt: skip
    chosen = np.argsort(margin, kind="stable")[:GALLERY]
    lines = -(-len(chosen) // COLUMNS)
    figure = figures.new(4.6 * COLUMNS, 2.35 * lines + 0.9, layout=None)
    what = f"{run.loss} error" + (", less the empty caption's" if normalized else "")
    title = f"{run.options['dataset']}, {run.options['model']}: the {len(chosen)} worst of {len(examples)} examples"
    figure.suptitle(
        f"{title}\nNumbers: {what}, in thousandths above the example's smallest; green: own caption and image.",
        fontsize=11,
    )
    top = 1 - 0.75 / figure.get_figheight()
    grid = figure.add_gridspec(lines, COLUMNS, top=top, bottom=0.02, left=0.01, right=0.99, wspace=0.05, hspace=0.1)
    for n, k in enumerate(chosen):
        e, told = list(examples.items())[k]
        cell = grid[n // COLUMNS, n % COLUMNS].subgridspec(3, 3, hspace=0.12, height_ratios=[0.55, 1.4, 0.12])
        head = figure.add_subplot(cell[0, :])
        head.axis("off")
        marks = "   ".join(f"{name} {'✓' if right[name][k] else '✗'}" for name in right)
        colour = figures.RIGHT if right["group"][k] else figures.WRONG
        name = figures.shorten(f"{told['id']}  {told['tag']}", 40)
        head.text(0, 1, f"{name}   {marks}", va="top", fontsize=9, weight="bold", color=colour)
        for line, text in enumerate(told["captions"]):
            head.text(0, 0.62 - 0.36 * line, f"{line}: {figures.shorten(text, 72)}", va="top", fontsize=7.5)
        for side in (0, 1):
            picture = figure.add_subplot(cell[1, side])
            try:
                picture.imshow(pairs.open(e, side))
            except OSError as error:
                raise InputError(str(error)) from None
            picture.set(xticks=[], yticks=[])
            picture.set_title(f"image {side}", fontsize=7.5, pad=2)
        table = figure.add_subplot(cell[1, 2])
        above = 1000 * (scores[k].max() - scores[k])  # [caption, image]
        table.imshow(above, cmap="Greys", vmin=0, vmax=2 * above.max() or 1)
        for caption in (0, 1):
            for side in (0, 1):
                own = {"color": figures.RIGHT, "weight": "bold"} if caption == side else {"color": "black"}
                table.text(side, caption, f"{above[caption, side]:.1f}", ha="center", va="center", fontsize=9, **own)
        table.set_xticks([0, 1], ["image 0", "image 1"], fontsize=7)
        table.set_yticks([0, 1], ["0", "1"], fontsize=7)
        table.xaxis.tick_top()
        table.tick_params(length=0, pad=2)
        for spine in table.spines.values():
            spine.set(color=colour, linewidth=1.5)
    figures.save(figure, path)
