"""Words of class names, which class a name means, and the csv of prompts of own and of known data."""

import unicodedata
import warnings
from csv import DictReader

import pytest
from helpers import ROOT, folder_of, records_of, subset
from transformers import CLIPTokenizer

from diffusion import InputError, InputWarning
from diffusion.data import classnames
from diffusion.data.classnames import meanings, words_of
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import prompts_for, read_prompts
from diffusion.models.aliases import EMBEDDED
from diffusion.runs.records import read_run


def with_warnings(call, *args, **kwargs):
    """What a call returns, and the warnings it gives, as texts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    return result, [str(each.message) for each in caught if each.category is InputWarning]


@pytest.mark.parametrize(
    "names, words",
    [
        (["n02119789", "n01440764"], ["kit fox", "tench"]),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
        (["n99999999", "cat"], ["n99999999", "cat"]),  # no such id
        (["n0211978", "n021197890"], ["n0211978", "n021197890"]),  # of other lengths
        (["001.Black_footed_Albatross", "200.Common_Yellowthroat"], ["Black footed Albatross", "Common Yellowthroat"]),
        (["1_cat", "2_dog", "3_fox"], ["cat", "dog", "fox"]),
        (["1 - cat", "2 - dog"], ["cat", "dog"]),
        (["2_euro", "50_cent"], ["2 euro", "50 cent"]),  # numbers that do not count the classes
        (["1_euro", "2_euro"], ["1 euro", "2 euro"]),
        (["707-320", "A340-600"], ["707-320", "A340-600"]),
        (["3.5mm_jack", "6.3mm_jack"], ["3.5mm jack", "6.3mm jack"]),
        (["sea__lake", "_", "+"], ["sea lake", "_", "+"]),
    ],
)
def test_words_of(names, words):
    assert words_of(names) == words


def test_every_class_of_imagenet_has_words():
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = info.label_names()
    found = words_of(names)
    assert len(found) == 1000 and not any(word[1:].isdigit() for word in found)
    assert found == [info.index_to_description(k).split(",")[0] for k in range(1000)]


def test_without_timm_ids_stay(monkeypatch):
    monkeypatch.setattr(classnames, "find_spec", lambda name: None)
    classnames.lemmas.cache_clear()
    try:
        prompts, warned = with_warnings(prompts_for, "mine", [0, 1], ["n01440764", "n02119789"])
    finally:
        classnames.lemmas.cache_clear()
    assert prompts.texts == ["a photo of an n01440764.", "a photo of an n02119789."]
    assert len(warned) == 1 and "'n01440764', 'n02119789'" in warned[0] and "--prompt_path" in warned[0]


CAFE = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]


@pytest.mark.parametrize(
    "name, classes, meant",
    [
        ("CAT", ["cat", "dog"], {0}),
        ("cat", ["Cat", "cat"], {1}),  # the exact one
        ("CAT", ["Cat", "cat"], {0, 1}),
        ("sea lake", ["sea_lake", "forest"], {0}),
        ("Black footed Albatross", ["001.Black_footed_Albatross", "002.Laysan_Albatross"], {0}),
        ("t-shirt", ["T shirt", "shirt"], {0}),
        ("C", ["C#", "C++", "C"], {2}),
        ("C#", ["C", "Java"], set()),
        ("-", ["+", "-", "_"], {1}),
        ("07", ["7", "70"], {0}),
        ("goldfish", ["tench, Tinca tinca", "goldfish, Carassius auratus"], {1}),
        ("crane", ["crane, bird", "crane"], {0, 1}),
        ("Vulpes macrotis", ["n02119789", "n01440764"], {0}),
        ("n02119789", ["kit fox", "tench"], {0}),
        (CAFE[0], [CAFE[1], "cafe"], {0}),
    ],
)
def test_what_a_name_means(name, classes, meant):
    assert meanings([name], {k: [each] for k, each in enumerate(classes)}) == [meant]


# ---- csv of prompts of own data ----


def read(tmp_path, classes, *rows, labels=None, name="mine"):
    """The class ids of a csv of these rows, the name of each and its class id or nothing; and what is warned of."""
    head = "prompt,classname" + ",classidx" * (len(rows[0]) > 1)
    path = tmp_path / "prompts.csv"
    lines = [",".join([f"a {n}.", *(f'"{each}"' if k == 0 else str(each) for k, each in enumerate(row))])
             for n, row in enumerate(rows)]  # fmt: skip
    path.write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    labels = list(range(len(classes))) if labels is None else labels
    prompts, warned = with_warnings(prompts_for, name, labels, classes, path)
    assert prompts.texts == [f"a {n}." for n in range(len(rows))]
    assert prompts.names == [row[0].strip() for row in rows]
    return prompts.classes, warned


ANIMALS = ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize(
    "classes, rows, labels, found",
    [
        (ANIMALS, [("dog", 0), ("cat", 1), ("bee", 2), ("ant", 3)], None, [3, 2, 1, 0]),  # another order
        (ANIMALS, [("cat", 0), ("dog", 1)], [2, 3], [2, 3]),  # a subset
        (ANIMALS, [("dog",), ("cat",), ("dog",)], [2, 3], [3, 2, 3]),  # several prompts of a class
        (ANIMALS, [("Dog", 0), ("CAT", 1), ("hound", 0)], [2, 3], [3, 2, 3]),  # by any of its names
        (ANIMALS, [("wolf", 0), ("dog", 1), ("cat", 9)], [2, 3], [4, 3, 2]),  # a wolf is a distractor
        (["+", "-", "C#", "C++"], [("C++", 0), ("C#", 1), ("-", 2), ("+", 3)], None, [3, 2, 1, 0]),
        (["-1", "1", "10", "2"], [("1", 0), ("2", 1), ("10", 2), ("-1", 3)], None, [1, 3, 2, 0]),
        ([], [("7", 0), ("3", 1)], [3, 7], [7, 3]),  # folders that are class ids
        ([], [("seven", 7), ("three", 3)], [3, 7], [7, 3]),
        (["n01440764", "n02119789"], [("kit fox", 0), ("tench", 1)], None, [1, 0]),
    ],
)
def test_classes_go_by_name(tmp_path, classes, rows, labels, found):
    assert read(tmp_path, classes, *rows, labels=labels) == (found, [])


def test_classes_go_by_number_where_names_say_nothing(tmp_path):
    """Two classes of one name; other words for a class, which is warned of; names that are none of the data's."""
    twice = read(tmp_path, ["crane", "crane"], ("crane", 1), ("crane", 0))
    assert twice[0] == [1, 0]
    found, warned = read(tmp_path, ["cat", "dog"], ("tabby cat", 0), ("Dog", 1), ("wolf", 2))
    assert found == [0, 1, 2] and len(warned) == 1 and "'tabby cat' is taken for 'cat'" in warned[0]
    found, warned = read(tmp_path, ["cat", "dog"], ("Katze", 0), ("Hund", 1))
    assert found == [0, 1] and "none of its classnames is a class of mine" in warned[0]


