"""Templates: a or an, gaps, sets by name; where prompts come from, and that a run shows them."""

import csv
import json

import pytest
from helpers import call_main, folder_of

from diffusion.data.classnames import article
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import DEFAULT_TEMPLATE, filled, prompts_for, read_prompts, templates_of
from diffusion.runs.records import read_run

AN = (
    "eight|apple|orange cat|umbrella|ugly duckling|uncle|usher|unimportant thing|unmanned vehicle|onion|onager|"
    "hour|hourglass|honest person|heirloom|hors d'oeuvre|8|80-inch screen|8mm film|11|18|18-wheeler|11000|1812 map|"
    "X-ray|F-16A/B|A300B4|MD-11|LCD screen|HTML page|SUV|8|étagère|Écureuil|yttrium rod|O'Brien|Il-76|an n02119789|"
    "n02119789|EIGHT|'apple'"
)
A = (
    (
        "three|banana|university|unicorn|uniform|union|unit|user|used car|utensil|ukulele|ural owl|usual day|Ugandan|"
        "European|eucalyptus|ewe|ewer|one-way street|once|ouija board|house|hen|horse|houri|1|7|10|12|100|110|181|1000|"
        "180000|UFO|U-boat|USB stick|UK flag|DVD|CNV|NASA rocket|yacht|yellow car|L'Oreal|707-320|Boeing 717|"
        "BAE-125|DHC-6|ïss|猫|"
    )
    .replace("ïss|", "")
    .removesuffix("|")
)


@pytest.mark.parametrize("words", AN.split("|"))
def test_an(words):
    assert article(words) == "an"


@pytest.mark.parametrize("words", A.split("|"))
def test_a(words):
    assert article(words) == "a"


@pytest.mark.parametrize(
    "template, words, text",
    [
        (DEFAULT_TEMPLATE, "eight", "a photo of an eight."),
        (DEFAULT_TEMPLATE, "university", "a photo of a university."),
        ("A(n) {}, or a(n) {}", "hour", "An hour, or an hour"),
        ("a {}", "eight", "a eight"),  # as it is typed
        ("{x} {} and {}", "a {} b", "{x} a {} b and a {} b"),  # the words are not filled again
        ("banana(n) {}", "eight", "banana(n) eight"),
    ],
)
def test_filled(template, words, text):
    assert filled(template, words) == text


def test_sets_of_templates_by_name():
    """Those of open_clip, filled as it fills them; more may stand beside them."""
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    found = templates_of(["openai-imagenet", "a {} of mine"])
    assert [filled(each, "eight") for each in found[:-1]] == [
        make("eight") for make in metadata.OPENAI_IMAGENET_TEMPLATES
    ]
    assert (len(found), found[-1]) == (81, "a {} of mine") and len(templates_of(["simple-imagenet"])) == 7


def test_prompts_by_templates():
    """One for each template, class by class; of a known data set by the names in its csv."""
    found = prompts_for("mine", [0, 1], ["arctic_fox", "zebra"], templates=["a(n) {}", "two of {}"])
    assert found.texts == ["an arctic fox", "two of arctic fox", "a zebra", "two of zebra"]
    assert (found.names, found.classes) == (["arctic_fox"] * 2 + ["zebra"] * 2, [0, 0, 1, 1])
    pets = load_names("pets")
    found = prompts_for("pets", [0], pets, templates=["the {}"])
    assert found.texts == [f"the {name}" for name in pets] and found.classes == list(range(37))
    assert prompts_for("pets", [0], pets).texts[0] == "a photo of a Abyssinian cat, a type of pet."  # as published


def load_names(dataset: str) -> list[str]:
    return read_prompts(f"prompts/{dataset}_prompts.csv").names


