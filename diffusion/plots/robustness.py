"""Accuracy on shifted data sets against that on the base, with the trend of standard classifiers."""

from pathlib import Path

import numpy as np
from scipy.special import logit

from diffusion.plots import style

TICKS = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])


def draw(base: str, panels: dict[str, tuple[list[tuple], tuple | None]], path: Path) -> None:
    """A panel for each data set, a point for each model, in logit space.

    panels: data set -> (points, line); a point is (model, accuracy on the base, accuracy on this set), line the slope
    and intercept of the trend, or None.
    """
    figure = style.new(4.2 * len(panels), 4)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (name, (points, line)) in zip(all_axes, panels.items(), strict=True):
        values = np.array([[x, y] for _, x, y in points])
        low, high = logit(values.clip(0.005, 0.995).min() * 0.9), logit(min(values.max() + 0.02, 0.995))
        grid = np.linspace(low, high, 50)
        axes.plot(grid, grid, color=style.LINE, linewidth=1)  # equal accuracy on both
        if line:
            axes.plot(grid, line[0] * grid + line[1], color=style.PLAIN, linestyle="--", linewidth=1)
        for model, x, y in points:
            standard = model.startswith("timm:")
            place = logit(x), logit(y)
            axes.plot(*place, "o", color=style.PLAIN if standard else style.ACCENT)
            axes.annotate(style.shorten(model, 24), place, (5, -9), textcoords="offset points", fontsize=7)
        ticks = TICKS[(logit(TICKS) >= low) & (logit(TICKS) <= high)]
        axes.set_xticks(logit(ticks), [f"{t:.0%}" for t in ticks])
        axes.set_yticks(logit(ticks), [f"{t:.0%}" for t in ticks])
        axes.set(xlim=(low, high), ylim=(low, high), xlabel=f"accuracy on {base}", title=name, aspect="equal")
    style.save(figure, path)