@pytest.mark.parametrize(
    "classes, rows, says",
    [
        (ANIMALS, [("cat", 0), ("hound", 1)], "no class 0 (ant)"),
        (ANIMALS, [("Katze",), ("Hund",)], "no column classidx, and no classname ('Katze', 'Hund')"),
        (["Cat", "cat", "dog"], [("CAT",), ("dog",)], "'CAT' is a name of the classes 0 (Cat), 1 (cat)"),
        (["cat", "dog"], [("cat", 0), ("Cat", 1)], "'cat', 'Cat' have a classidx each"),
        (["cat", "dog", "fox"], [("dog", 0), ("fox", 1), ("fox", 2)], "'dog' has classidx 0"),
    ],
)
def test_names_that_contradict_are_refused(tmp_path, classes, rows, says):
    with pytest.raises(InputError) as refused:
        read(tmp_path, classes, *rows)
    assert says in str(refused.value)


# ---- known data ----


def imagenet() -> list[str]:
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights.IMAGENET1K_V2.meta["categories"]


@pytest.mark.parametrize("name, csv", [("imagenetv2", "imagenet"), ("imagenetA", "imagenetA")])
def test_published_names_are_no_contradiction(name, csv):
    """657 and 744 are both "missile", 836 and 837 both "sunglasses" there."""
    path = ROOT / f"prompts/{csv}_prompts.csv"
    prompts, warned = with_warnings(prompts_for, name, [6], imagenet(), path)
    assert prompts.classes == read_prompts(path).classes
    assert len(warned) == (2 if csv == "imagenet" else 0) and all(
        "they cannot be told apart" in each for each in warned
    )


def test_a_part_of_published_names_is_no_contradiction(tmp_path):
    rows = [("tench", 0), ("missile", 744), ("sunglasses", 836)]
    assert read(tmp_path, imagenet(), *rows, labels=[0, 744], name="imagenet") == ([0, 744, 836], [])


def test_known_data_keeps_its_class_ids(tmp_path):
    """A name of another class is warned of; another order, or other data, is refused or warned of."""
    rows = [("tench", 0), ("goldfish", 1), ("crane", 134), ("lifting device", 517)]  # 517 is "crane" to torchvision
    found, warned = read(tmp_path, imagenet(), *rows, labels=[0], name="imagenet")
    assert found == [0, 1, 134, 517] and "'crane' has classidx 134, which in imagenet is 'crane bird'" in warned[0]
    cifar = [row.split(",")[-2] for row in (ROOT / "prompts/cifar10_prompts.csv").read_text().splitlines()[1:]]
    exchanged = [(each, {3: 5, 5: 3}.get(k, k)) for k, each in enumerate(cifar)]
    shifted = [(each, (k + 1) % 10) for k, each in enumerate(cifar)]
    for rows in (exchanged, shifted, [("dog", 0), ("cat", 1), ("tree", 2)]):
        with pytest.raises(InputError, match="has classidx"):
            read(tmp_path, cifar, *rows, labels=[0, 1], name="cifar10")
    other = [(each, k) for k, each in enumerate("abcdefghij")]
    assert "none of its classnames is a class of cifar10" in read(tmp_path, cifar, *other, name="cifar10")[1][0]
    by_name = [(each,) for each in reversed(cifar)]
    assert read(tmp_path, cifar, *by_name, name="cifar10") == ([*range(9, -1, -1)], [])
    with pytest.raises(InputError, match="'tree' is no class of cifar10"):
        read(tmp_path, cifar, *by_name, ("tree",), name="cifar10")


