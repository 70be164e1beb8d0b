import itertools
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import rewrite_run, write_run
from PIL import Image

from diffusion import page
from diffusion.core.constants import LOSSES
from diffusion.plots import bars, confusion, differences, style
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
    path, left_out = capsys.readouterr().out.splitlines()
    assert path == str(out) and "1 left out" in left_out
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


@pytest.mark.parametrize("most, wanted", [(4, "4 of 6 images shown; right: 4 of 6"), (6, "right: 4 of 6")])
def test_the_heading_counts_all_images(tmp_path, monkeypatch, most, wanted):
    errors = np.ones((6, 3, 2))
    labels = [0, 1, 2, 0, 1, 2]
    errors[np.arange(6), [0, 1, 2, 0, 0, 0]] = 0.5
    run = results.read(
        write_run(tmp_path / "run", errors, labels, dataset="digits", img_size=32, interpolation="bicubic")
    )
    figure = figure_of(monkeypatch, bars.draw_run, run, list(run.done), most, tmp_path / "out.png")
    assert figure.texts[0].get_text() == f"digits, test split, by m: {wanted}"


def test_a_wrong_image_has_its_class_and_its_file(tmp_path, monkeypatch):
    """Above the image, below the winner, and none over another."""
    cells = [bars.Cell(np.zeros((4, 4, 3)), k, 1, np.arange(3.0), f"one/{k}.png") for k in range(3)]
    figure = figure_of(
        monkeypatch, bars.draw_cells, cells, ["zero", "one", "two"], "heading", "note", tmp_path / "a.png"
    )
    figure.canvas.draw()
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes[::2]]
    assert [set(each) for each in texts] == [{"is one", "0.png"}, {"1.png"}, {"is one", "2.png"}]
    for axes in figure.axes[::2]:
        boxes = [text.get_window_extent() for text in (axes.title, *axes.texts)]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert all(box.y0 >= axes.get_window_extent().y1 for box in boxes)


@pytest.mark.parametrize(
    "excess, end",
    [
        ([0, 1, 2, 3, 4, 100], 4),  # five bars: their quantile is the fourth
        ([0, 1, 2, 3, 4, 7], 7),  # less than twice as long
        ([0, np.nan, np.inf, 2], 2),
        ([0], 1),
    ],
)
def test_a_class_that_is_far_behind_does_not_set_the_scale(excess, end):
    assert bars.end_of_scale(np.array(excess, dtype=float)) == end


def test_a_bar_that_is_cut_is_marked(tmp_path, monkeypatch):
    cell = bars.Cell(np.zeros((4, 4, 3)), 0, 0, np.array([0.0, 1, 2, 3, 4, 100]))
    figure = figure_of(monkeypatch, bars.draw_cells, [cell], list("abcdef"), "heading", "note", tmp_path / "out.png")
    marks = [text.get_position() for text in figure.axes[1].texts if text.get_text() == bars.CUT]
    assert marks == [(4, 5)] and figure.axes[1].get_xlim() == (0, 4)


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


@pytest.mark.parametrize("sides, images", [((0, 2), 2), ((2, 0), 2), ((0, 0), 0), ((1, 2), 3)])
def test_a_side_without_images_takes_no_room(tmp_path, monkeypatch, sides, images):
    labels = [0, 1, 2]
    more = {"dataset": "digits", "img_size": 32, "interpolation": "bicubic"}
    run = results.read(write_run(tmp_path / "run", np.ones((3, 3, 2)), labels, **more))
    first, second = ([(k, "three", "five") for k in range(n)] for n in sides)
    both = [("a", "b", first), ("b", "a", second)]
    figure = figure_of(monkeypatch, differences.draw, run, both, 10, tmp_path / "out.png")
    titles = [text.get_text() for text in figure.texts]
    assert {f"Only a is right: {sides[0]}", f"Only b is right: {sides[1]}"} <= set(titles)
    lines = sum(n > 0 for n in sides)
    assert len(figure.axes) == images and figure.get_size_inches()[1] == pytest.approx(1.4 + lines * differences.TALL)


def test_classes_stand_in_the_order_of_the_prompts(tmp_path, monkeypatch, run_main):
    """Ids are those of the data set, in which names are sorted; a csv may list them otherwise."""
    more = {"dataset": "digits", "img_size": 32, "interpolation": "bicubic"}
    errors = np.ones((4, 3, 2))
    errors[np.arange(4), [0, 1, 2, 0]] = 0.5
    folder = write_run(tmp_path / "run", errors, [0, 1, 2, 2], words=["eight", "one", "two"], **more)
    run = json.loads((folder / "run.json").read_text())
    run["arms"] = [["a one", "one", 1], ["a two", "two", 2], ["an eight", "eight", 0]]
    rewrite_run(folder, run)
    for path in folder.glob("*.pt"):
        record = records.load_record(path)
        record["errors"] = record["errors"].reshape(3, 2, -1)[[1, 2, 0]].flatten(0, 1)
        records.save_record(path, record, records.fingerprint(run["options"]))
    run = results.read(folder)
    figure = figure_of(monkeypatch, bars.draw_run, run, list(run.done), 4, tmp_path / "out.png")
    monkeypatch.undo()
    names = [text.get_text() for text in figure.axes[1].texts if text.get_text() not in ("◂", bars.CUT)]
    assert names == ["one", "two", "eight"]

    shown = {}
    monkeypatch.setattr(confusion, "draw", lambda table, names, *_: shown.update(names=names, table=table.tolist()))
    done = run_main("scripts/print_acc.py", folder, "--metrics", "classes", "--confusion", tmp_path / "c.png")
    assert done.code == 0, done.err
    assert shown == {"names": names, "table": [[1, 0, 0], [0, 1, 1], [0, 0, 1]]}
    _, *lines = done.out[done.out.index("\nclass ") :].split("\n")[1:5]
    assert [line.split()[0] for line in lines] == names
    content = page.content(page.read_answers(run), 0, 0, 0, "")
    assert content["names"] == names and content["matrix"] == shown["table"]
