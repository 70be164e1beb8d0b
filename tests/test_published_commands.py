"""Every command of commands.md on a known data set, to its first record, on a miniature of the data set.

The miniatures have the real folders, file names, classes and class ids; every image is the same small JPEG. In place of
the published models there are small ones, and fewer noise levels: everything else is as in the document.
"""

import csv
import io
import pickle
import shlex
import shutil
import struct
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv
from documents import DOCUMENTS, named, stated
from helpers import ROOT, call_main, folder_of, records_of
from layouts import unsigned, write
from PIL import Image
from scipy.io import savemat

from diffusion.data import catalogue, prompts
from diffusion.data.datasets import TABLE, load_dataset
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.models import aliases
from diffusion.runs.records import read_run

EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
CALTECH = """
BACKGROUND_Google Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular
bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier
cougar_body cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly
electric_guitar elephant emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano
hawksbill headphone hedgehog helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster
lotus mandolin mayfly menorah metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid
revolver rhino rooster saxophone schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish
stegosaurus stop_sign strawberry sunflower tick trilobite umbrella watch water_lilly wheelchair wild_cat
windsor_chair wrench yin_yang
"""


def jpeg() -> bytes:
    """A small picture in three colours."""
    image = Image.new("RGB", (48, 40), (40, 90, 160))
    image.paste((230, 200, 60), (12, 10, 30, 34))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def called(dataset: str) -> list[str]:
    """The class names of the shipped prompts."""
    return read_prompts(ROOT / "prompts" / prompts_file(dataset)).names


def timm_info(file: str) -> list[str]:
    return (resources.files("timm") / "data/_info" / file).read_text().split()


# ---- the miniatures: each writes its files, an image of each class ----


def pets(at: Path, patch) -> None:
    at /= "oxford-iiit-pet"
    rows = read_prompts(ROOT / "prompts/pets_prompts.csv")
    lines = []
    for k, (name, text) in enumerate(zip(rows.names, rows.texts, strict=True), 1):
        stem = (
            name.replace(" ", "_") if " cat," in text else name.replace(" ", "_").lower()
        )  # cats begin with a capital
        lines.append(f"{stem}_{k} {k} 1 1")
        write(at / f"images/{stem}_{k}.jpg", jpeg())
    for part in ("trainval", "test"):
        write(at / f"annotations/{part}.txt", "\n".join([*lines, ""]))


def flowers(at: Path, patch) -> None:
    at /= "flowers-102"
    for k in range(1, 103):
        write(at / f"jpg/image_{k:05d}.jpg", jpeg())
    ids = np.arange(1, 103)[None]
    savemat(at / "imagelabels.mat", {"labels": ids})
    savemat(at / "setid.mat", {"trnid": ids, "valid": ids, "tstid": ids})
    patch.setattr(tv.Flowers102, "_file_dict", {k: (f, None) for k, (f, _) in tv.Flowers102._file_dict.items()})


def stl10(at: Path, patch) -> None:
    at /= "stl10_binary"
    unsigned(patch, tv.STL10, "train_list", "test_list")
    for part in ("train", "test", "unlabeled"):
        write(at / f"{part}_X.bin", np.random.default_rng(0).bytes(10 * 3 * 96 * 96))
    for part in ("train", "test"):
        write(at / f"{part}_y.bin", bytes(range(1, 11)))
    write(at / "class_names.txt", "\n".join([*called("stl10"), ""]))


def idx(at: Path) -> None:
    for part in ("train", "t10k"):
        images = np.random.default_rng(0).bytes(10 * 28 * 28)
        write(at / f"raw/{part}-images-idx3-ubyte", struct.pack(">4I", 0x803, 10, 28, 28) + images)
        write(at / f"raw/{part}-labels-idx1-ubyte", struct.pack(">2I", 0x801, 10) + bytes(range(10)))


def cifar(at: Path, patch, cls, key: str, meta: str, classes: list[str]) -> None:
    unsigned(patch, cls, "train_list", "test_list")
    patch.setattr(cls, "meta", cls.meta | {"md5": None})
    data = np.random.default_rng(0).integers(0, 256, (len(classes), 3072), np.uint8)
    for file, _ in cls.train_list + cls.test_list:
        write(at / cls.base_folder / file, pickle.dumps({"data": data, key: list(range(len(classes)))}))
    write(at / cls.base_folder / cls.meta["filename"], pickle.dumps({meta: classes}))


def food(at: Path, patch) -> None:
    raw = [name.replace(" ", "_") for name in called("food")]
    for part in ("train", "test"):
        write(at / f"food-101/meta/{part}.json", {name: [f"{name}/1"] for name in raw})
    for name in raw:
        write(at / f"food-101/images/{name}/1.jpg", jpeg())


