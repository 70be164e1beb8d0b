"""How two runs differ, in words."""

import pytest
from helpers import import_script

from diffusion import InputError
from diffusion.io.atomic import sha256
from diffusion.io.wording import count, have
from diffusion.runs.differences import BOTH, data_in_words, option_in_words, options_in_words

FOLDER = {0: ("eight/a.png", 8), 1: ("five/b.png", 5), 2: ("two/c.png", 2)}


def fingerprint(images: dict) -> str:
    return f"{len(images)}, sha256 {sha256(repr(images))}"


def numbered(*images) -> dict:
    return dict(enumerate(images))


@pytest.mark.parametrize(
    "after, at_hand, words",
    [
        (numbered(*FOLDER.values(), ("two/d.png", 2)), 3, "3 images, now 4: new two/d.png"),
        (numbered(FOLDER[0], FOLDER[2]), 3, "3 images, now 2: gone five/b.png"),
        (numbered(FOLDER[0], ("five/x.png", 5), FOLDER[2]), 3, "3 images, now 3: new five/x.png, gone five/b.png"),
        (numbered(FOLDER[0], ("a", 5), FOLDER[1], FOLDER[2]), 2, "3 images, now 4: image 1: five/b.png, now a"),
        (numbered(*FOLDER.values(), ("two/d.png", 2)), 0, "3 images, now 4"),
        (numbered(FOLDER[0], ("five/b.png", 4), FOLDER[2]), 3, "3 images, now 3: five/b.png: class 5, now class 4"),
        (numbered(FOLDER[1], FOLDER[0], FOLDER[2]), 3, "3 images, now 3: image 0: eight/a.png, now five/b.png"),
        (numbered(FOLDER[0], ("five/b.png", 4), FOLDER[2]), 0, "3 images, now 3: other files, labels or order"),
    ],
)  # fmt: skip
def test_data_of_files(after, at_hand, words):
    """`at_hand`: so many of the images of before have a record."""
    before = {index: image for index, image in FOLDER.items() if index < at_hand}
    assert data_in_words(fingerprint(FOLDER), fingerprint(after), before, after) == words


def test_data_without_files():
    before, after = numbered((None, 3), (None, 4)), numbered((None, 3), (None, 5), (None, 6))
    was, now = fingerprint(before), fingerprint(after)
    assert data_in_words(was, now, before, after) == "2 images, now 3: image 1: class 4, now class 5"
    assert data_in_words(was, now, {}, after, sides=BOTH) == "2 images and 3"
    assert data_in_words(None, now, {}, {}) == "an unknown number of images, now 3"


def test_no_digest_is_shown():
    a, b = sha256("a"), sha256("b")
    assert option_in_words("noise", None, a) == "noise was None, now a file"
    assert (
        option_in_words("candidates_from", f"npy, sha256 {a}", f"run, sha256 {b}") == "candidates_from was npy, now run"
    )
    for key in ("noise", "weights", "classes", "candidate_prompts", "something"):
        words = option_in_words(key, a, b)
        assert words.startswith(f"{key}: ") and a not in words and b not in words
    assert option_in_words("z", 3, 2.5) == "z was 3, now 2.5"


def test_options_of_two_runs():
    there = {"options": {"data": "4, sha256 ab", "loss": "l1", "seed": None}, "arms": [], "examples": {}}
    run = {"options": {"data": "5, sha256 cd", "loss": "l1", "z": 3}, "arms": []}
    assert options_in_words(there, run, {}, {}) == ["data: 4 examples, now 5", "z was None, now 3"]


def test_a_training_on_other_data_is_refused_in_words(tmp_path):
    """Its options.json, not run.json, holds the fingerprint."""
    script = import_script("scripts/train_classifier.py")
    options = {"data": fingerprint(FOLDER), "steps": 9, "layers": 2}
    folder = tmp_path / "my-digits" / "training"
    assert script.last_checkpoint(folder, options) is None
    assert script.last_checkpoint(folder, options) is None
    with pytest.raises(InputError) as refused:
        script.last_checkpoint(folder, options | {"data": fingerprint({0: 1}), "layers": 3})
    assert refused.value.where == f"--out {folder.parent}"
    assert "(data: 3 images, now 1; layers was 2, now 3)" in refused.value.problem


def test_one_of_a_thing_is_one_thing():
    one, two = numbered(("a.png", 0)), numbered(("a.png", 0), ("b.png", 0))
    assert data_in_words(fingerprint(one), fingerprint(two), one, two) == "1 image, now 2: new b.png"
    assert data_in_words(fingerprint(one), fingerprint(two), {}, {}, unit="example") == "1 example, now 2"
    assert [count(n, "class") for n in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert [have(n, "image") for n in (1, 2000)] == ["1 image has", "2,000 images have"]
