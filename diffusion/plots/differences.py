"""Images of which only one of two runs is right."""

from pathlib import Path

from diffusion.core.search import even
from diffusion.data.datasets import as_seen
from diffusion.plots import style
from diffusion.runs.images import dataset_of_run
from diffusion.runs.results import Run

SIDE, TALL = 1.35, 1.9  # inches: of an image's place, and with the text below it
COLUMNS = 10


def draw(run: Run, sides: list[tuple[str, str, list[tuple]]], most: int, path: Path) -> None:
    """For each side a heading and at most `most` images, spread evenly; the heading alone if there is none.

    run: any of the runs, for its data; sides: (the run that is right, the run that is wrong, and for each image its
    index, its class, and the class that the wrong run chose).
    """
    dataset = dataset_of_run(run)
    chosen = []
    for *_, images in sides:
        spread = even(min(most, len(images)), len(images))
        chosen.append([images[k] for k in spread])
    widest = max(map(len, chosen))
    columns = max(min(widest, COLUMNS), 4)
    lines = [-(-len(images) // columns) for images in chosen]
    first, second = sides[0][:2]
    heading = f"{run.data_title}: where {first} and {second} differ"
    wanted = style.width_of(heading, size=12, weight="bold") + 0.2
    width, height = max(columns * SIDE + 0.3, wanted), sum(lines) * TALL + 1.4
    figure = style.page(width, height, heading, "Below each image: its class, and the class that the other run chose.")

    top = 0.5
    for (right, _, images), shown, line in zip(sides, chosen, lines, strict=True):
        title = f"Only {right} is right: {len(images)}"
        if len(shown) < len(images):
            title += f", {len(shown)} shown"
        figure.text(0.1 / width, 1 - top / height, title, va="top", fontsize=10, color=style.RIGHT)
        for n, (index, label, answer) in enumerate(shown):
            left, above = 0.15 + SIDE * (n % columns), top + 0.3 + TALL * (n // columns)
            axes = style.axes_at(figure, left, above + 0.08 * SIDE, 0.92 * SIDE, 0.92 * SIDE)
            axes.imshow(as_seen(dataset, int(index), run.options))
            style.bare(axes, style.PLAIN)
            text = f"{style.shorten(label, 22)}\nnot {style.shorten(answer, 20)}"
            axes.set_xlabel(text, fontsize=7.5)
        top += line * TALL + 0.3
    style.save(figure, path)
