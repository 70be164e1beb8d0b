"""Pictures inside an HTML page: svg in the page's colours, and images as data URIs."""

import base64
import io
import re
from html import escape

import numpy as np
from PIL import Image

from diffusion.io import wording
from diffusion.plots import confidence, style

THUMBNAIL = 192  # pixels, at most
INK = "#1f2328"
COLOURS = {  # of pictures -> the page's variables, which have a light and a dark value
    INK: "ink",
    style.SOFT: "soft",
    style.LINE: "line",
    style.PLAIN: "soft",
    style.ACCENT: "accent",
    style.RIGHT: "right",
    style.WRONG: "wrong",
}


def svg(figure, name: str, label: str) -> str:
    """A matplotlib figure as svg in the page's colours; ids begin with `name`, `label` is read aloud."""
    text = style.svg_text(figure, name)
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _in_page(axes) -> None:
    """Axes in the colours of a page."""
    for spine in axes.spines.values():
        spine.set_color(style.LINE)
    axes.tick_params(colors=style.LINE, labelcolor=style.SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    style.open_up(axes, color=style.LINE, alpha=0.5)


def _figure(width: float, height: float):
    """A figure of so many inches, and its axes."""
    figure = style.new(width, height)
    axes = figure.subplots()
    _in_page(axes)
    return figure, axes


def draw_reliability(sure: np.ndarray, hit: np.ndarray, id: str = "") -> str:
    """Accuracy against confidence [n], bin by bin, and how many images have it; hit [n] bool."""
    figure = style.new(4.4, 4.0)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    _in_page(upper)
    _in_page(lower)
    bins = confidence.draw_reliability(upper, lower, sure, hit, ink=INK)
    ends = [f"{bins[k, 0]:.0%} confident, {bins[k, 1]:.0%} right" for k in (0, -1)]
    label = f"Accuracy against confidence, in {wording.count(len(bins), 'bin')} of equally many images"
    return svg(figure, f"{id}reliability", f"{label}: the least confident are {ends[0]}, the most confident {ends[1]}")


def draw_histogram(nfe: np.ndarray, id: str = "") -> str:
    """How many images [n] cost how much; logarithmic bins if the costs differ much."""
    figure, axes = _figure(4.4, 3.1)
    low, high = nfe.min(), nfe.max()
    if high > 8 * low:
        axes.hist(nfe, np.geomspace(low, high, 25), color=style.ACCENT)
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis, (1, 2, 5) if high < 100 * low else (1,))
    else:
        axes.hist(nfe, np.linspace(low - 0.5, high + 0.5, 25), color=style.ACCENT)
    axes.set(xlabel="NFE of an image", ylabel="images")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return svg(figure, f"{id}histogram", f"Histogram of the NFE of {len(nfe)} images, from {low:,} to {high:,}")


def draw_curve(curve: np.ndarray, name: str, label: str, colour: str) -> str:
    """A running mean [n] against the number of points."""
    figure, axes = _figure(3.4, 1.5)
    points = np.arange(1, len(curve) + 1)
    axes.axhline(0, color=style.SOFT, linewidth=1)
    axes.plot(points, curve, color=colour, marker="o" if len(curve) < 20 else None, markersize=3)
    axes.set_xlabel("points", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.locator_params(axis="y", nbins=4)
    return svg(figure, name, label)


def picture(image: np.ndarray) -> str:
    """An image [h, w, 3] in 0..1 as the URI of its own data: png if it is small, else a jpeg of THUMBNAIL pixels."""
    file = io.BytesIO()
    shown = Image.fromarray((255 * image).round().astype(np.uint8))
    shown.thumbnail((THUMBNAIL, THUMBNAIL))
    if max(image.shape) <= THUMBNAIL:
        kind = "png"
        shown.save(file, "PNG")
    else:
        kind = "jpeg"
        shown.save(file, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
