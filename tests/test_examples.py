"""The notebook of examples/ runs from its first cell to its last, and shows what it says."""

import json

import matplotlib
import numpy as np
import pytest
from helpers import ROOT

from diffusion.stats import metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOTEBOOK = ROOT / "examples/classify.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped(cells):
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_runs(cells, capsys):
    names: dict = {}
    pictures = []
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
        pictures += [plt.figure(k) for k in plt.get_fignums()]
        if number == 2:
            assert [len(axes.lines) for axes in pictures[-1].axes] == [10, 11]  # ten prompts; and the line at 0
    assert len(set(pictures)) == 2 and len(pictures[0].axes) == 12
    plt.close("all")

    labels = names["labels"]
    assert [len(hit) for hit in names["hits"].values()] == [30, 30]
    best = [answer.best for answer in names["answers"]]
    assert ((np.array(best) == labels) == names["hits"]["digits-flow"]).all()
    assert min(hit.mean() for hit in names["hits"].values()) > 0.85

    grid = names["grid"]
    assert names["errors"].shape == (10, 100) and (np.diff(names["levels"]) > 0).all()
    assert names["errors"].mean(1).argmin() == grid.best == names["label"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    accuracy, (low, high) = metrics.share(names["hits"]["digits"])
    assert f"{accuracy:.1%} (95% interval {low:.1%} to {high:.1%})" in printed[0]
