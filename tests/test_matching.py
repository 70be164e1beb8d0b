"""Runs of other shapes than two images and two captions: what is measured, what is scored, what it costs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same, blocks, folder_of, import_script, records_of, subset
from PIL import Image

from diffusion.data import catalogue, digits
from diffusion.matching import scores as matching_scores
from diffusion.matching.benchmarks import load_items
from diffusion.matching.items import Item, Shown
from diffusion.matching.scores import Done
from diffusion.models import loading as load
from diffusion.plots import gallery
from diffusion.runs import results
from diffusion.runs.records import load_record

SCRIPT, PRINT = "run_winoground.py", "scripts/print_winoground.py"


def options(model, *more) -> list:
    return ["--version", model, "--device", "cpu", "--t_interval", 500, "--randomize_noise", *more]


def race(model, *more) -> list:
    return ["--version", model, "--device", "cpu", "--search", "race", "--max_samples", 12, "--randomize_noise", *more]


def write(folder: Path, *lines: dict) -> Path:
    """Own examples of the canvases of digits-pairs: a.png, b.png, ... are those of its examples 0, 1, ..."""
    folder.mkdir(exist_ok=True)
    pairs = load_items("digits-pairs")
    for k, name in enumerate("abcd"):
        pairs.open(k, 0).save(folder / f"{name}.png")
    (folder / "examples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


CAPTIONS = [item.captions[0] for item in load_items("digits-pairs").items[:4]]
FALSE = [item.captions[1] for item in load_items("digits-pairs").items[:4]]
SHAPES = {  # images, captions, right -> the scores there are
    "1x2": (["a.png"], [CAPTIONS[0], FALSE[0]], [[0, 0]], ["text"]),
    "1x4": (["a.png"], CAPTIONS, [[0, 0]], ["text"]),
    "1x3, two right": (["a.png"], [CAPTIONS[0], CAPTIONS[0], FALSE[0]], [[0, 0], [1, 0]], ["text"]),
    "3x1": (["b.png", "a.png", "c.png"], [CAPTIONS[0]], [[0, 1]], ["image"]),
    "2x2": (["a.png", "b.png"], CAPTIONS[:2], [[0, 0], [1, 1]], ["text", "image", "group"]),
    "2x3": (["a.png", "b.png"], CAPTIONS[:3], [[0, 0], [1, 1]], ["text", "image", "group"]),
    "1x2, a box": ([{"file": "a.png", "box": [0, 0, 16, 32]}], [CAPTIONS[0], FALSE[0]], [[0, 0]], ["text"]),
}


def line(shape: str, **more) -> dict:
    images, captions, right, _ = SHAPES[shape]
    return {"images": images, "captions": captions, "right": right} | more


@pytest.mark.parametrize("shape", ["1x4", "1x3, two right", "3x1", "2x3"])
def test_every_shape(run_main, tmp_path, model_folder, shape):
    """Measured, printed, printed again without the model; the scores are what its errors say."""
    images, captions, right, scores = SHAPES[shape]
    folder = write(tmp_path / "own", line(shape))
    result = run_main(SCRIPT, *options(model_folder, "--dataset", folder))
    assert result.code == 0, result.err
    nfe = 2 * len(images) * len(captions)
    shown = {1: " with 1 image", 2: "", 3: " with 3 images"}[len(images)]
    assert f"own: 1 example{shown} of {nfe} NFE, {nfe} NFE to do -> " in result.out.replace(str(folder), "own")
    assert re.search(r"^score +n +" + " +".join(scores) + "$", result.out, re.M)
    assert f"NFE per example {nfe}.0" in result.out
    errors = np.array([[b[:, 0].mean(dtype=np.float64) for b in blocks(r)] for r in records_of(result).values()]).T
    table = np.zeros(errors.shape, bool)
    table[tuple(np.array(right).T)] = True
    text = all(errors[c, i] < errors[w, i] for c, i in right for w in np.flatnonzero(~table[:, i]))
    image = all(errors[c, i] < errors[c, j] for c, i in right if table[c].sum() == 1 for j in np.flatnonzero(~table[c]))
    wanted = {"text": text, "image": image, "group": text and image}
    cells = re.findall(r"(\d+\.\d)% \(", re.search(r"^all .*$", result.out, re.M)[0])
    assert [cell == "100.0" for cell in cells] == [wanted[name] for name in scores]
    printed = run_main(PRINT, folder_of(result))
    assert printed.code == 0 and printed.out == result.out[result.out.index("examples  ") :]


def test_what_a_record_says_it_prefers(run_main, tmp_path, model_folder):
    """The caption, where exactly one of several is right; else the question is another."""
    result = run_main(SCRIPT, *options(model_folder, "--dataset", write(tmp_path / "own", *map(line, SHAPES))))
    found = {}
    number = 0
    records = records_of(result)
    for shape, (images, captions, right, _) in SHAPES.items():
        for i in range(len(images)):
            record = records[number]
            mine = [c for c, at in right if at == i]
            assert record["label"] == (mine[0] if mine else -1) and len(record["counts"]) == len(captions)
            found[shape, i] = "pred" in record
            assert found[shape, i] == (len(mine) == 1 and len(captions) > 1)
            number += 1
    assert number == len(records) and set(found.values()) == {True, False}


def test_images_and_captions_are_made_once(run_main, tmp_path, model_folder, monkeypatch):
    """Each image encoded once, cut to the same box; each caption embedded twice; the bits of an item alone."""
    more = line("1x2", captions=[CAPTIONS[1], CAPTIONS[0]], right=[[1, 0]])
    lines = [line("1x2"), line("3x1"), line("1x2, a box"), more, line("1x2")]
    folder = write(tmp_path / "own", *lines)
    seen, told = [], []
    real = load.load_model

    def counting(*args, **kwargs):
        model = real(*args, **kwargs)
        encode, conditions = model.encode, model.conditions
        object.__setattr__(model, "encode", lambda images: seen.extend(images) or encode(images))
        object.__setattr__(model, "conditions", lambda texts: told.append(tuple(texts)) or conditions(texts))
        return model

    monkeypatch.setattr(load, "load_model", counting)
    whole = records_of(run_main(SCRIPT, *options(model_folder, "--dataset", folder), log="all"))
    assert len(seen) == 4 and len(whole) == 7  # a, b, c and a cut
    captions = {text for each in lines for text in each["captions"]}
    assert sorted(told) == sorted([(text, text) for text in captions] * 2)  # once to check that they differ
    monkeypatch.undo()
    part = records_of(run_main(SCRIPT, *options(model_folder, "--dataset", folder, *subset(tmp_path, 3)), log="one"))
    assert_same(part, {number: whole[number] for number in part})
    assert list(part) == [5]


def test_missing_images_are_counted_and_named(run_main, tmp_path, model_folder, monkeypatch):
    """The table is of so many in the file; once the images are there, the run goes on."""
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path)
    write(tmp_path, line("1x2"))
    rows = {
        str(k): {"filename": f"{'abx'[k]}.png", "caption": CAPTIONS[k], "negative_caption": FALSE[k]} for k in range(3)
    }
    (tmp_path / "sugarcrepe").mkdir()
    (tmp_path / "sugarcrepe/swap_att.json").write_text(json.dumps(rows))
    (tmp_path / "sugarcrepe/images").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").rename(tmp_path / f"sugarcrepe/images/{name}.png")
    result = run_main(SCRIPT, *options(model_folder, "--dataset", "sugarcrepe:swap_att"))
    assert result.code == 1 and "2 examples with 2 images of 4 NFE, 8 NFE to do" in result.out
    assert "examples        2 of 3 in the file, 1 lack an image" in result.out
    assert "not counted: example 2: no such image: x.png" in result.err
    assert folder_of(result).parent.name == "sugarcrepe_swap_att"
    printed = run_main(PRINT, folder_of(result))
    assert printed.code == 1 and "2 of 3 in the file" in printed.out
    (tmp_path / "c.png").rename(tmp_path / "sugarcrepe/images/x.png")
    again = run_main(SCRIPT, *options(model_folder, "--dataset", "sugarcrepe:swap_att"))
    assert again.code == 0 and "4 NFE to do" in again.out and re.search(r"^examples +3 of 3$", again.out, re.M)
    assert list(records_of(again)) == [0, 1, 2]


# ---- groups, clusters and tags, from records written by hand ----


def done(index: int, margin: float, *tags: str, image: str | None = None, **groups) -> Done:
    item = Item(str(index), (Shown(image or str(index)),), ("x", "y"), frozenset({(0, 0)}), tags, groups)
    return Done(index, item, margin, np.zeros((2, 1)), 1)


def test_pairs_and_sets():
    """A group is right if all its items are; one not wholly done does not count; its tags are what all share."""
    sides = [("p", 1), ("p", 1), ("q", 1), ("q", -1)]
    some = [done(k, m, "A", str(k), pair=f"s {p}", set="s") for k, (p, m) in enumerate(sides)]
    some += [done(4 + k, 1, "B", pair=f"t {k // 2}", set="t") for k in range(4)]
    items = {d.index: d.item for d in some}
    found = matching_scores.columns(some, items, race=False, normal=False)
    assert list(found) == ["text", "pair", "set"]
    assert found["pair"].hits.tolist() == [True, False, True, True] and found["set"].hits.tolist() == [False, True]
    assert [sorted(tags) for tags in found["set"].tags] == [["A"], ["B"]]
    assert found["set"].cell("A", 4).startswith("0.0%") and found["set"].cell("0", 1) == "-"
    assert found["pair"].cell(None, 8).endswith(" of 4")
    part = matching_scores.columns(some[:-1], items, race=False, normal=False)
    assert part["set"].hits.tolist() == [False] and part["pair"].hits.tolist() == [True, False, True]


def test_items_that_share_an_image_are_a_cluster():
    """The interval is wider than of as many items that share nothing."""
    alone = [done(k, (-1) ** (k // 2)) for k in range(12)]
    shared = [done(k, (-1) ** (k // 2), image=str(k // 2)) for k in range(12)]
    cells = [
        matching_scores.columns(each, {d.index: d.item for d in each}, race=False, normal=False)["text"].cell(None, 12)
        for each in (alone, shared)
    ]
    (p, low, high), (q, lower, higher) = ([float(x) for x in re.findall(r"[\d.]+", cell)] for cell in cells)
    assert p == q == 50 and lower < low - 5 and higher > high + 5


# ---- the race ----


def test_a_race_of_any_k_decides_as_the_full_grid_does(run_main, tmp_path, model_folder):
    """One caption of four, and two that must both beat a third; at fewer NFE, by the same points."""
    shapes = "1x2", "1x4", "1x3, two right"
    folder = write(tmp_path / "own", *map(line, shapes))
    raced = run_main(SCRIPT, *race(model_folder, "--dataset", folder), "--noise", "independent")  # as the grid's
    assert raced.code == 0 and "3 examples with 3 images of at most 48 NFE, at most 108 NFE to do" in raced.out
    args = ["--version", model_folder, "--device", "cpu", "--t_interval", 50, "--levels", "0.2-0.8"]
    args.append("--randomize_noise")
    grid = run_main(SCRIPT, *args, "--dataset", folder)
    table = [re.search(r"^all .*$", r.out, re.M)[0] for r in (raced, grid)]
    assert table[0] == table[1] and "100.0%" in table[0]
    for number, record in records_of(raced).items():
        whole = records_of(grid)[number]
        at = whole["levels"].tolist()
        for arm, block in enumerate(blocks(record)):
            order = [at.index(level) for level in record["levels"].tolist()[: len(block)]]
            assert np.array_equal(block, np.array(blocks(whole))[arm, order])
        assert record["nfe"] < whole["nfe"] and record.get("pred") == whole.get("pred")
    counts = records_of(raced)[2]["counts"].tolist()
    assert counts[2] == max(counts)  # the false caption raced twice
    assert run_main(PRINT, folder_of(raced)).out == raced.out.split("\n", 2)[2]


@pytest.mark.parametrize("shape, flags, where, found", [
    ("3x1", ["--search", "race"], "--search race", "1 of 1 example"),
    ("1x3, two right", ["--search", "race", "--budget", 99], "--budget 99", "several right captions"),
    ("1x2", ["--t_interval", 500, "--normalize"], "--normalize", "image scores"),
    ("1x4", ["--search", "race", "--budget", 7], "--budget 7", "8 NFE"),
])  # fmt: skip
def test_what_is_refused(run_main, tmp_path, monkeypatch, shape, flags, where, found):
    monkeypatch.setattr(load, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    folder = write(tmp_path / "own", line(shape))
    result = run_main(SCRIPT, "--version", "digits", "--device", "cpu", "--dataset", folder, *flags)
    assert result.error.where == where and found in result.error.problem and not result.out


# ---- the baseline ----


def test_clip_by_the_same_items_and_table(run_main, tmp_path, monkeypatch):
    module = import_script(SCRIPT)
    real, seen, told = module.load_clip, [], []

    def counting(*args, **kwargs):
        of_image, of_texts = real(*args, **kwargs)
        return lambda i: seen.append(i) or of_image(i), lambda t: told.append(tuple(t)) or of_texts(t)

    monkeypatch.setattr(module, "load_clip", counting)
    folder = write(tmp_path / "own", *map(line, SHAPES))
    result = run_main(module, "--model", "clip", "--version", "digits", "--device", "cpu", "--dataset", folder)
    assert result.code == 0 and re.search(r"^score +n +text +image +group$", result.out, re.M)
    assert len(seen) == 4 and len(told) == len({t for each in SHAPES.values() for t in each[1]})
    assert f"{len(SHAPES)} examples with 11 images of at most 3 NFE, 11 NFE to do" in result.out
    for number, record in records_of(result).items():
        assert record["losses"] == ["cosine"] and record["nfe"] == 1, number
    done, _ = matching_scores.read_done(results.read(folder_of(result), answers=False))
    assert [len(d.item.captions) for d in done] == [len(shape[1]) for shape in SHAPES.values()]


def test_siglip_is_open_clips(run_main, tmp_path):
    """Its name and weights; without a network they cannot be had, which is said."""
    args = ["--device", "cpu", "--dataset", write(tmp_path / "own", line("1x2"))]
    result = run_main(SCRIPT, "--model", "siglip", *args)
    assert result.code == 2 and "ViT-SO400M-14-SigLIP-384, webli: cannot load its weights" in result.err
    result = run_main(SCRIPT, "--model", "siglip", "--version", "ViT-B-16-SigLIP", *args)
    assert result.code == 2 and "ViT-B-16-SigLIP, webli" in result.err


# ---- the picture ----


def test_the_picture_shows_boxes_and_the_closest_captions(run_main, tmp_path, model_folder):
    """Of many captions the right one and the four that come closest; images whole, with their box."""
    many = [f"a photo of the number {word}." for word in digits.WORDS]
    shown = line(
        "1x4", images=[{"file": "a.png", "box": [2, 2, 20, 20]}], captions=[*many, CAPTIONS[0]], right=[[10, 0]]
    )
    folder = write(tmp_path / "own", shown, line("3x1"))
    result = run_main(SCRIPT, *options(model_folder, "--dataset", folder, "--gallery", tmp_path / "g.png"))
    assert result.code == 0 and Image.open(tmp_path / "g.png").format == "PNG"
    done, _ = matching_scores.read_done(results.read(folder_of(result), answers=False))
    captions = gallery.captions_of(done[0], False)
    assert len(captions) == 5 and 10 in captions and captions == sorted(captions)
    others = sorted(range(10), key=lambda c: done[0].means[c, 0])
    assert set(captions) == {10, *others[:4]}


def test_a_record_with_other_captions_is_named(run_main, tmp_path, model_folder):
    folder = folder_of(
        run_main(SCRIPT, *options(model_folder, "--dataset", write(tmp_path / "own", line("1x2"), line("1x2"))))
    )
    path = folder / "1.pt"
    record = load_record(path)
    counts = torch.ones(4, dtype=torch.int64)
    one = {"levels": record["levels"][:1], "noise": record["noise"][:1], "errors": record["errors"][:1].repeat(4, 1)}
    torch.save(record | one | {"counts": counts}, path)
    printed = run_main(PRINT, folder)
    assert printed.code == 1 and "1.pt: 4 captions, example 1 has 2" in printed.err and "1 of 2" in printed.out
