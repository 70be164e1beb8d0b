"""Matching benchmarks by name; published ones, as their authors lay them out, and the table that reads them all.

    winoground      $DATASET_ROOT/winoground/examples.jsonl if it is there, else facebook/winoground of the hub (gated)
    hf:NAME         a data set of the hub, or a local folder that its library reads, with Winoground's columns
    FOLDER          examples.jsonl, a line each, or a folder that GenEval wrote: 00000/metadata.jsonl, 00000/samples/
    digits-...      of handwriting and canvases that training has not seen (diffusion.matching.digits)
    NAME[:PART]     a published benchmark under $DATASET_ROOT/NAME, or a part of it (TABLE)

A published one lies under $DATASET_ROOT/NAME: its annotations there or in data/ (as in the authors' repositories);
its images there, in images/ or data/, or in a folder that the table names, such as $DATASET_ROOT/coco/val2017. Every
part has one file of annotations. A row of it (an entry of a list, a key and its value, two lines of a csv) makes no
item, one or several.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image

from diffusion import InputError, one_line
from diffusion.io.wording import count, few
from diffusion.matching import digits as digit_items
from diffusion.matching.items import Item, Items, Shown, choice, opener, pair, read_examples, read_hub, search

NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
COCO = ("val2017", "../coco/val2017", "../coco/images/val2017")
COCO14 = (
    "val2014", "train2014", "../coco/val2014", "../coco/train2014",
    "../coco/images/val2014", "../coco/images/train2014",
)  # fmt: skip
VG = (
    "VG_100K", "VG_100K_2", "vg_images", "../vg/VG_100K", "../vg/VG_100K_2", "../vg/vg_images",
    "../visual_genome/VG_100K", "../visual_genome/VG_100K_2", "../visual_genome/vg_images",
)  # fmt: skip
SWIG = ("images_512", "../swig/images_512", "../SWiG/images_512")
V7W = ("../visual7w/images", "../v7w/images")
VISDIAL = ("VisualDialog_val2018", "../visdial/VisualDialog_val2018")
FLICKR = ("flickr30k-images", "../flickr30k/flickr30k-images", "../flickr30k/images")


@dataclass(frozen=True)
class Reader:
    """How one benchmark is read."""

    parts: dict[str, str]  # PART -> its file
    items: Callable | None  # (part, key, row) -> items; None: has a reader of its own
    places: tuple[str, ...] = ()  # folders with images, seen from the benchmark's own


def _named(names: str, pattern: str = "{}.json") -> dict[str, str]:
    """PART -> its file, for parts that are named alike."""
    return {name: pattern.format(name) for name in names.split()}


# ---- rows as items ----


def _sugarcrepe(part, key, row):
    yield choice(f"{part}/{key}", row["filename"], [row["caption"], row["negative_caption"]], part)


def _sugarcrepe_pp(part, key, row):
    captions = row["caption"], row["caption2"], row["negative_caption"]
    yield choice(f"{part}/{row['id']}", row["filename"], captions, part, right=(0, 1))


def _valse(part, key, row):
    if row["mturk"]["caption"] >= 2:  # of three annotators: else no valid item
        yield choice(f"{part}/{key}", row["image_file"], [row["caption"], row["foil"]], part)


def _aro(part, key, row):
    box = tuple(row[f"bbox_{side}"] for side in "xywh")
    tag = row["relation_name"] if part == "relation" else " ".join(row["attributes"])
    yield choice(f"{part}/{key}", Shown(row["image_path"], box), [row["true_caption"], row["false_caption"]], part, tag)


def _order(part, key, row):
    yield choice(f"{part}/{key}", row["image"], row["caption_options"], part)


def _whatsup(part, key, row):
    if part not in "AB":  # [image id, true caption, false caption]
        image = f"{int(row[0]):012d}.jpg" if part.startswith("coco") else f"{row[0]}.jpg"
        return [choice(f"{part}/{key}", image, row[1:3], part)]
    first, relation, *_, last = Path(row["image_path"]).stem.split("_")  # A_left_of_B
    objects = f"{part} {first} {last}"
    sides = "sides" if relation in ("left", "right") else "others"
    groups = {"pair": f"{objects} {sides}", "set": objects}
    return [choice(f"{part}/{key}", row["image_path"], row["caption_options"], part, relation, groups=groups)]


def _cola(part, key, row):
    first, caption_0, second, caption_1 = row
    images = first.rsplit("/", 1)[-1], second.rsplit("/", 1)[-1]  # of URLs
    yield pair(str(key), images, [caption_0, caption_1])


def _eqben(part, key, row):
    folders = Path(row["image0"]).parts[:-1]
    subsets = [folder for folder in folders if folder not in ("/", "..", "data", "images")]
    yield pair(str(key), [row["image0"], row["image1"]], [row["caption0"], row["caption1"]], *subsets[:1])


def _mmvp(part, key, row):
    images = [f"MLLM_VLM Images/{line['Type']}/{line['Question ID']}.jpg" for line in row]
    captions = [f"a photo of {line['Statement']}" for line in row]
    yield pair(str(key), images, captions, row[0]["Type"])


def _spec(part, key, row):
    part, direction = part.split(".")
    id_ = f"{part}/{direction}/{key}"
    right = int(row["label"])
    if direction == "image2text":
        yield choice(id_, f"{part}/{row['query']}", row["keys"], part, right=[right])
    else:
        images = [f"{part}/{image}" for image in row["keys"]]
        yield search(id_, images, row["query"], part, right=right)


def _clevr(part, key, row):
    right = 1 if part == "spatial" else 0
    for n, captions in enumerate(row):
        yield choice(f"{part}/{key}/{n}", key, captions, part, right=[right])


def _svo(part, key, row):
    yield search(str(key), [f"{row['pos_id']}.jpg", f"{row['neg_id']}.jpg"], row["sentence"], row["neg_type"])


def _vl_checklist(part, key, row):
    image, captions = row
    right = range(len(captions["POS"]))
    both = [*captions["POS"], *captions["NEG"]]
    yield choice(f"{part}/{key}", image, both, part.split("/")[0], part, right=right)


def _imagecode(part, key, row):
    images = [f"{key}/img{k}.jpg" for k in range(10)]
    for index, text in row.items():
        yield search(f"{key}/{index}", images, text, right=int(index))


# ---- rows of the hub ----


def _vismin(k: int, row: dict) -> Item:
    images = f"image_0 of row {k}", f"image_1 of row {k}"
    return pair(str(k), images, [row["text_0"], row["text_1"]], row["category"])


def _countbench(k: int, row: dict) -> Item | None:
    number = NUMBERS[int(row["number"]) - 2]
    word = re.compile(rf"\b{number}\b", re.IGNORECASE)
    captions = [word.sub(other, row["text"]) for other in NUMBERS]
    if len(set(captions)) == len(NUMBERS):  # else the number is no word of its text
        return choice(str(k), f"row {k}", captions, number, right=[NUMBERS.index(number)])
    return None


HUB = {  # NAME -> id on the hub, split, columns, the item of a row
    "vismin": ("mair-lab/vismin-bench", "test", ("image_0", "image_1", "text_0", "text_1", "category"), _vismin),
    "countbench": ("nielsr/countbench", "train", ("image", "text", "number"), _countbench),
}
REPLACED = "replace_att replace_obj replace_rel swap_att swap_obj"
SPEC = {}
for subject in ("absolute_size", "relative_size", "absolute_spatial", "relative_spatial", "existence", "count"):
    for direction in ("image2text", "text2image"):
        SPEC[f"{subject}.{direction}"] = f"{subject}/{direction}.json"
CLEVR = (
    "pair_binding_size pair_binding_color recognition_color recognition_shape spatial"
    " binding_color_shape binding_shape_color"
)
VALSE = (
    "actant-swap action-replacement coreference-hard coreference-standard counting-adversarial counting-hard"
    " counting-small-quant existence foil-it plurals relations"
)
WHATSUP = {"A": "controlled_images_dataset.json", "B": "controlled_clevr_dataset.json"}
TABLE = {
    "winoground": Reader({"hard": "why_winoground_hard.json"}, None),
    "sugarcrepe": Reader(_named(f"add_att add_obj {REPLACED}"), _sugarcrepe, COCO),
    "sugarcrepe++": Reader(_named(REPLACED), _sugarcrepe_pp, COCO),
    "valse": Reader(_named(VALSE), _valse, (*COCO, *COCO14, *SWIG, *V7W, *VISDIAL, *VG)),
    "aro": Reader(_named("relation attribution", "visual_genome_{}.json"), _aro, VG),
    "order": Reader(_named("coco flickr30k", "{}_order.json"), _order, (*COCO14, *COCO, *FLICKR)),
    "whatsup": Reader(WHATSUP | _named("coco_qa_one_obj coco_qa_two_obj vg_qa_one_obj vg_qa_two_obj"), _whatsup,
                      (*COCO, *VG)),
    "cola": Reader({"multi": "COLA_multiobjects_matching_benchmark.json"}, _cola, VG),
    "eqben": Reader({"mini": "all_select.json"}, _eqben),
    "mmvp": Reader({"vlm": "Questions.csv"}, _mmvp),
    "spec": Reader(SPEC, _spec),
    "clevr": Reader(_named(CLEVR), _clevr, ("CLEVR_v1.0/images/val", "../CLEVR_v1.0/images/val", "images/val")),
    "svo": Reader({"probes": "svo.json"}, _svo),
    "vl-checklist": Reader({}, _vl_checklist, (*VG, *SWIG, "hake")),
    "imagecode": Reader({"valid": "valid_data.json"}, _imagecode, ("image-sets",)),
    "geneval": Reader({}, None),
} | dict.fromkeys(HUB, Reader({}, None))  # fmt: skip


# ---- reading ----


def load_items(name: str | Path, root: str | Path = "/datasets", value_range: Sequence[float] | None = None) -> Items:
    """The benchmark called `name` (see above). InputError: unknown name, no access, missing or damaged data.

    value_range as in datasets.load_dataset.
    """
    name = os.fspath(name)
    benchmark, _, part = name.partition(":")
    root = Path(root).expanduser()
    if name in digit_items.TABLE:
        if value_range is not None:
            raise InputError("--value_range", f"is for own images of more than 8 bits, not for {name}")
        return digit_items.TABLE[name]()
    if benchmark in TABLE:
        return read_benchmark(benchmark, part, root / benchmark, value_range)
    if name.startswith("hf:") and name != "hf:":
        return read_hub(name.removeprefix("hf:"), value_range=value_range)
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):  # unlike Path.is_dir, for any text
        if is_geneval(Path(folder)):
            return read_benchmark("geneval", "", Path(folder), value_range)
        return read_examples(Path(folder), value_range)
    first = "winoground, digits-pairs, hf:NAME or a folder with examples.jsonl"
    raise InputError(f"--dataset {name}", f"wanted {first}; or one of {', '.join([*digit_items.TABLE, *TABLE])}")


def read_benchmark(name: str, part: str, folder: Path, value_range: Sequence[float] | None = None) -> Items:
    """A benchmark of the table, or a part of it, from its folder. InputError: not there, damaged, no such part."""
    if name == "winoground":
        return _winoground(part, folder, value_range)
    if name in HUB:
        id_, split, columns, item_of = HUB[name]
        _check_part(name, part, [])
        return read_hub(str(folder) if folder.is_dir() else id_, columns, item_of, split, value_range)
    if name == "geneval":
        return _placed(list(_geneval(folder, part)), folder, (), value_range)
    reader = TABLE[name]
    assert reader.items is not None  # those without are read above
    parts = reader.parts or _json_files(folder)
    if not parts:
        raise InputError(f"--dataset {name}", f"no json files in {folder}")
    chosen = [each for each in parts if _is_in(each, part)]
    if not chosen:
        _check_part(name, part, list(parts))
    items: list[Item] = []
    for each in chosen:
        items += _items_of(_annotations(folder, parts[each]), each, reader.items)
    return _placed(items, folder, reader.places, value_range)


def _is_in(part: str, chosen: str) -> bool:
    """Whether a part is the one that was chosen, or belongs to it, as absolute_size.image2text to absolute_size."""
    return not chosen or part == chosen or part.startswith((f"{chosen}.", f"{chosen}/"))


def _json_files(folder: Path) -> dict[str, str]:
    """PART -> its file, for all json files below a folder."""
    parts = {}
    for path in sorted(folder.rglob("*.json")):
        file = path.relative_to(folder)
        parts[file.with_suffix("").as_posix()] = file.as_posix()
    return parts


def _check_part(name: str, part: str, parts: list[str]) -> None:
    """InputError if a part was chosen that is none of these."""
    if part and part not in parts:
        has = f"its parts are {', '.join(parts)}" if parts else "it has no parts"
        raise InputError(f"--dataset {name}:{part}", has)


def _annotations(folder: Path, file: str) -> Path:
    """The path of a file of annotations. InputError if there is none."""
    places = [folder / file, folder / "data" / file]
    for path in places:
        if path.is_file():
            return path
    raise InputError(f"{places[0]}", f"no such file, nor {places[1]}; commands.md says where its authors have it")


def _items_of(path: Path, part: str, items: Callable) -> Iterator[Item]:
    """The items of one file of annotations. InputError names the file and the key of a row that makes none."""
    for key, row in _rows(path):
        try:
            yield from items(part, key, row)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            problem = one_line(error)
            if isinstance(error, KeyError):
                problem = f"has no {error.args[0]!r}"
            raise InputError(f"{path}, item {key}", f"{problem}; found {row!r:.120}") from None


def _rows(path: Path) -> Iterator[tuple]:
    """(key, value) of a dict, (number, entry) of a list, (number, two lines) of a csv."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                lines = list(csv.DictReader(file, strict=True))
                data = list(zip(lines[::2], lines[1::2], strict=True))
            else:
                data = json.load(file)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise InputError(path, f"cannot be read ({one_line(error)})") from None
    if not isinstance(data, dict | list) or not data:
        raise InputError(path, f"holds {type(data).__name__} {data!r:.40}, wanted items")
    if isinstance(data, dict):
        yield from data.items()
    else:
        yield from enumerate(data)


