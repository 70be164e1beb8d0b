"""Shared by all pictures: colours, figures, texts that fit, and the file. The only module that imports matplotlib."""

import io
import os
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffusion import InputError, one_line

RIGHT, WRONG = "#1a7f37", "#cf222e"  # the colours of every picture
ACCENT, PLAIN = "#0969da", "#8c959f"
SOFT, LINE = "#57606a", "#d0d7de"  # of notes, and of thin lines
FONTS = {"pdf.fonttype": 42, "ps.fonttype": 42}  # TrueType: conferences refuse matplotlib's default, type 3


def check_picture(path: Path | None) -> None:
    """InputError, before the work, if `save` could not write this file: no such folder, or no picture's suffix."""
    if path is None:
        return
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise InputError(path, "cannot be written: wanted a file in a folder that exists")
    supported = new(1, 1).canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in supported:
        raise InputError(path, f"cannot be written: supported are .{', .'.join(supported)}")


def save(figure, path: Path, dpi: int = 110) -> None:
    """Save a matplotlib figure; InputError if it cannot be written. Texts in a pdf have fonts of type 42."""
    from matplotlib import rc_context

    try:
        with rc_context(FONTS):
            figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise InputError(path, f"cannot be written ({error})") from None


def new(width: float, height: float, heading: str = "", layout: str | None = "constrained"):
    """A figure of `width` times `height` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    if heading:
        figure.suptitle(plain(heading), fontsize=12, weight="bold")
    return figure


def page(width: float, height: float, heading: str, note: str = "", margin: float = 0.1):
    """A figure that is laid out in inches: the heading at the top on the left, the note at the bottom."""
    figure = new(width, height, layout=None)
    figure.text(margin / width, 1 - 0.12 / height, plain(heading), va="top", fontsize=12, weight="bold")
    if note:
        figure.text(margin / width, 0.1 / height, plain(note), va="bottom", fontsize=8, color=SOFT)
    return figure


def axes_at(figure, left: float, top: float, wide: float, tall: float):
    """Axes at a place in inches from the upper left corner of the figure."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, 1 - (top + tall) / height, wide / width, tall / height))


def open_up(axes, **grid) -> None:
    """A grid behind, and no frame above and on the right."""
    axes.grid(**{"alpha": 0.25} | grid)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def bare(axes, colour: str, linewidth: float = 1.5) -> None:
    """A frame and no ticks, around an image."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=linewidth)


def outcome_colour(pred: int, label: int | None, *, labelled: bool = True) -> str:
    """The colour of an answer: right, wrong, or neither for an unlabelled image."""
    if not labelled:
        return ACCENT
    return RIGHT if pred == label else WRONG


def svg_text(figure, salt: str) -> str:
    """A figure as svg, with its texts as text; ids depend on `salt` alone."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def log_ticks(axis, multiples: tuple[int, ...]) -> None:
    """Plain numbers at these multiples of the powers of ten, and nothing between them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_formatter(NullFormatter())  # else it writes 3 x 10^2 between, over the others


def rgb(colour: str) -> tuple[float, float, float]:
    """A colour as red, green and blue in 0..1."""
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def draw_shares(
    axes, x: Iterable[float], shares: list, style: str = "o-", *, colour: str, label: str | None = None
) -> None:
    """A curve in percent with a band, from (share, its interval) at each x."""
    p, low, high = 100 * np.array([(p, *interval) for p, interval in shares]).T
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, p, style, markersize=4, color=colour, label=label)


def width_of(text: str, **font) -> float:
    """How many inches wide a text is in a font (size, weight)."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    properties, dpi = FontProperties(**font), 720
    measured = get_font(findfont(properties))
    measured.set_size(properties.get_size_in_points(), dpi)
    measured.set_text(text)
    return measured.get_width_height()[0] / 64 / dpi  # matplotlib counts in 64ths of a dot


def fit(text: str, inches: float, **font) -> str:
    """As much of a text as fits into so many inches in a font (size, weight), in the form of `shorten`."""
    whole = shorten(text, max(len(text), 1))
    if width_of(whole, **font) <= inches:
        return whole
    lengths = range(1, len(text))  # a text of thousands of characters is measured a few times only
    fitting = bisect_right(lengths, inches, key=lambda length: width_of(shorten(text, length), **font))
    return shorten(text, max(fitting, 1))


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line, and no $, between which matplotlib would read mathematics."""
    text = one_line(text, None)
    short = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return plain(short)


def plain(text: str) -> str:
    """A text without mathematics: matplotlib would read it between two $."""
    return text.replace("$", r"\$")
