"""Accuracy on shifted data sets against that on the base, with the trend of standard classifiers."""

from pathlib import Path

import numpy as np
from scipy.special import logit

from diffusion.plots import style

TICKS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
APART = 0.08  # of an axis, at least, between two ticks


def draw(base: str, panels: dict[str, tuple[list[tuple], tuple | None]], path: Path) -> None:
    """A panel for each data set, a point for each model, in logit space.

    panels: data set -> (points, line); a point is (model, accuracy on the base, accuracy on this set), line the slope
    and intercept of the trend, or None.
    """
    figure = style.new(4.2 * len(panels), 4.7)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (name, (points, line)) in zip(all_axes, panels.items(), strict=True):
        values = np.array([[x, y] for _, x, y in points])
        low, high = logit(values.clip(0.005, 0.995).min() * 0.9), logit(min(values.max() + 0.02, 0.995))
        grid = np.linspace(low, high, 50)
        axes.plot(grid, grid, color=style.LINE, linewidth=1, label="equal accuracy on both")
        if line:
            label = "trend of standard classifiers"
            axes.plot(grid, line[0] * grid + line[1], "--", color=style.PLAIN, linewidth=1, label=label)
        for model, x, y in points:
            _draw_point(axes, model, logit(x), logit(y), low, high)

        ticks = readable_ticks(low, high)
        labels = [f"{100 * tick:.0f}" for tick in ticks]
        axes.set_xticks(logit(ticks), labels)
        axes.set_yticks(logit(ticks), labels)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set(xlabel=f"accuracy on {base}, %", ylabel=f"accuracy on {name}, %")
    named = {}  # label -> line; each label once, though every panel has it
    for axes in all_axes:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, line)
    figure.legend(named.values(), named.keys(), loc="outside upper left", frameon=False, fontsize=8, ncols=2)
    style.save(figure, path)


def _draw_point(axes, model: str, x: float, y: float, low: float, high: float) -> None:
    """A model at (x, y), its name beside it, towards the middle of the axes; standard classifiers are grey."""
    standard = model.startswith("timm:")
    axes.plot(x, y, "o", color=style.PLAIN if standard else style.ACCENT)
    side, across = ("right", -5) if x > (low + high) / 2 else ("left", 5)
    up = 5 if y < low + 0.1 * (high - low) else -9
    name = style.shorten(model, 24)
    axes.annotate(name, (x, y), (across, up), textcoords="offset points", ha=side, fontsize=7)


def readable_ticks(low: float, high: float) -> np.ndarray:
    """Those of TICKS between two logits whose texts do not overlap, the smallest first."""
    chosen: list[float] = []
    for tick in TICKS:
        inside = low <= logit(tick) <= high
        if inside and (not chosen or logit(tick) - logit(chosen[-1]) >= APART * (high - low)):
            chosen.append(tick)
    return np.array(chosen)