def _placed(items: list[Item], folder: Path, places: tuple[str, ...], value_range: Sequence[float] | None) -> Items:
    """Items with their images, or a note that these are missing. InputError if they are missing everywhere."""
    if not items:
        raise InputError(folder, "holds no examples")
    paths: dict[str, str] = {}  # file -> its path
    missing: dict[str, None] = {}  # files
    lacking = {}
    for k, item in enumerate(items):
        for shown in item.images:
            file = shown.file
            if file not in paths and file not in missing:
                path = _find(folder, places, file)
                if path is None:
                    missing[file] = None
                else:
                    paths[file] = path
            if file in missing:
                lacking.setdefault(k, f"no such image: {file}")

    if len(lacking) == len(items):
        sought = few([folder / place for place in ("", *places)])
        images = f"{len(missing)} of {count(len(paths) + len(missing), 'image')} missing"
        none = f"{count(len(items), 'example')} in the file, {images}, so none is whole"
        raise InputError(folder, f"{none}; the first is {next(iter(missing))}, sought in {sought}")
    open_file = opener(paths.values(), f"dataset {str(folder)!r}", value_range)

    def open_image(k: int, i: int) -> Image:
        file = items[k].images[i].file
        return open_file(paths.get(file, file))  # OSError names a missing one

    return Items(items, open_image, lacking, paths)


