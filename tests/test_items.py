"""The embedded pairs: words, images, and that they fit; then own data, Winoground's layout, and the hub's."""

import io
import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import folder_of, records_of
from PIL import Image

from diffusion import InputError
from diffusion.data import catalogue, digits
from diffusion.matching.benchmarks import load_items
from diffusion.matching.items import ExpiringCache, Item, Items, Shown
from diffusion.runs.records import read_run

SCRIPT = "run_winoground.py"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
RELATIONS = {"to the left of": (False, 1), "to the right of": (False, -1), "above": (True, 1), "below": (True, -1)}


def parse(caption: str) -> tuple[list[tuple[str, str]], bool]:
    """The (colour, digit) on the left and on the right or, where the second is true, on top and below."""
    c1, d1, relation, c2, d2 = re.fullmatch(r"a photo of a (\w+) (\w+) (\D+) a (\w+) (\w+)\.", caption).groups()
    vertical, order = RELATIONS[relation]
    return [(c1, d1), (c2, d2)][::order], vertical


def ids(items: Items) -> list[str]:
    return [item.id for item in items.items]


def captions_of(items: Items) -> list[tuple[str, ...]]:
    return [item.captions for item in items.items]


def tags_of(items: Items) -> list[str]:
    """Of each its tag, "" where it has none."""
    assert all(len(item.tags) < 2 for item in items.items)
    return [item.tags[0] if item.tags else "" for item in items.items]


def refusal(name, *args) -> InputError:
    with pytest.raises(InputError) as error:
        load_items(name, *args)
    assert "\n" not in str(error.value)
    return error.value


# ---- the embedded pairs ----


@pytest.fixture(scope="module")
def pairs():
    return load_items("digits-pairs", "/nowhere")


def test_as_many_of_each_tag(pairs):
    assert len(pairs) == 450 and len(set(ids(pairs))) == 450
    assert Counter(tags_of(pairs)) == {"Digit": 150, "Colour": 150, "Place": 150}


def test_what_is_exchanged_is_what_the_tag_says(pairs):
    for tag, captions in zip(tags_of(pairs), captions_of(pairs), strict=True):
        (first, vertical), (second, also) = map(parse, captions)
        (c1, d1), (c2, d2) = first
        assert vertical == also and c1 != c2 and d1 != d2
        wanted = {
            "Digit": [(c1, d2), (c2, d1)],
            "Colour": [(c2, d1), (c1, d2)],
            "Place": [(c2, d2), (c1, d1)],
        }
        assert second == wanted[tag], captions


def test_every_object_is_one_that_training_has_shown(pairs):
    """So that only the composition is asked for; all of them occur, in all relations, on all places."""
    seen = {(digits.NAMES[c], digits.WORDS[d]) for c, d in digits.SEEN}
    places = {
        (obj, at) for captions in captions_of(pairs) for text in captions for at, obj in enumerate(parse(text)[0])
    }
    assert places == {(obj, at) for obj in seen for at in (0, 1)}
    relations = Counter(re.search("|".join(RELATIONS), text)[0] for captions in captions_of(pairs) for text in captions)
    assert relations.keys() == RELATIONS.keys() and min(relations.values()) > 150


GOLDEN = [
    ("a photo of a blue nine to the left of a purple three.", "a photo of a blue three to the left of a purple nine."),
    ("a photo of a purple nine above a green eight.", "a photo of a green nine above a purple eight."),
    ("a photo of a green two to the left of a purple six.", "a photo of a purple six to the left of a green two."),
]


def test_the_first_examples(pairs):
    """Changed, they would be another data set, and the README's numbers those of the old one."""
    assert [i.captions for i in pairs.items[:3]] == GOLDEN and tags_of(pairs)[:3] == ["Digit", "Colour", "Place"]


