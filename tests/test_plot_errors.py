import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion import InputError
from diffusion.core.constants import LOSSES
from diffusion.plots import bars, style
from diffusion.runs import records

PLOT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "plot_errors.py"))


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
        assert 1500 < width < 2000 and 500 < height < 1200  # two lines of ten
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"no run\.json"):
        PLOT["main"]([str(tmp_path), "out.png"])
    options = {"dataset": "digits", "split": "test", "loss": "l2", "img_size": 32, "interpolation": "bicubic"}
    records.open_run(tmp_path, options, {"images": 1, "arms": [("a zero", "zero", 0)]})
    with pytest.raises(InputError, match="no image is done"):
        PLOT["main"]([str(tmp_path), "out.png"])
    with pytest.raises(InputError, match="--images 0"):
        PLOT["main"]([str(tmp_path), "out.png", "--images", "0"])


def test_names_without_what_they_share():
    three, five = "a photo of the number three.", "a photo of the number five."
    assert bars.told_apart([three, five]) == (["three", "five"], "a photo of the number …")
    assert bars.told_apart(["a red cat on the left", "a cat on the left"]) == (["red cat", "cat"], "a … on the left")
    for same in (["a cat", "a dog"], [three], ["a photo of a cat, large", "one dog"]):  # short, one, nothing shared
        assert bars.told_apart(same) == (same, "")


def test_no_text_is_wider_than_its_image(tmp_path, monkeypatch):
    """Measured by matplotlib itself, of names and files that would not fit; what tells them apart is there."""
    called = [
        "a photo of the number three.",
        "a photo of the number five.",
        "a photo of the number $WWWWWWWWWWWWWWWWW$.",
    ]
    rows = [{"pred": k % 3, "label": 2, "excess": np.arange(3.0), "file": "W" * 40} for k in range(12)]
    drawn = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    bars.draw_cells([np.zeros((4, 4, 3))] * 12, rows, called, "heading", "footing", tmp_path / "out.png")
    (figure,) = drawn
    assert any("a photo of the number …" in text.get_text() for text in figure.texts)
    titles = [axes.title.get_text().rstrip("\n") for axes in figure.axes[::2]]
    assert titles[:2] == ["three", "five"] and titles[2].endswith("…")
    for axes in figure.axes:
        for text in (axes.title, *axes.texts):
            assert text.get_window_extent().width < 1.45 * figure.dpi