def _find(folder: Path, places: tuple[str, ...], file: str) -> str | None:
    """The path of an image below one of the places, with as many folders of its name as are there; None if missing."""
    parts = Path(file).parts
    for place in ("", "images", "data", *places):
        for k in range(len(parts)):
            path = os.path.join(folder, place, *parts[k:])
            if os.path.isfile(path):
                return path
    return None


def _winoground(part: str, folder: Path, value_range: Sequence[float] | None) -> Items:
    """Winoground; in its part `hard` tags are the reasons why an example is hard (arXiv 2211.00768)."""
    if (folder / "examples.jsonl").exists():
        items = read_examples(folder, value_range)
    else:
        items = read_hub("facebook/winoground", value_range=value_range)
    _check_part("winoground", part, ["hard"])
    if not part:
        return items
    path = _annotations(folder, TABLE["winoground"].parts[part])
    reasons = {str(key): tuple(map(str, tags)) for key, tags in _rows(path)}
    hard = []
    for item in items.items:
        if item.id not in reasons:
            raise InputError(path, f"no entry for example {item.id}")
        hard.append(replace(item, tags=reasons[item.id]))
    return Items(hard, items.open, paths=items.paths)


# ---- folders of generated images ----


def is_geneval(folder: Path) -> bool:
    """Whether GenEval wrote a folder: it has 00000/metadata.jsonl or the like, and no examples.jsonl."""
    return not (folder / "examples.jsonl").exists() and any(folder.glob("*/metadata.jsonl"))