def test_images_depend_on_example_and_side_alone(pairs):
    """Not on which were opened before, nor on anybody's random numbers, which they leave alone."""
    some = [(7, 0), (0, 0), (0, 1), (449, 1)]
    first = {at: np.array(pairs.open(*at)) for at in some}
    again = load_items("digits-pairs")
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    for at in reversed(some):
        assert np.array_equal(np.array(again.open(*at)), first[at]), at
    assert before[0] == np.random.get_state()[1].tolist() and torch.equal(before[1], torch.get_rng_state())
    assert len({image.tobytes() for image in first.values()}) == 4
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in first.values())


def test_images_are_the_test_splits_handwriting_of_their_digits(monkeypatch):
    """With every digit's ink replaced by a grey that tells it, and the training split out of reach."""
    real, labels = digits.handwriting("test")

    def grey(split: str):
        assert split == "test", "training's handwriting was asked for"
        return torch.from_numpy((labels + 1) / 10).float()[:, None, None].expand(real.shape), labels

    monkeypatch.setattr(digits, "handwriting", grey)
    pairs = load_items("digits-pairs")
    for k in range(len(pairs)):
        for side in (0, 1):
            objects, vertical = parse(pairs[k].captions[side])
            canvas = np.array(pairs.open(k, side), dtype=float)
            canvas = canvas if vertical else canvas.transpose(1, 0, 2)
            for (colour, digit), middle in zip(objects, (8, 24), strict=True):
                wanted = np.array(digits.COLOURS[colour]) * (digits.WORDS.index(digit) + 1) / 10
                np.testing.assert_allclose(canvas[middle, 16], wanted, atol=1)


def test_both_images_are_of_other_handwriting(monkeypatch):
    """Each digit of each image is drawn anew, from all that there is of it: ink that tells its number."""
    real, labels = digits.handwriting("test")
    ink = torch.linspace(0.2, 1, len(labels))[:, None, None].expand(real.shape)
    monkeypatch.setattr(digits, "handwriting", lambda split: (ink, labels))
    pairs = load_items("digits-pairs")
    used, same = [], 0
    for k in range(1, 450, 3):  # Colour: the same digits in the same places of both images
        values = []
        for side in (0, 1):
            objects, vertical = parse(pairs[k].captions[side])
            canvas = np.array(pairs.open(k, side), dtype=float)
            canvas = canvas if vertical else canvas.transpose(1, 0, 2)
            values.append({
                digit: round(canvas[middle, 16].max() / max(digits.COLOURS[colour]), 2)
                for (colour, digit), middle in zip(objects, (8, 24), strict=True)
            })  # fmt: skip
        used += [value for side in values for value in side.values()]
        same += sum(values[0][digit] == values[1][digit] for digit in values[0])
    assert len(set(used)) > 70  # of 80 that can be told apart
    assert same < 30  # of 300, where about one in 50 is by chance


# ---- folders ----


