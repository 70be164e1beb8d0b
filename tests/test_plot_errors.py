import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.core.constants import LOSSES
from diffusion.plots import bars, confusion, style
from diffusion.runs import records, results

PLOT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "plot_errors.py"))


def figure_of(monkeypatch, draw, *args):
    """The figure that a function would save."""
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path, **more: drawn.append(figure))
    draw(*args)
    return drawn[0]


def record(index: int, label: int, pred: int, l2: list[list[float]]) -> dict:
    """l2: per arm, the errors at its leading points; the other losses are something else."""
    errors = torch.tensor([e for arm in l2 for e in arm])
    errors = torch.stack([errors if name == "l2" else -7 * errors for name in LOSSES], 1)
    counts = torch.tensor([len(arm) for arm in l2])
    return {"index": index, "label": label, "pred": pred, "nfe": int(counts.sum()), "losses": list(LOSSES),
            "levels": torch.arange(int(counts.max())), "noise": torch.zeros(int(counts.max())), "counts": counts,
            "errors": errors}  # fmt: skip


@pytest.mark.parametrize("classes", [3, 14])
def test_picture(tmp_path, classes, capsys):
    folder, out = tmp_path / "run", tmp_path / "out.png"
    options = {"dataset": "digits", "split": "test", "version": "digits", "loss": "l2", "img_size": 32,
               "interpolation": "bicubic"}  # fmt: skip
    prompts = [(f"a photo of ${c}$.", f"a long name, ${c}$ ${c}", c) for c in range(classes)]
    records.open_run(folder, options, {"images": 12, "arms": prompts})
    rng = np.random.default_rng(0)
    for index in range(12):
        l2 = rng.random((classes, 4)).tolist()
        l2[(index + 1) % 3] = []  # never measured, and not the winner
        records.save_record(
            folder / f"{index:03}.pt", record(index, index % 20, index % 3, l2)
        )  # some without a prompt
    assert PLOT["main"]([str(folder), str(out), "--images", "11"]) == 0
    assert capsys.readouterr().out.split() == [str(out)]
    with Image.open(out) as picture:
        width, height = picture.size
        assert 1500 < width < 2000 and 500 < height < 1200  # two lines of eight
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_names_without_what_they_share():
    three, five = "a photo of the number three.", "a photo of the number five."
    assert bars.distinct_names([three, five]) == (["three", "five"], "a photo of the number …")
    assert bars.distinct_names(["a red cat on the left", "a cat on the left"]) == (
        ["red cat", "cat"],
        "a … on the left",
    )
    for same in (["a cat", "a dog"], [three], ["a photo of a cat, large", "one dog"]):  # short, one, nothing shared
        assert bars.distinct_names(same) == (same, "")


def test_no_text_is_wider_than_its_image(tmp_path, monkeypatch):
    """Measured by matplotlib itself, of names and files that would not fit; what tells them apart is there."""
    called = [
        "a photo of the number three.",
        "a photo of the number five.",
        "a photo of the number $WWWWWWWWWWWWWWWWW$.",
    ]
    cells = [bars.Cell(np.zeros((4, 4, 3)), k % 3, 2, np.arange(3.0), "W" * 40) for k in range(12)]
    figure = figure_of(monkeypatch, bars.draw_cells, cells, called, "heading", "note", tmp_path / "out.png")
    assert any("a photo of the number …" in text.get_text() for text in figure.texts)
    titles = [axes.title.get_text().rstrip("\n") for axes in figure.axes[::2]]
    assert titles[:2] == ["three", "five"] and titles[2].endswith("…")
    for axes in figure.axes:
        for text in (axes.title, *axes.texts):
            assert text.get_window_extent().width < 1.7 * figure.dpi


def test_each_image_has_its_scale_and_no_text_lies_over_a_bar(tmp_path, monkeypatch):
    """The longest bar fills the axes and its length is written at their end; the winner, without a bar, has a mark."""
    excess = [np.array([0.0, 0.02, 0.04, np.inf]), np.array([3.0, 0.0, 1.5, 0.5])]
    cells = [bars.Cell(np.zeros((4, 4, 3)), pred, 1, each) for pred, each in enumerate(excess)]
    names = ["zero", "one", "two", "three"]
    figure = figure_of(monkeypatch, bars.draw_cells, cells, names, "heading", "note", tmp_path / "out.png")
    figure.canvas.draw()
    panels = figure.axes[1::2]
    assert [panel.get_xlim() for panel in panels] == [(0, 0.04), (0, 3.0)]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["0", "0.04"]
    for k, panel in enumerate(panels):
        texts = {text.get_text(): text for text in panel.texts}
        assert texts.keys() >= {*names, "◂"} and texts["◂"].get_position()[1] == k
        rectangles = [bar.get_window_extent() for bar in panel.patches if bar.get_width() > 0]
        for text in texts.values():
            assert not any(text.get_window_extent().overlaps(bar) for bar in rectangles), text
    assert "not measured" in {text.get_text() for text in panels[0].texts}


def test_a_heading_is_no_path(tmp_path):
    for dataset, wanted in [("/home/me/cat.jpg", "cat"), ("pets", "pets"), ("mine/images", "images")]:
        options = {"dataset": dataset, "split": "test", "version": "models/digits-sd", "loss": "l2"}
        folder = tmp_path / wanted
        records.open_run(folder, options, {"images": 1, "arms": [("a zero", "zero", 0)]})
        assert results.read(folder).title == f"{wanted}, test split, by digits-sd"


def test_fonts_of_a_pdf_are_of_type_42(tmp_path):
    """A conference's check refuses type 3; setting it leaves matplotlib's own settings as they were."""
    import matplotlib

    before = matplotlib.rcParams["pdf.fonttype"]
    figure = style.new(2, 2, "a heading")
    style.save(figure, tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Subtype /Type3" not in content
    assert matplotlib.rcParams["pdf.fonttype"] == before


def test_the_most_confused_pairs():
    """By hand: the diagonal does not count, ties keep the order of the classes."""
    table = np.array([[9, 2, 0], [1, 5, 4], [2, 0, 7]])
    assert confusion.most_confused(table, 3) == [(1, 2, 4), (0, 1, 2), (2, 0, 2)]
    assert confusion.most_confused(np.diag([3, 4, 5]), 3) == []


def test_cells_of_a_confusion_matrix():
    """Blue on the diagonal, orange elsewhere, white if empty; a single mistake of many images can be seen."""
    shown = confusion.coloured(np.array([[99, 1], [0, 3]]))
    assert np.allclose(shown[1, 0], 1) and np.allclose(shown[1, 1], style.rgb(style.ACCENT))
    assert shown[0, 0, 2] > shown[0, 0, 0] and shown[0, 1, 0] > shown[0, 1, 2] + 0.15


@pytest.mark.parametrize("classes", [3, 60, 200])
def test_confusion_matrices_of_many_classes(tmp_path, monkeypatch, classes):
    """Names that do not overlap; of very many classes only the pairs are named."""
    rng = np.random.default_rng(0)
    table = np.diag(rng.integers(1, 9, classes))
    table[0, 2] = 7
    names = [f"class {k}" for k in range(classes)]
    figure = figure_of(monkeypatch, confusion.draw, table, names, "a heading", tmp_path / "c.png")
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 24
    assert "class 0 → class 2" in [text.get_text() for text in figure.texts]
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels() if tick.get_text().startswith("c")]
    assert len(boxes) == (classes if classes <= 80 else 0)
    assert not any(above.overlaps(below) for above, below in itertools.pairwise(boxes))