def _metadata(path: Path) -> dict:
    """GenEval's metadata of a prompt. InputError unless it is an object with texts prompt and tag, and its candidates.

    `candidates`, which it may lack, is a list of texts.
    """
    wanted = "wanted one JSON object with prompt and tag"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"{wanted} ({one_line(error)})") from None
    if not isinstance(row, dict):
        raise InputError(path, f"{wanted}, found a {type(row).__name__}")
    for key in ("prompt", "tag"):
        if not isinstance(row.get(key), str):
            raise InputError(path, f"{wanted}, texts both; found {key} {row.get(key)!r:.40}")
    candidates = row.get("candidates") or []
    is_texts = isinstance(candidates, list) and all(isinstance(text, str) for text in candidates)
    if not is_texts:
        raise InputError(path, f"candidates {candidates!r:.40}: wanted a list of texts")
    return row


def _geneval(folder: Path, part: str) -> Iterator[Item]:
    """Each image with the prompts of its tag as captions, or with the `candidates` in its metadata."""
    rows = {path.parent: _metadata(path) for path in sorted(folder.glob("*/metadata.jsonl"))}
    if not rows:
        raise InputError(folder, "no 00000/metadata.jsonl, 00001/metadata.jsonl, ... there")
    prompts: dict[str, list[str]] = {}
    for row in rows.values():
        prompts.setdefault(row["tag"], []).append(row["prompt"])
    _check_part("geneval", part, sorted(prompts))
    for place, row in rows.items():
        if part not in ("", row["tag"]):
            continue
        others = row.get("candidates") or prompts[row["tag"]]
        captions = list(dict.fromkeys([row["prompt"], *others]))
        for file in sorted((place / "samples").glob("*.*")) or [place / "samples/0000.png"]:
            name = file.relative_to(folder).as_posix()
            yield choice(name, name, captions, row["tag"], groups={"prompt": place.name})
