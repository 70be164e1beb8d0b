"""Every published benchmark, in a miniature of its authors' layout with their keys: what is read, what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion import InputError, InputWarning
from diffusion.matching import benchmarks
from diffusion.matching import digits as digit_items
from diffusion.matching.benchmarks import load_items
from diffusion.matching.items import Shown

RED, BLUE = (255, 0, 0), (0, 0, 255)


def put(root: Path, files: dict[str, object]) -> Path:
    """Write annotations (json; a text as it is) and images (None: one of 24 x 16 pixels; a colour) below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".json", ".jsonl", ".csv"):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        else:
            Image.new("RGB", (24, 16), content or "white").save(path)
    return root


def refusal(name: str, root: Path) -> str:
    with pytest.raises(InputError) as error:
        load_items(name, root)
    assert "\n" not in str(error.value)
    return str(error.value)


def told(items) -> list:
    return [([shown.file for shown in i.images], list(i.captions), sorted(i.right), list(i.tags)) for i in items.items]


CREPE = {"filename": "000000000139.jpg", "caption": "a dog", "negative_caption": "a cat"}
VALSE = {
    "image_file": "COCO_val2014_000000000042.jpg", "caption": "one dog", "foil": "two dogs", "dataset": "coco",
    "original_split": "val", "linguistic_phenomena": "counting", "mturk": {"foil": 0, "caption": 3, "other": 0},
}  # fmt: skip
ARO = {
    "image_path": "2331.jpg", "bbox_x": 2, "bbox_y": 3, "bbox_w": 5, "bbox_h": 7, "true_caption": "the dog on the mat",
    "false_caption": "the mat on the dog",
}  # fmt: skip
GDBENCH = {"CLEVR_val2_000138.png": [["a red cube", "a blue cube"], ["a big cube", "a small cube"]]}
CLEVR = {f"{part}.json": GDBENCH for part in benchmarks.TABLE["clevr"].parts}

