"""Pictures: what they share, from the check before the work to the file."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from diffusion import InputError, one_line
from diffusion.stats import calibration, metrics

RIGHT, WRONG = "#1a7f37", "#cf222e"  # the colours of every picture
ACCENT, PLAIN = "#0969da", "#8c959f"


def check_picture(path: Path | None) -> None:
    """InputError where `save` would find no such folder, or the suffix no picture's: before the work."""
    if path is None:
        return
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise InputError(path, "cannot be written: wanted a file in a folder that exists")
    if path.suffix[1:].lower() not in (known := new(1, 1).canvas.get_supported_filetypes()):
        raise InputError(path, f"cannot be written: supported are .{', .'.join(known)}")


def save(figure, path: Path, dpi: int = 110) -> None:
    """Save a matplotlib figure; InputError when it cannot be written."""
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise InputError(path, f"cannot be written ({error})") from None


def new(width: float, height: float, heading: str = "", layout: str | None = "constrained"):
    """A figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    if heading:
        figure.suptitle(heading, fontsize=12, weight="bold")
    return figure


def page(width: float, height: float, heading: str, note: str, margin: float = 0.1):
    """A figure of many small pictures: the heading above them on the left, the note below."""
    figure = new(width, height, layout=None)
    figure.text(margin / width, 1 - 0.12 / height, heading, va="top", fontsize=12, weight="bold")
    figure.text(margin / width, 0.1 / height, note, va="bottom", fontsize=8, color="#57606a")
    return figure


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


def draw_shares(
    axes, x: Iterable[float], shares: list, style: str = "o-", *, colour: str, label: str | None = None
) -> None:
    """A curve in percent and its band, from (share, its interval) at each x."""
    p, low, high = (100 * np.array(each) for each in zip(*[(p, *interval) for p, interval in shares], strict=True))
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, p, style, markersize=4, color=colour, label=label)


def draw_reliability(axes, sure: np.ndarray, hit: np.ndarray, **legend) -> np.ndarray:
    """Confidence [n] and share of hits [n] bool, bin by bin; the bins, as calibration.reliability gives them."""
    bins = calibration.reliability(sure, hit)
    confidence, share, images = bins.T
    low, high = np.array([metrics.wilson(p, n) for p, n in zip(share, images, strict=True)]).T
    place = np.arange(1, len(images) + 1)  # against confidence itself, all bins but one would lie upon each other
    axes.vlines(place, 100 * low, 100 * high, color=RIGHT, alpha=0.4, label="95% interval")
    axes.plot(place, 100 * share, "o", markersize=5, color=RIGHT, label="right")
    axes.plot(place, 100 * confidence, "_", markersize=13, markeredgewidth=2, color=ACCENT, label="confidence")
    bins_of = f"bins of {images.min():.0f} images or one more, the least sure first"
    axes.set(xlabel=bins_of, ylabel="%", xlim=(0.5, len(place) + 0.5), xticks=place, ylim=(None, 101))
    axes.legend(frameon=False, loc="lower right", **legend)
    return bins


def fit(text: str, inches: float, **font) -> str:
    """As much of a text as is so wide in a font (size, weight), in `shorten`'s form."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    prop, dpi = FontProperties(**font), 720
    measured = get_font(findfont(prop))
    measured.set_size(prop.get_size_in_points(), dpi)
    for length in range(len(text) or 1, 0, -1):
        measured.set_text(shorten(text, length))
        if measured.get_width_height()[0] / 64 <= dpi * inches:  # in 64ths of a dot
            break
    return shorten(text, length)


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line, and no $, between which matplotlib would read mathematics."""
    text = one_line(text, None)
    short = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return short.replace("$", r"\$")