def picture(path: Path, colour, size=(24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def example(**change) -> dict:
    line = {"id": "one", "image_0": "a.png", "image_1": "b.png", "caption_0": "a before b", "caption_1": "b before a"}
    return {key: value for key, value in (line | change).items() if value is not None}


@pytest.fixture
def own(tmp_path) -> Path:
    picture(tmp_path / "own/a.png", RED)
    picture(tmp_path / "own/deeper/b.png", BLUE)
    picture(tmp_path / "own/b.png", GREEN)
    return tmp_path / "own"


def write(folder: Path, *lines) -> str:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "examples.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def colours(pairs) -> list[tuple]:
    return [tuple(pairs.open(k, side).getpixel((3, 3)) for side in (0, 1)) for k in range(len(pairs))]


def test_own_layout(own):
    """Captions of any alphabet, empty lines, images in deeper folders or anywhere, columns that we do not know."""
    far = example(id=7, image_0=str(own.parent / "far.png"), image_1="deeper/b.png", tag="Relation", secret=[1, 2])
    picture(own.parent / "far.png", WHITE)
    said = example(tag="Object", caption_0="眼鏡をかけた犬 — “naïve”", caption_1="犬をかけた眼鏡")
    pairs = load_items(write(own, "", said, "  ", far, ""))
    assert ids(pairs) == ["one", "7"] and tags_of(pairs) == ["Object", "Relation"] and len(pairs) == 2
    assert captions_of(pairs) == [(said["caption_0"], said["caption_1"]), ("a before b", "b before a")]
    assert colours(pairs) == [(RED, GREEN), (WHITE, BLUE)]


def test_winogrounds_own_layout(tmp_path):
    """Its examples.jsonl names images without a suffix, and they lie in images/; two kinds of tags."""
    lines = [
        example(id=k, image_0=f"ex_{k}_img_0", image_1=f"ex_{k}_img_1", tag="Adjective-Color", collapsed_tag=tag)
        | {"secondary_tag": "", "num_main_preds": 1}
        for k, tag in enumerate(("Object", "Both"))
    ]
    for k, pair in enumerate([(RED, GREEN), (BLUE, WHITE)]):
        for side, colour in enumerate(pair):
            picture(tmp_path / f"winoground/images/ex_{k}_img_{side}.png", colour)
    folder = write(tmp_path / "winoground", *lines)
    for name in (folder, "winoground"):  # by its path, and by the name of what lies in DATASET_ROOT
        pairs = load_items(name, tmp_path)
        assert ids(pairs) == ["0", "1"] and tags_of(pairs) == ["Object", "Both"]
        assert colours(pairs) == [(RED, GREEN), (BLUE, WHITE)]


@pytest.mark.parametrize("tags", [[None, "Both"], ["", "Both"]])
def test_missing_tags(own, tags):
    """Whichever examples have one keep it."""
    assert tags_of(load_items(write(own, *(example(tag=tag) for tag in tags)))) == [tag or "" for tag in tags]


@pytest.mark.parametrize("mark", ["\u2028", "\x85"], ids=ascii)
def test_only_a_newline_ends_a_line(own, mark):
    """JSON may hold other separators as they are; captions that were pasted from somewhere do."""
    lines = example(caption_0=f"a{mark}before b"), example()
    assert captions_of(load_items(write(own, *lines))) == [
        (f"a{mark}before b", "b before a"), ("a before b", "b before a"),
    ]  # fmt: skip


@pytest.mark.parametrize("bad, found", [
    ("7", "JSON"), ('{"id": 1', "JSON"), (example(caption_1=None), "caption_1 is None"),
    (example(caption_0=" "), "caption_0 is ' '"), (example(caption_0=5), "caption_0 is 5"),
    (example(image_0=None), "image_0 is None"), (example(image_1=["b.png"]), "image_1 is ['b.png']"),
    (example(image_1="c.png"), "c.png"), (example(image_0="deeper"), "deeper"),
], ids=str)  # fmt: skip
def test_bad_lines(own, bad, found):
    error = refusal(write(own, example(), "", bad, example()))
    assert error.where == f"{own / 'examples.jsonl'}, line 3" and found in error.problem


# ---- the normal form ----


def normal(**change) -> dict:
    line = {"images": ["a.png", {"file": "b.png", "box": [4, 2, 6, 8]}, "a.png"], "captions": ["x", "y"]}
    return {key: value for key, value in (line | {"right": [[0, 1]]} | change).items() if value is not None}


def test_lines_of_the_normal_form(own):
    """Beside lines of Winoground's; tags, groups, boxes, any shape."""
    more = normal(id="n", tags=["t", "u"], groups={"pair": "p"}, captions=["x", "y", "z"], right=[[2, 0], [2, 1]])
    items = load_items(write(own, example(), normal(), more))
    a, b = Shown("a.png"), Shown("b.png", (4, 2, 6, 8))
    assert items[0] == Item("one", (a, Shown("b.png")), ("a before b", "b before a"), frozenset({(0, 0), (1, 1)}))
    assert items[1] == Item("1", (a, b, a), ("x", "y"), frozenset({(0, 1)}))
    assert items[2] == Item("n", (a, b, a), ("x", "y", "z"), frozenset({(2, 0), (2, 1)}), ("t", "u"), {"pair": "p"})
    assert items.seen(1, 1).size == (6, 8) and items.open(1, 1).size == (24, 16)
    assert items[1].table.tolist() == [[False, True, False], [False, False, False]]


def test_of_a_box_only_what_is_in_the_image(own):
    wide = normal(images=[{"file": "a.png", "box": [-4, 10, 10, 99]}], right=[[0, 0]])
    beside = normal(images=[{"file": "a.png", "box": [24, 0, 5, 5]}], right=[[0, 0]])
    items = load_items(write(own, wide, beside))
    assert items.seen(0, 0).size == (6, 6)
    with pytest.raises(OSError, match=r"a\.png: 24 x 16 pixels, nothing of the box \(24, 0, 5, 5\)"):
        items.seen(1, 0)


@pytest.mark.parametrize("change, found", [
    ({"right": None}, "right"), ({"captions": None}, "captions"), ({"captions": "xy"}, "lists"),
    ({"colour": 1}, "colour is there, wanted captions, groups, id, images, right, tags"),
    ({"right": [[0, 3]]}, "right [(0, 3)], wanted pairs of caption and image of 2 captions, 3 images"),
    ({"right": [[-1, 0]]}, "right [(-1, 0)]"), ({"right": [["0", 0]]}, "right [('0', 0)]"), ({"right": []}, "right []"),
    ({"right": [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]]}, "none is wrong"),
    ({"captions": ["x", " "]}, "caption ' '"), ({"images": [7], "right": [[0, 0]]}, "image 7"),
    ({"images": [{"file": "a.png", "box": [1, 2, 3]}], "right": [[0, 0]]}, "box [1, 2, 3]"),
    ({"images": ["c.png"], "right": [[0, 0]]}, "c.png"), ({"tags": [""]}, "tags ('',), groups {}"),
], ids=str)  # fmt: skip
def test_bad_lines_of_the_normal_form(own, change, found):
    error = refusal(write(own, example(), normal(**change)))
    assert error.where == f"{own / 'examples.jsonl'}, line 2" and found in error.problem


def test_once_makes_each_value_once_and_lets_go_of_it():
    made = []
    once = ExpiringCache("abcab")

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    assert [once(key, make) for key in "abcab"] == list("ABCAB")
    assert made == list("abc") and not once.made


# ---- the hub's library, offline ----


def encoded(colour) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (40, 32), colour).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def gated(hub, folder: Path, split="test", **change) -> str:
    """A miniature of the gated data set in its own columns: three examples, the second with a broken image."""
    columns = {
        "id": [0, 1, 2],
        "image_0": [encoded(RED), {"bytes": b"broken", "path": None}, encoded(BLUE)],
        "image_1": [encoded(GREEN), encoded(GREEN), encoded(WHITE)],
        "caption_0": ["an old person kisses a young person", "a before b", "c before d"],
        "caption_1": ["a young person kisses an old person", "b before a", "d before c"],
        "tag": ["Adjective-Age", "Scope", "Scope"],
        "collapsed_tag": ["Object", "Relation", "Both"],
    } | change
    columns = {name: column for name, column in columns.items() if column}
    types = {"id": hub.Value("int32")} | dict.fromkeys(["image_0", "image_1"], hub.Image())
    features = hub.Features({name: types.get(name, hub.Value("string")) for name in columns})
    (folder / "data").mkdir(parents=True)
    data = hub.Dataset.from_dict(columns, features=features)
    data.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return f"hf:{folder}"