def aircraft(at: Path, patch) -> None:
    at /= "fgvc-aircraft-2013b/data"
    write(at / "variants.txt", "\n".join([*called("aircraft"), ""]))
    lines = [f"{k:07d} {name}" for k, name in enumerate(called("aircraft"))]
    for part in ("trainval", "test"):
        write(at / f"images_variant_{part}.txt", "\n".join([*lines, ""]))
    for k in range(100):
        write(at / f"images/{k:07d}.jpg", jpeg())


def folders(at: Path, classes: list[str], file: str) -> None:
    for name in classes:
        write(at / name / file, jpeg())


def objectnet(at: Path, patch) -> None:
    """Its 313 folders, 113 of them of ImageNet, one of which means two classes there."""
    from timm.data import ImageNetInfo

    at /= "objectnet-1.0"
    info = ImageNetInfo("imagenet-1k")
    ids = list(range(400, 852, 4))
    labels = [info.index_to_description(k) for k in range(1000)]
    shared = {f"{labels[k].split(',')[0].title()} {k}": labels[k] for k in ids}
    first = next(iter(shared))
    shared[first] += f"; {labels[401]}"
    others = [f"Thing {k}" for k in range(200)]
    folder = {name.lower().replace(" ", "_").replace("/", "_"): name for name in [*shared, *others]}
    assert (len(folder), len(shared)) == (313, 113)
    unique = [label if labels.count(label) == 1 else f"{label} {k}" for k, label in enumerate(labels)]
    write(at / "mappings/folder_to_objectnet_label.json", folder)
    write(at / "mappings/objectnet_to_imagenet_1k.json", shared)
    write(at / "mappings/imagenet_to_label_2012_v2", "\n".join(unique[::-1]) + "\n")  # by another numbering
    write(at / "mappings/pytorch_to_imagenet_2012_id.json", {str(k): 999 - k for k in range(1000)})
    folders(at / "images", list(folder), "ab12.png")


MINIATURES = {
    "pets": pets,
    "flowers": flowers,
    "stl10": stl10,
    "mnist": lambda at, patch: idx(at / "MNIST"),
    "fashion-mnist": lambda at, patch: idx(at / "FashionMNIST"),
    "cifar10": lambda at, patch: cifar(at, patch, tv.CIFAR10, "labels", "label_names", called("cifar10")),
    "cifar100": lambda at, patch: cifar(
        at, patch, tv.CIFAR100, "fine_labels", "fine_label_names", [n.replace(" ", "_") for n in called("cifar100")]
    ),
    "food": food,
    "aircraft": aircraft,
    "caltech101": lambda at, patch: folders(at / "caltech101/101_ObjectCategories", CALTECH.split(), "image_0001.jpg"),
    "eurosat": lambda at, patch: folders(at / "eurosat/2750", EUROSAT.split(), "a_1.jpg"),
    "imagenet": lambda at, patch: folders(at / "val", timm_info("imagenet_synsets.txt"), "ILSVRC2012_val_1.JPEG"),
    "imagenetv2": lambda at, patch: folders(
        at / "imagenetv2-matched-frequency-format-val", [str(k) for k in range(1000)], "a.jpeg"
    ),
    "imagenetA": lambda at, patch: folders(at / "imagenet-a", timm_info("imagenet_a_synsets.txt"), "0.0_a.jpg"),
    "objectnet": objectnet,
}
SCRIPTS = ("eval_prob_adaptive.py", "eval_prob_dit.py")

SMALL = {  # flag -> what stands in its place
    "--max_samples": ["2"],
    "--t_interval": ["500"],
    "--img_size": ["32"],
    "--image-size": [],  # says which published model
    "--pretrained": [],  # those of the embedded CLIP are its own
}


def commands() -> list[list[str]]:
    """Those of commands.md that evaluate a known data set of files, as words; of a job array its first task.

    A command is left out if the ones before it have run its script on its data set, and with all of its flags. A preset
    is another command that is there (test_dry_run.py), and a dry run evaluates nothing.
    """
    found = []
    seen: set[tuple[str, str]] = set()
    for words in DOCUMENTS["commands.md"]:
        if words[0] == "sbatch" and "--wrap" in words:
            words = shlex.split(words[words.index("--wrap") + 1].replace("$SLURM_ARRAY_TASK_ID", "0"))
        at = [k for k, word in enumerate(words) if word in SCRIPTS]
        evaluates = not {"--preset", "--dry_run"} & set(words)
        if at and evaluates and named(words) in MINIATURES:
            words = words[at[0] :]
            flags = [word for word in words if word.startswith("--") and word not in SMALL]
            brings = {(words[0], word) for word in (named(words), *flags)}
            if not brings <= seen:
                found.append(words)
            seen |= brings
    return found


