"""Which noise levels distinguish the classes of a run, and what fitted weights are worth."""

from pathlib import Path

import numpy as np

from diffusion.plots import style
from diffusion.stats import level_weights


def draw(level: np.ndarray, fitted: tuple, table: list[tuple], heading: str, path: Path) -> None:
    """Gap, signal-to-noise ratio and weight of each band of levels; accuracy against points, plain and weighted.

    level: [P]; fitted: gap, standard deviation and weight, each [bands]; table: (points, [plain share and interval,
    weighted share and interval]).
    """
    gap, sd, weights = fitted
    figure = style.new(10, 7, heading)
    (upper, ratio), (weight, accuracy) = figure.subplots(2, 2)
    parts = level_weights.bands(len(level))
    middle = np.array([level[band].mean() for band in parts])
    wide = np.array([np.ptp(level[band]) for band in parts]) + level[1] - level[0]
    upper.bar(middle, gap, 0.9 * wide, color=style.RIGHT, alpha=0.8)
    upper.set(ylabel="gap: error of the nearest other class\nminus that of the label", xlabel="noise level")
    ratio.bar(middle, gap / sd, 0.9 * wide, color=style.RIGHT, alpha=0.8)
    ratio.set(ylabel="gap / s.d. per point", xlabel="noise level")
    weight.bar(middle, weights, 0.9 * wide, color=style.ACCENT, alpha=0.8)
    weight.axhline(1, color=style.PLAIN, linestyle="--", linewidth=1)
    weight.set(ylabel="fitted weight, mean 1", xlabel="noise level")
    points, shares = zip(*table, strict=True)
    plain, weighted = zip(*shares, strict=True)
    style.draw_shares(accuracy, points, plain, colour=style.PLAIN, label="plain")
    style.draw_shares(accuracy, points, weighted, colour=style.ACCENT, label="weighted")
    accuracy.set(xscale="log", xlabel="points per class", ylabel="accuracy on held-out images, %")
    accuracy.set_xticks(points, points)
    accuracy.minorticks_off()
    accuracy.legend(frameon=False, loc="lower right")
    for axes in (upper, ratio, weight, accuracy):
        style.open_up(axes)
    style.save(figure, path)