def test_the_hubs_columns(hub, tmp_path):
    pairs = load_items(gated(hub, tmp_path / "mini"))
    assert ids(pairs) == ["0", "1", "2"] and tags_of(pairs) == ["Object", "Relation", "Both"]
    assert pairs[0].captions == ("an old person kisses a young person", "a young person kisses an old person")
    assert [pairs.open(k, side).getpixel((0, 0)) for k, side in ((0, 0), (0, 1), (2, 0), (2, 1))] == [
        RED, GREEN, BLUE, WHITE,
    ]  # fmt: skip
    with pytest.raises(OSError, match="image_0 of example 1 of hf:"):
        pairs.open(1, 0)
    assert pairs.open(1, 1).getpixel((0, 0)) == GREEN


def test_the_hubs_data_set_from_end_to_end(hub, run_main, tmp_path, model_folder):
    """The example with the broken image is named, the others are scored by tag."""
    name = gated(hub, tmp_path / "mini")
    args = ["--dataset", name, "--version", model_folder, "--device", "cpu", "--t_interval", 500]
    result = run_main(SCRIPT, *args, "--gallery", tmp_path / "g.png")
    assert result.code == 1 and list(records_of(result)) == [0, 1, 3, 4, 5]
    assert folder_of(result).parent == tmp_path / "data/mini" and read_run(folder_of(result))["examples"]["2"] == {
        "id": "2", "captions": ["c before d", "d before c"], "tag": "Both",
    }  # fmt: skip
    assert "2 of 3" in result.out
    assert re.findall(r"^(\w+) +\d .*%", result.out, re.M) == ["all", "Object", "Both"]
    named = [line for line in result.err.splitlines() if line.startswith("not counted: ")]
    assert len(named) == 1 and "image_0 of example 1 of hf:" in named[0]
    assert Image.open(tmp_path / "g.png").format == "PNG"