LAYOUTS = {  # --dataset -> files below $DATASET_ROOT, and the items: images, captions, right, tags
    "sugarcrepe:swap_obj": (
        {
            # no key "1": as the real file, which has none "108"
            "sugarcrepe/data/swap_obj.json": {"0": CREPE, "2": CREPE | {"caption": "a cow"}},
            "coco/val2017/000000000139.jpg": None,
        },
        [
            (["000000000139.jpg"], ["a dog", "a cat"], [(0, 0)], ["swap_obj"]),
            (["000000000139.jpg"], ["a cow", "a cat"], [(0, 0)], ["swap_obj"]),
        ],
    ),
    "sugarcrepe++:swap_att": (
        {
            "sugarcrepe++/data/swap_att.json": [CREPE | {"id": 7, "caption2": "a hound"}],
            "sugarcrepe++/val2017/000000000139.jpg": None,
        },
        [(["000000000139.jpg"], ["a dog", "a hound", "a cat"], [(0, 0), (1, 0)], ["swap_att"])],
    ),
    "valse:counting-hard": (
        {
            "valse/data/counting-hard.json": {
                "a": VALSE | {"mturk": {"foil": 2, "caption": 1, "other": 0}},  # no valid item
                "b": VALSE | {"mturk": {"foil": 1, "caption": 2, "other": 0}},
            },
            "coco/val2014/COCO_val2014_000000000042.jpg": None,
        },
        [(["COCO_val2014_000000000042.jpg"], ["one dog", "two dogs"], [(0, 0)], ["counting-hard"])],
    ),
    "aro:relation": (
        {"aro/visual_genome_relation.json": [ARO | {"relation_name": "on"}], "vg/VG_100K_2/2331.jpg": None},
        [(["2331.jpg"], ["the dog on the mat", "the mat on the dog"], [(0, 0)], ["relation", "on"])],
    ),
    "aro:attribution": (
        {"aro/visual_genome_attribution.json": [ARO | {"attributes": ["red", "big"]}], "aro/images/2331.jpg": None},
        [(["2331.jpg"], ["the dog on the mat", "the mat on the dog"], [(0, 0)], ["attribution", "red big"])],
    ),
    "order:coco": (
        {
            "order/coco_order.json": [{"image": "val2014/1.jpg", "caption_options": ["a b", "b a", "a", "b", "c"]}],
            "coco/val2014/1.jpg": None,
        },
        [(["val2014/1.jpg"], ["a b", "b a", "a", "b", "c"], [(0, 0)], ["coco"])],
    ),
    "whatsup:A": (
        {
            "whatsup/controlled_images_dataset.json": [
                {"image_path": f"data/controlled_images/mug_{r}_{end}.jpeg", "caption_options": [r, "x", "y", "z"]}
                for r, end in (("left", "of_plate"), ("right", "of_plate"), ("on", "plate"), ("under", "plate"))
            ],
            **{f"whatsup/controlled_images/mug_{r}_plate.jpeg": None for r in ("left_of", "right_of", "on", "under")},
        },
        [
            ([f"data/controlled_images/mug_{r}_plate.jpeg"], [r.split("_")[0], "x", "y", "z"], [(0, 0)],
             ["A", r.split("_")[0]])
            for r in ("left_of", "right_of", "on", "under")
        ],
    ),
    "whatsup:coco_qa_two_obj": (
        {"whatsup/coco_qa_two_obj.json": [[139, "left", "right"]], "coco/val2017/000000000139.jpg": None},
        [(["000000000139.jpg"], ["left", "right"], [(0, 0)], ["coco_qa_two_obj"])],
    ),
    "whatsup:vg_qa_one_obj": (
        {"whatsup/vg_qa_one_obj.json": [["2331", "left", "right"]], "whatsup/vg_images/2331.jpg": None},
        [(["2331.jpg"], ["left", "right"], [(0, 0)], ["vg_qa_one_obj"])],
    ),
    "cola": (
        {
            "cola/data/COLA_multiobjects_matching_benchmark.json": [
                ["https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg", "a", "https://x.org/VG_100K/2.jpg", "b"],
            ],
            "vg/VG_100K_2/1.jpg": None, "vg/VG_100K/2.jpg": None,
        },
        [(["1.jpg", "2.jpg"], ["a", "b"], [(0, 0), (1, 1)], [])],
    ),
    "mmvp": (
        {
            "mmvp/Questions.csv": "Question ID,Type,Statement\n1,Color,red\n2,Color,blue\n"
            '3,Count,"one, big"\n4,Count,two\n',
            **{f"mmvp/MLLM_VLM Images/{'Color' if k < 3 else 'Count'}/{k}.jpg": None for k in (1, 2, 3, 4)},
        },
        [
            ([f"MLLM_VLM Images/Color/{k}.jpg" for k in (1, 2)], ["a photo of red", "a photo of blue"],
             [(0, 0), (1, 1)], ["Color"]),
            ([f"MLLM_VLM Images/Count/{k}.jpg" for k in (3, 4)], ["a photo of one, big", "a photo of two"],
             [(0, 0), (1, 1)], ["Count"]),
        ],
    ),
    "spec:count": (
        {
            "spec/count/image2text.json": [{"query": "a/1.jpg", "keys": ["one", "two", "three"], "label": 1}],
            "spec/count/text2image.json": [{"query": "two", "keys": ["a/0.jpg", "a/1.jpg"], "label": 1}],
            "spec/count/a/0.jpg": None, "spec/count/a/1.jpg": None,
        },
        [
            (["count/a/1.jpg"], ["one", "two", "three"], [(1, 0)], ["count"]),
            (["count/a/0.jpg", "count/a/1.jpg"], ["two"], [(0, 1)], ["count"]),
        ],
    ),
    "clevr:spatial": (
        {f"clevr/{k}": v for k, v in CLEVR.items()} | {"clevr/images/CLEVR_val2_000138.png": None},
        [
            (["CLEVR_val2_000138.png"], ["a red cube", "a blue cube"], [(1, 0)], ["spatial"]),
            (["CLEVR_val2_000138.png"], ["a big cube", "a small cube"], [(1, 0)], ["spatial"]),
        ],
    ),
    "clevr:recognition_color": (
        {f"clevr/{k}": v for k, v in CLEVR.items()} | {"CLEVR_v1.0/images/val/CLEVR_val2_000138.png": None},
        [
            (["CLEVR_val2_000138.png"], ["a red cube", "a blue cube"], [(0, 0)], ["recognition_color"]),
            (["CLEVR_val2_000138.png"], ["a big cube", "a small cube"], [(0, 0)], ["recognition_color"]),
        ],
    ),
    "svo": (
        {
            "svo/svo.json": [
                {"pos_id": 5, "neg_id": 6, "sentence": "A man runs.", "pos_triplet": "man,run,", "neg_triplet": "a,b,c",
                 "neg_type": "v"},
            ],
            "svo/images/5.jpg": None, "svo/images/6.jpg": None,
        },
        [(["5.jpg", "6.jpg"], ["A man runs."], [(0, 0)], ["v"])],
    ),
    "vl-checklist": (
        {
            "vl-checklist/data/Attribute/vg/color.json": [["VG_100K/1.jpg", {"POS": ["red dog"], "NEG": ["blue dog"]}]],
            "vg/VG_100K/1.jpg": None,
        },
        [(["VG_100K/1.jpg"], ["red dog", "blue dog"], [(0, 0)], ["data", "data/Attribute/vg/color"])],
    ),
    "imagecode": (
        {
            "imagecode/valid_data.json": {"set-1": {"3": "the dog sits", "0": "the dog runs"}},
            **{f"imagecode/image-sets/set-1/img{k}.jpg": None for k in range(10)},
        },
        [
            ([f"set-1/img{k}.jpg" for k in range(10)], [text], [(0, right)], [])
            for right, text in ((3, "the dog sits"), (0, "the dog runs"))
        ],
    ),
    "geneval": (
        {
            "geneval/00000/metadata.jsonl": {
                "tag": "position", "include": [{"class": "dog", "count": 1, "position": ["left of", 1]}],
                "prompt": "a dog left of a cat",
            },
            "geneval/00001/metadata.jsonl": {"tag": "position", "include": [], "prompt": "a dog above a cat"},
            "geneval/00002/metadata.jsonl": {"tag": "colors", "prompt": "a red dog", "candidates": ["a"]},
            "geneval/00000/samples/0000.png": None, "geneval/00000/samples/0001.png": None,
            "geneval/00001/samples/0000.png": None, "geneval/00002/samples/0000.png": None,
        },
        [
            (["00000/samples/0000.png"], ["a dog left of a cat", "a dog above a cat"], [(0, 0)], ["position"]),
            (["00000/samples/0001.png"], ["a dog left of a cat", "a dog above a cat"], [(0, 0)], ["position"]),
            (["00001/samples/0000.png"], ["a dog above a cat", "a dog left of a cat"], [(0, 0)], ["position"]),
            (["00002/samples/0000.png"], ["a red dog", "a"], [(0, 0)], ["colors"]),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    files, wanted = LAYOUTS[name]
    items = load_items(name, put(tmp_path, files))
    assert told(items) == wanted and not items.lacking
    assert len({item.id for item in items.items}) == len(items)
    for k, item in enumerate(items.items):
        assert all(items.seen(k, i).size == (24, 16) for i in range(len(item.images)) if item.images[i].box is None)


def test_every_reader_has_a_layout_here():
    hub_or_tests = {"winoground", "eqben", *benchmarks.HUB}  # below, and in test_items.py
    assert {name.partition(":")[0] for name in LAYOUTS} | hub_or_tests == set(benchmarks.TABLE)


def test_aros_box_is_cut_out(tmp_path):
    files, _ = LAYOUTS["aro:relation"]
    items = load_items("aro:relation", put(tmp_path, files))
    image = np.zeros((16, 24, 3), np.uint8)
    image[3:10, 2:7] = RED
    Image.fromarray(image).save(tmp_path / "vg/VG_100K_2/2331.jpg", quality=100, subsampling=0)
    assert items[0].images == (Shown("2331.jpg", (2, 3, 5, 7)),) and items.open(0, 0).size == (24, 16)
    seen = np.array(items.seen(0, 0))
    assert seen.shape == (7, 5, 3) and (seen[..., 0] > 150).all()


def test_whatsups_pairs_and_sets(tmp_path):
    items = load_items("whatsup:A", put(tmp_path, LAYOUTS["whatsup:A"][0]))
    left, right, on, under = (item.groups for item in items.items)
    assert left == right and on == under and left["set"] == on["set"] and left["pair"] != on["pair"]


def test_samples_of_a_prompt_are_a_group(tmp_path):
    items = load_items("geneval:position", put(tmp_path, LAYOUTS["geneval"][0]))
    assert [item.groups["prompt"] for item in items.items] == ["00000", "00000", "00001"]
    assert len(load_items(str(tmp_path / "geneval"))) == 4


def test_a_whole_benchmark_is_all_of_its_parts(tmp_path):
    put(tmp_path, {f"clevr/{k}": v for k, v in CLEVR.items()} | {"clevr/images/CLEVR_val2_000138.png": None})
    items = load_items("clevr", tmp_path)
    assert len(items) == 14 and [item.tags[0] for item in items.items][::2] == list(benchmarks.TABLE["clevr"].parts)
    (tmp_path / "clevr/spatial.json").unlink()
    assert re.search(r"spatial\.json: no such file", refusal("clevr", tmp_path))


def test_eqbens_arrays_are_blue_green_red(tmp_path):
    """The subset is in the path; some images are arrays."""
    row = {"image0": "eqbenag/a.npy", "image1": "eqbenag/b.png", "caption0": "a", "caption1": "b"}
    put(tmp_path, {"eqben/all_select.json": [row], "eqben/eqbenag/b.png": "blue"})
    np.save(tmp_path / "eqben/eqbenag/a.npy", np.full((16, 24, 3), (0, 0, 255), np.uint8))
    items = load_items("eqben", tmp_path)
    assert items[0].tags == ("eqbenag",) and items.open(0, 0).getpixel((3, 3)) == RED
    assert items.open(0, 1).getpixel((3, 3)) == BLUE
    (tmp_path / "eqben/eqbenag/a.npy").write_bytes(b"no array")
    with pytest.raises(OSError, match=r"a\.npy"):
        items.open(0, 0)


def test_why_winoground_is_hard(tmp_path):
    line = {"id": 0, "image_0": "a", "image_1": "a", "caption_0": "x", "caption_1": "y", "collapsed_tag": "Both"}
    put(tmp_path, {
        "winoground/examples.jsonl": json.dumps(line), "winoground/images/a.png": None,
        "winoground/why_winoground_hard.json": {"0": ["UnusualText", "NonCompositional"]},
    })  # fmt: skip
    assert load_items("winoground", tmp_path)[0].tags == ("Both",)
    assert load_items("winoground:hard", tmp_path)[0].tags == ("UnusualText", "NonCompositional")
    put(tmp_path, {"winoground/why_winoground_hard.json": {"1": ["NoTag"]}})
    assert "no entry for example 0" in refusal("winoground:hard", tmp_path)


# ---- the hub ----


def test_vismin(hub, tmp_path):
    rows = {"image_0": [Image.new("RGB", (8, 8), RED)], "image_1": [Image.new("RGB", (8, 8), BLUE)]}
    rows |= {"text_0": ["a"], "text_1": ["b"], "category": ["counting"]}
    images = dict.fromkeys(["image_0", "image_1"], hub.Image())
    features = hub.Features({name: images.get(name, hub.Value("string")) for name in rows})
    (tmp_path / "vismin/data").mkdir(parents=True)
    data = hub.Dataset.from_dict(rows, features=features)
    data.to_parquet(tmp_path / "vismin/data/test-00000-of-00001.parquet")
    items = load_items("vismin", tmp_path)
    assert told(items) == [(["image_0 of row 0", "image_1 of row 0"], ["a", "b"], [(0, 0), (1, 1)], ["counting"])]
    assert [items.open(0, i).getpixel((0, 0)) for i in (0, 1)] == [RED, BLUE]


def test_countbench(hub, tmp_path):
    """Nine captions; a text that does not say the number as a word makes none, which is said."""
    rows = {"image": [Image.new("RGB", (8, 8), c) for c in (BLUE, RED)], "text": ["5 cats", "Set of Five tone cats"]}
    rows |= {"number": [5, 5]}
    types = {"image": hub.Image(), "number": hub.Value("int64")}
    features = hub.Features({name: types.get(name, hub.Value("string")) for name in rows})
    (tmp_path / "countbench/data").mkdir(parents=True)
    data = hub.Dataset.from_dict(rows, features=features)
    data.to_parquet(tmp_path / "countbench/data/train-00000-of-00001.parquet")
    with pytest.warns(InputWarning, match="1 of 2 rows make no example and are left out, the first is row 0"):
        items = load_items("countbench", tmp_path)
    assert len(items) == 1 and items[0].right == {(3, 0)} and items[0].tags == ("five",)
    assert items[0].captions[3] == "Set of five tone cats" and items[0].captions[8] == "Set of ten tone cats"
    assert items.open(0, 0).getpixel((0, 0)) == RED


# ---- what cannot work ----


def test_missing_images_are_counted_and_named(tmp_path):
    row = {"0": CREPE, "1": CREPE | {"filename": "gone.jpg"}, "2": CREPE}
    put(tmp_path, {"sugarcrepe/swap_obj.json": row})
    says = refusal("sugarcrepe:swap_obj", tmp_path)
    assert "3 examples in the file, 2 of 2 images missing" in says and "000000000139.jpg" in says
    assert str(tmp_path / "sugarcrepe/val2017") in says
    put(tmp_path, {"coco/val2017/000000000139.jpg": None})
    items = load_items("sugarcrepe:swap_obj", tmp_path)
    assert len(items) == 3 and items.lacking == {1: "no such image: gone.jpg"}


@pytest.mark.parametrize(
    "name, files, says",
    [
        ("cola", {}, "no such file, nor"),
        ("cola", {"cola/COLA_multiobjects_matching_benchmark.json": "{"}, "cannot be read"),
        ("cola", {"cola/COLA_multiobjects_matching_benchmark.json": []}, "holds list [], wanted items"),
        ("cola", {"cola/COLA_multiobjects_matching_benchmark.json": [["a", "b"]]}, "item 0: not enough values"),
        ("cola", {"cola/COLA_multiobjects_matching_benchmark.json": [["a", "b", "c", " "]]}, "item 0: caption ' '"),
        ("svo", {"svo/svo.json": [{"pos_id": 1}]}, "svo.json, item 0: has no 'neg_id'; found {'pos_id': 1}"),
        ("mmvp", {"mmvp/Questions.csv": "Question ID,Type,Statement\n1,a,b\n"}, "Questions.csv: cannot be read"),
        ("geneval", {"geneval/00000/metadata.jsonl": "{}"}, "00000/metadata.jsonl: wanted one JSON object"),
        ("geneval", {"geneval/0/metadata.jsonl": {"tag": 1, "prompt": "b"}}, "found tag 1"),
        ("geneval", {"geneval/0/metadata.jsonl": {"tag": "a", "prompt": None}}, "found prompt None"),
        ("geneval", {"geneval/0/metadata.jsonl": []}, "found a list"),
        ("geneval", {"geneval/0/metadata.jsonl": {"tag": "a", "prompt": "b", "candidates": "c"}}, "a list of texts"),
        ("geneval", {"geneval/0/metadata.jsonl": {"tag": "a", "prompt": "b", "candidates": [1]}}, "a list of texts"),
        ("geneval", {}, "geneval: no 00000/metadata.jsonl"),
        ("geneval:tall", {"geneval/0/metadata.jsonl": {"tag": "a", "prompt": "b"}}, "its parts are a"),
        ("sugarcrepe:swap", {}, "--dataset sugarcrepe:swap: its parts are add_att, add_obj, "),
        ("vismin:x", {}, "--dataset vismin:x: it has no parts"),
        ("vl-checklist", {}, "no json files in"),
        ("spec:count", {"spec/count/image2text.json": [{"query": "1.jpg", "keys": ["a", "b"], "label": 2}],
                        "spec/count/text2image.json": []}, "item 0: right [(2, 0)], wanted pairs of caption and image"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, name, files, says):
    assert says in refusal(name, put(tmp_path, files))


# ---- the embedded ones ----


@pytest.mark.parametrize(
    "name, n, images, captions", [
        ("digits-swap", 450, 1, 2), ("digits-replace", 600, 1, 2), ("digits-add", 300, 1, 2),
        ("digits-places", 400, 1, 4), ("digits-order", 150, 1, 5), ("digits-retrieval", 100, 6, 1),
    ],
)  # fmt: skip
def test_embedded_shapes(name, n, images, captions):
    items = load_items(name)
    assert len(items) == n and {len(item.images) for item in items.items} == {images}
    assert {len(item.captions) for item in items.items} == {captions}
    assert all(len(set(item.captions)) == captions and len(item.right) == 1 for item in items.items)
    again = load_items(name)
    for k, i in ((n - 1, images - 1), (0, 0)):
        assert items[k] == again[k] and np.array_equal(np.array(items.open(k, i)), np.array(again.open(k, i)))


def test_embedded_benchmarks_show_what_training_saw():
    words = [f"{c} {d}" for c in digit_items.digits.NAMES for d in digit_items.digits.WORDS]
    seen = {words[10 * c + d] for c, d in digit_items.digits.SEEN}
    for name in ("digits-swap", "digits-replace", "digits-places", "digits-retrieval"):
        said = {w for item in load_items(name).items for text in item.captions for w in words if w in text}
        assert said <= seen and len(said) > 40, name


def test_golden_captions():
    """Changed, they would be other data sets, and the numbers of docs/matching.md those of the old ones."""
    assert load_items("digits-replace")[3].captions == (
        "a photo of a yellow five below a red six.", "a photo of a yellow five to the left of a red six.",
    )  # fmt: skip
    assert load_items("digits-order")[1].captions[1:] == (
        "a photo of a eight blue below a purple six.", "of a photo below purple six a a blue eight.",
        "below a blue a photo of eight a purple six.", "a of photo purple six a below blue a eight.",
    )  # fmt: skip