def test_a_source_for_all_prompts(tmp_path):
    """The csv, the templates, or the prompts that were typed; and three examples."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,classname,classidx\nan a,a,0\nthe b,b,1\n")
    names = ["a", "b"]
    sources = {
        str(path): prompts_for("mine", [0, 1], names, path),
        DEFAULT_TEMPLATE: prompts_for("mine", [0, 1], names),
        "the {}": prompts_for("mine", [0, 1], names, templates=["the {}"]),
        "--prompts": prompts_for("mine", [-1], [], texts=["an a", "the b"]),
        "digits_prompts.csv": prompts_for("digits", [0], [str(k) for k in range(10)]),
    }
    for source, found in sources.items():
        assert source in found.source and source in str(found)
        assert repr(found.texts[0]) in str(found) and repr(found.texts[-1]) in str(found)


# ---- by the scripts ----


@pytest.fixture
def mine(tmp_path):
    """Two class folders of handwriting, each with one image."""
    data = load_dataset("digits")
    for word, label in (("eight", 8), ("three", 3)):
        (tmp_path / "mine" / word).mkdir(parents=True)
        data.open(data.labels.index(label)).save(tmp_path / "mine" / word / "0.png")
    return tmp_path / "mine"


def test_a_run_shows_its_prompts_and_does_not_go_on_with_others(mine, tmp_path):
    args = ["eval_prob_adaptive.py", "--dataset", mine, "--version", "digits", "--device", "cpu", "--max_samples", 8]
    wrong = tmp_path / "p.csv"  # those of a version that did not choose the article
    wrong.write_text("prompt,classname,classidx\na photo of a eight.,eight,0\na photo of a three.,three,1\n")
    before = call_main(tmp_path / "data", *args, "--prompt_path", wrong)
    folder = folder_of(before)
    assert str(wrong) in before.out and "'a photo of a eight.'" in before.out
    refused = call_main(tmp_path / "data", *args)
    assert refused.code == 2 and "a photo of an eight." in refused.err and "a photo of a eight." in refused.err

    default = call_main(tmp_path / "data", *args, "--extra", "default")
    assert "'a photo of an eight.'" in default.out and DEFAULT_TEMPLATE in default.out
    about = read_run(folder_of(default))
    assert [text for text, *_ in about["arms"]] == ["a photo of an eight.", "a photo of a three."]
    assert DEFAULT_TEMPLATE in about["prompts"]

    templates = ["a photo of the number {}.", "the number {}"]
    typed = call_main(tmp_path / "data", *args, "--template", *templates)
    assert folder_of(typed) != folder and templates[1] in typed.out
    arms = json.loads((folder_of(typed) / "run.json").read_text())["arms"]
    assert arms == [[each.replace("{}", w), w, k] for k, w in enumerate(("eight", "three")) for each in templates]
    dry = call_main(tmp_path / "data", *args, "--template", "my {}", "--dry_run")
    assert dry.code == 0 and "'my eight', 'my three'" in dry.out
    once_more = call_main(tmp_path / "data", *args, "--template", *templates)
    assert once_more.code == 0 and "2 done before" in once_more.out


def test_write_prompts_of_a_folder(mine, tmp_path):
    """It writes the prompts that a run would take; so does --prompt_path with that csv."""
    out = tmp_path / "mine.csv"
    data = load_dataset(str(mine))
    for words in ([], ["--template", "a(n) {}", "the number {}"]):
        done = call_main(tmp_path, "scripts/write_prompts.py", mine, "--out", out, *words)
        assert done.code == 0, done.err
        wanted = prompts_for(str(mine), data.labels, data.classes, templates=words[1:])
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["prompt"] for row in rows] == wanted.texts
        again = prompts_for(str(mine), data.labels, data.classes, out)
        assert (again.texts, again.names, again.classes) == (wanted.texts, wanted.names, wanted.classes)


def test_a_csv_is_named_after_the_data(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call_main(tmp_path, "scripts/write_prompts.py", mine).code == 0
    assert (tmp_path / "prompts/mine_prompts.csv").is_file()