def test_an_example_of_the_hub_without_an_image(hub, tmp_path):
    """An empty cell is an image that cannot be read, like another."""
    pairs = load_items(gated(hub, tmp_path / "mini", image_0=[encoded(RED), None, encoded(BLUE)]))
    assert pairs.open(0, 0).getpixel((0, 0)) == RED
    with pytest.raises(OSError, match="image_0 of example 1 of hf:"):
        pairs.open(1, 0)


def test_data_sets_of_the_hub_that_are_none(hub, tmp_path):
    assert "caption_1" in str(refusal(gated(hub, tmp_path / "a", caption_1=None)))
    assert "test" in str(refusal(gated(hub, tmp_path / "b", split="train")))
    assert "gone" in str(refusal(f"hf:{tmp_path / 'gone'}"))


def test_a_caption_of_the_hub_is_missing(hub, tmp_path):
    """As in a folder: it is said at once, not when the model meets it."""
    message = str(refusal(gated(hub, tmp_path / "a", caption_1=["x", None, "y"])))
    assert "caption_1" in message and "None" in message and "1" in message


def test_winoground_without_access(run_main, tmp_path, monkeypatch):
    """One line, soon, that says how to get it; nothing is written."""
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path)
    started = time.monotonic()
    result = run_main(SCRIPT, "--version", "digits", "--device", "cpu")
    assert time.monotonic() - started < 20
    assert result.code == 2 and not result.out and result.err.count("\n") == 1
    for part in ("facebook/winoground", "accept its terms", "huggingface.co", "HF_TOKEN"):
        assert part in result.err, part
    assert list(tmp_path.iterdir()) == []


def test_winoground_of_the_local_folder_is_the_default(run_main, tmp_path, monkeypatch, model_folder):
    """As commands.md calls it: no --dataset."""
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path)
    for side, colour in enumerate((RED, BLUE)):
        picture(tmp_path / f"winoground/images/ex_0_img_{side}.png", colour)
    write(tmp_path / "winoground", example(image_0="ex_0_img_0", image_1="ex_0_img_1", collapsed_tag="Relation"))
    result = run_main(SCRIPT, "--version", model_folder, "--device", "cpu", "--t_interval", 500)
    assert result.code == 0 and folder_of(result).parent == tmp_path / "data/winoground"
    assert re.search(r"^Relation +1 ", result.out, re.M)