# ---- prompts of folders, and prompts that are alike ----


def test_words_in_prompts_are_named():
    prompts, warned = with_warnings(prompts_for, "mine", [0, 1], ["n01440764", "n02119789"])
    assert prompts.texts == ["a photo of a tench.", "a photo of a kit fox."]
    assert prompts.names == ["n01440764", "n02119789"]
    assert len(warned) == 1 and "'n01440764' is 'tench', 'n02119789' is 'kit fox'" in warned[0]
    prompts, warned = with_warnings(prompts_for, "mine", [0, 1], ["001.Black_footed_Albatross", "002.Laysan_Albatross"])
    assert prompts.texts == ["a photo of a Black footed Albatross.", "a photo of a Laysan Albatross."]
    assert "'001.Black_footed_Albatross' is 'Black footed Albatross'" in warned[0]
    prompts, warned = with_warnings(prompts_for, "mine", [0, 1], ["n99999999", "sea_lake"])
    assert prompts.texts == ["a photo of an n99999999.", "a photo of a sea lake."]
    assert len(warned) == 1 and "'n99999999'" in warned[0]
    assert with_warnings(prompts_for, "mine", [0, 1], ["sea_lake", "forest"])[1] == []


@pytest.mark.parametrize("pair", [("Three", "three"), ("number  three", "number three"), tuple(CAFE)])
def test_prompts_that_the_tokenizer_does_not_tell_apart(pair):
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "digits-sd/tokenizer")
    assert tokenizer(pair[0]).input_ids == tokenizer(pair[1]).input_ids
    warned = with_warnings(prompts_for, "mine", [0, 1, 2], [*sorted(pair), "zebra"])[1]
    assert len(warned) == 1 and "cannot be told apart" in warned[0] and warned[0].isprintable()
    assert with_warnings(prompts_for, "mine", [0, 1], ["straße", "strasse"])[1] == []  # other tokens


def test_names_of_the_hub_lose_their_blanks(hub, tmp_path):
    """As those of a csv do."""
    from PIL import Image

    images = [Image.new("RGB", (32, 32), (30 * n, 0, 0)) for n in range(4)]
    features = hub.Features({"image": hub.Image(), "label": hub.Value("string")})
    (tmp_path / "set").mkdir()
    table = {"image": images, "label": ["cat", "cat ", " dog", "dog\t"]}
    hub.Dataset.from_dict(table, features).to_parquet(tmp_path / "set/test.parquet")
    data = load_dataset(f"hf:{tmp_path}/set")
    assert (data.labels, data.classes) == ([0, 0, 1, 1], ["cat", "dog"])


# ---- readers count what the last command chose ----


def test_readers_count_the_images_of_the_last_command(run_main, tmp_path):
    script = ["eval_prob_adaptive.py", "--version", "digits", "--dataset", "digits", "--device", "cpu"]
    search = ["--search", "race", "--max_samples", 2, *subset(tmp_path, *range(0, 497, 20))]
    more = run_main(*script, *search, "--limit", 6)
    folder = folder_of(more)
    all_six = set(records_of(more))
    fewer = run_main(*script, *search, "--limit", 4)
    assert "4 images, 4 done before" in fewer.out and len(list(folder.glob("*.pt"))) == 6
    again = run_main(*script, *search, "--limit", 6)
    assert "6 images, 6 done before" in again.out
    run_main(*script, *search, "--limit", 4)
    (folder / "failed").mkdir()
    (left_out,) = sorted(all_six - {int(k) for k in chosen_of(folder)})[:1]
    (folder / "failed" / f"{left_out:03d}.txt").write_text("not one of the four")
    printed = run_main("scripts/print_acc.py", folder)
    assert printed.code == 0 and "images          4 of 4" in printed.out, printed.err
    assert "4 of 4" in run_main("scripts/print_acc.py", folder.parent).out
    csv = tmp_path / "table.csv"
    assert run_main("scripts/export.py", folder, "--out", csv).code == 0
    rows = DictReader(csv.read_text().splitlines())
    assert [int(row["index"]) for row in rows] == sorted(map(int, chosen_of(folder)))
    page = run_main("scripts/report.py", folder, "--out", tmp_path / "page.html")
    assert page.code == 0, page.err
    assert "4 of 4" in (tmp_path / "page.html").read_text()


def chosen_of(folder) -> list[str]:
    words = read_run(folder)["indices"].split()
    assert not any("-" in word for word in words)
    return words
