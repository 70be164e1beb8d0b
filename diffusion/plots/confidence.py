"""Confidence against accuracy, and accuracy against coverage."""

from pathlib import Path

import numpy as np

from diffusion.io.wording import count
from diffusion.plots import style
from diffusion.stats import calibration, metrics

FEW = 100  # images: with fewer, a reliability diagram is mostly chance


def draw_reliability(axes, counts, sure: np.ndarray, hit: np.ndarray, *, ink: str = "black") -> np.ndarray:
    """Accuracy against confidence [n], bin by bin, with the diagonal; below it, how many images have that confidence.

    axes, counts: the upper and lower axes; hit [n] bool; ink: the colour of the legend, which lies above the axes.
    Returns the bins, as calibration.reliability.
    """
    bins = calibration.reliability(sure, hit)
    confidence, share, images = bins.T
    intervals = [metrics.wilson(p, n) for p, n in zip(share, images, strict=True)]
    low, high = np.array(intervals).T
    least = 10 * np.floor(10 * min(sure.min(), low.min()))
    axes.plot([0, 100], [0, 100], "--", color=style.PLAIN, linewidth=1, label="accuracy = confidence")
    axes.vlines(100 * confidence, 100 * low, 100 * high, color=style.RIGHT, alpha=0.4)
    axes.plot(100 * confidence, 100 * share, "o", markersize=5, color=style.RIGHT, label=_bins_text(images))
    axes.set(xlim=(least, 101.5), ylim=(least, 101.5), ylabel="accuracy, %")
    axes.tick_params(labelbottom=False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, labelcolor=ink, borderpad=0)

    counts.hist(100 * sure, np.linspace(least, 100, 21), color=style.ACCENT, alpha=0.8)
    counts.set(xlim=(least, 101.5), xlabel="confidence, %", ylabel="images")
    counts.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    for axis in (axes.xaxis, axes.yaxis, counts.xaxis):
        axis.get_major_locator().set_params(integer=True, nbins=7)
    return bins


def _bins_text(images: np.ndarray) -> str:
    """How many images the bins hold, for the legend."""
    low, high = int(images.min()), int(images.max())
    if len(images) == 1:
        return f"all {count(low, 'image')}: too few for bins"
    each = count(low, "image") if low == high else f"{low}-{high} images"
    return f"{len(images)} bins of {each}, 95% interval"


def draw(sure: np.ndarray, hit: np.ndarray, heading: str, path: Path) -> None:
    """Reliability on the left, accuracy against coverage on the right; confidence [n], hit [n] bool."""
    figure = style.new(10, 4.8, heading)
    left, right = figure.subfigures(1, 2)
    upper, lower = left.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    draw_reliability(upper, lower, sure, hit)
    error = f"expected calibration error {calibration.ece(sure, hit):.3f}"
    if len(sure) < FEW:
        error += f"\nof {count(len(sure), 'image')}: much of it is chance"
    left.suptitle(error, fontsize=10)

    axes = right.subplots()
    right.suptitle("accuracy against coverage", fontsize=10)
    answered, accuracy = calibration.coverage(sure, hit)
    shares, lows = [], []
    for share, p in zip(answered, accuracy, strict=True):
        interval = metrics.wilson(p, share * len(hit))
        shares.append((p, interval))
        if share > 0.1:
            lows.append(interval[0])
    style.draw_shares(axes, 100 * answered, shares, "-", colour=style.RIGHT)
    axes.set(xlabel="images answered, most confident first, %", ylabel="accuracy of these answers, %", xlim=(0, 101))
    axes.set_ylim(max(0, 100 * min(lows) - 1), 100.4)
    for each in (upper, lower, axes):
        style.open_up(each)
    style.save(figure, path)