COMMANDS = commands()


def adapted(words: list[str], model: Path, at: Path) -> list[str]:
    """A command as it is run here: with a small model, few levels, and files in the folder `at`."""
    flags: dict[str, list[str]] = {}
    for word in words[1:]:
        if word.startswith("-"):
            flags[word] = []
        else:
            flags[[*flags][-1]].append(word)
    for flag, values in SMALL.items():
        if flag in flags:
            flags[flag] = values
    for flag in ("--image-size", "--pretrained"):
        flags.pop(flag, None)
    if "--n_samples" in flags:
        flags["--n_samples"] = [str(k) for k in range(1, len(flags["--n_samples"]) + 1)]
    elif flags.get("--search") == ["race"]:
        flags["--max_samples"] = ["2"]
    elif "--t_interval" not in flags:  # as eval_prob_dit.py does without a schedule
        flags |= {"--to_keep": ["50", "1"], "--n_samples": ["1", "2"]}
    if "--noise_path" in flags:
        flags["--noise_path"] = [str(at / "noise.pt")]
    if "--vae" in flags:
        flags["--vae"] = [str(model / "vae")]
    if "--candidates_from" in flags:
        flags["--candidates_from"] = ["clip:digits"]
    return [words[0], *[word for flag, values in flags.items() for word in (flag, *values)], "--version", str(model)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The miniatures in a DATASET_ROOT, and the shipped prompts in a folder of their own."""
    at = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        for name, make in MINIATURES.items():
            make(at / "datasets" / name, patch)
        shutil.copytree(ROOT / "prompts", at / "prompts")
        patch.setattr(catalogue, "DATASET_ROOT", at / "datasets")
        patch.setattr(prompts, "PROMPTS", at / "prompts")
        patch.chdir(at)
        for script, *words in (
            ["scripts/save_noise.py", "--latent", 4, 8, 8, "--out", at / "noise.pt"],
            ["scripts/write_prompts.py", "objectnet"],
        ):  # fmt: skip
            done = call_main(at / "data", script, *words)
            assert done.code == 0, done.err
        yield at


def test_every_data_set_and_script_is_covered():
    assert set(MINIATURES) == {name for name in TABLE if not name.startswith("digits")}
    assert {named(words) for words in COMMANDS} == set(MINIATURES)
    assert {words[0] for words in COMMANDS if named(words) == "objectnet"} == set(SCRIPTS)
    dit = {named(words) for words in COMMANDS if words[0] == "eval_prob_dit.py"}
    assert dit == {"imagenet", "imagenetv2", "imagenetA", "objectnet"}


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_has_the_classes_of_the_real_one(name, root):
    data = load_dataset(name, "test", root / "datasets")
    ids = sorted(set(data.labels))
    assert len(ids) == stated()[name][0]
    assert ids == sorted(set(read_prompts(root / "prompts" / prompts_file(name)).classes)) or name == "imagenetA"


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_published_command_reaches_its_first_record(words, root, imagenet_dit, tmp_path):
    """With the shipped prompts of its data set."""
    name = named(words)
    data = load_dataset(name, "test", root / "datasets")
    index = 744 if name.startswith("imagenet") and len(data) == 1000 else len(data) // 2  # 744 is one of two "missile"
    np.save(tmp_path / "one.npy", [index])
    model = imagenet_dit if words[0] == "eval_prob_dit.py" else aliases.EMBEDDED / "digits-sd"
    images = ["--subset_path", tmp_path / "one.npy", "--device", "cpu", "--dtype", "float32"]
    done = call_main(tmp_path / "data", *adapted(words, model, root), *images)
    assert done.code == 0, done.err
    (record,) = records_of(done).values()
    arms = read_run(folder_of(done))["arms"]
    assert (record["index"], record["label"]) == (index, data.labels[index])
    assert record["errors"].isfinite().all()
    if "--cls" in words:
        return
    assert record["pred"] in {class_id for *_, class_id in arms}
    assert len({class_id for *_, class_id in arms}) == stated()[name][0]
    if words[0] == "eval_prob_adaptive.py":
        with (root / "prompts" / prompts_file(name)).open(newline="", encoding="utf-8") as file:
            shipped = list(csv.DictReader(file))
        assert arms == [[row["prompt"], row["classname"], int(row["classidx"])] for row in shipped]
