"""What holds for every picture: no text is cut off, none lies over what is drawn, no title is a path."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from diffusion.plots import confidence, confusion, levels, robustness, style
from diffusion.runs import records, results

HEADING = "digits, test split, by digits"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(draw, *arguments) -> figure`: what `draw` would save."""

    def draw_it(draw, *arguments):
        figures = []
        monkeypatch.setattr(style, "save", lambda figure, *_, **more: figures.append(figure))
        draw(*arguments, tmp_path / "out.png")
        (figure,) = figures
        FigureCanvasAgg(figure).draw()  # lays it out; the canvas of a plain Figure draws nothing
        return figure

    return draw_it


def texts_of(figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def check_inside(figure) -> None:
    """Every text lies inside the picture, to a pixel."""
    width, height = figure.canvas.get_width_height()
    hidden = hidden_ticks(figure)
    texts = [text for text in texts_of(figure) if text not in hidden]
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


def hidden_ticks(figure) -> list[Text]:
    """The labels of ticks beyond the ends of their axis, which matplotlib keeps and does not draw."""
    hidden = []
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden += [tick.label1, tick.label2]
    return hidden


# ---- confusion ----


@pytest.mark.parametrize("classes", [2, 10, 60, 100])
def test_the_texts_of_a_confusion_matrix(drawn, classes):
    table = np.diag(np.full(classes, 9))
    table[0, 1] = 7
    names = [f"a class of the number {k}, in many words" for k in range(classes)]
    figure = drawn(confusion.draw, table, names, HEADING)
    check_inside(figure)
    texts = texts_of(figure)
    assert "Most confused: images, true → predicted" in [text.get_text() for text in texts]


# ---- confidence ----


def answers(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether the answers are right, well calibrated. [n] each"""
    rng = np.random.default_rng(0)
    sure = np.clip(1 - rng.exponential(0.1, images), 0.3, 1)
    return sure, rng.random(images) < sure


@pytest.mark.parametrize("images", [5, 80, 300, 3000])
def test_the_legend_of_a_calibration_lies_over_no_point(drawn, images):
    figure = drawn(confidence.draw, *answers(images), f"{HEADING}: {images} images held out")
    check_inside(figure)
    upper = next(axes for axes in figure.findobj(Axes) if axes.get_legend())
    legend = upper.get_legend().get_window_extent()
    assert legend.y0 >= upper.get_window_extent().y1 - 1
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            labels = [tick.get_text() for tick in axis.get_ticklabels() if tick.get_text()]
            assert all(label.isdigit() for label in labels), labels


# ---- levels ----


def test_the_texts_of_levels(drawn):
    level = np.arange(0, 1000, 10)
    gap = np.linspace(0.001, 0.02, 10)
    table = []
    for points in (4, 8, 16, 32, 64, 100):
        table.append((points, [(0.9, (0.8, 0.95)), (0.92, (0.82, 0.96))]))
    fitted = gap, gap / 2, np.linspace(0.5, 1.5, 10)
    figure = drawn(levels.draw, level, fitted, table, f"{HEADING}: 497 images, 10 classes")
    check_inside(figure)


# ---- robustness ----


def test_the_names_of_models_are_inside_and_ticks_are_apart(drawn):
    name = "timm:a_long_name_of_a_standard_classifier"
    points = [(name, 0.8, 0.69), (name, 0.85, 0.75), ("2-0", 0.61, 0.55)]
    hard = [(name, 0.8, 0.02), ("2-0", 0.61, 0.2)]
    figure = drawn(robustness.draw, "imagenet", {"imagenetv2": (points, (1.0, -0.5)), "imagenetA": (hard, None)})
    check_inside(figure)
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for text in axes.texts:
            assert frame.contains(*text.get_window_extent().min) and frame.contains(*text.get_window_extent().max)
        boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
        assert len(boxes) >= 3
        assert not any(left.overlaps(right) for left, right in itertools.pairwise(boxes))


# ---- titles ----


def test_the_title_of_own_data_is_no_path(tmp_path):
    options = {"dataset": "/home/me/pictures/mine.csv", "split": "test", "version": "2-0", "loss": "l2"}
    records.open_run(tmp_path / "run", options, {"images": 1, "arms": [("a zero", "zero", 0)]})
    run = results.read(tmp_path / "run")
    assert run.data_title == "mine, test split" and run.title == "mine, test split, by 2-0"


@pytest.mark.parametrize("text", ["", "a", "a photo of a cat.", "wide WWWW and thin iiii " * 3, "a $ sign"])
@pytest.mark.parametrize("inches", [0.01, 0.5, 1.0, 9.0])
def test_the_longest_beginning_that_fits(text, inches):
    """As a loop over all lengths finds it."""
    found = style.fit(text, inches, size=8)
    lengths = range(max(len(text), 1), 0, -1)
    fitting = [short for short in (style.shorten(text, n) for n in lengths) if style.width_of(short, size=8) <= inches]
    assert found == (fitting[0] if fitting else style.shorten(text, 1))


def test_a_text_of_any_length_is_fitted_soon(monkeypatch):
    """By a few measurements, not by one for each of its characters."""
    calls, width_of = [], style.width_of
    monkeypatch.setattr(style, "width_of", lambda text, **font: calls.append(text) or width_of(text, **font))
    assert len(style.fit("a photo of " * 910, 2.0, size=8)) < 60 and len(calls) < 20
