"""Write the prompts of one data set, a csv with the columns prompt,classname,classidx.

    python scripts/write_prompts.py pets            # prompts/pets_prompts.csv
    python scripts/write_prompts.py pets --template "a painting of a {}." --out paintings.csv
    python scripts/write_prompts.py PATH/TO/FOLDER --template "a photo of the number {}." --out mine.csv

The names of known data sets come from the libraries that ship them, in the order of the labels that torchvision's data
sets give. ObjectNet names its classes only in its own files, which are read from $DATASET_ROOT. Those of your own data
are read from the data, as eval_prob_adaptive.py does.
"""

import csv
import json
import runpy
from collections.abc import Sequence
from pathlib import Path

from diffusion import InputError
from diffusion.data import catalogue
from diffusion.data.classnames import library_file
from diffusion.data.prompts import SAME_PROMPTS, filled, prompts_file, prompts_for, templates_of
from diffusion.evaluate import options
from diffusion.io.wording import count

Row = tuple[str, str, int]  # prompt, classname, classidx

TEMPLATES = {  # "a airplane" is wrong on purpose: the paper's numbers have it so
    "pets": "a photo of a {}, a type of pet.",
    "flowers": "a photo of a {}, a type of flower.",
    "stl10": "a photo of a {}.",
    "mnist": "a photo of the number: '{}'.",
    "cifar10": "a blurry photo of a {}.",
    "cifar100": "a blurry photo of a {}.",
    "food": "a photo of {}, a type of food.",
    "caltech101": "a photo of a {}.",
    "eurosat": "a centered satellite photo of {}.",
    "imagenet": "a photo of a {}.",
    "imagenetA": "a photo of a {}.",
    "objectnet": "a photo of a {}.",
    "aircraft": "a photo of a {}, a type of aircraft.",
    "fashion-mnist": "a photo of a {}, a type of clothing.",
    "digits": "a photo of the number {}.",
    "digits-colour": "a photo of a {}.",
    "digits-two": "a photo of a {}.",
    "sixteen": "a bad photo of a {}.",  # the classes of model-vs-human, as arXiv 2309.16779 prompts them
}


def clip_benchmark(key: str) -> list[str]:
    path = library_file("clip_benchmark", "clip-benchmark==1.6.2", "datasets/en_classnames.json")
    return [" ".join(name.split()) for name in json.loads(path.read_text())[key]]  # one name has two spaces in a row


def mmpretrain(key: str) -> list[str]:
    path = library_file("mmpretrain", "mmpretrain==1.2.0", "datasets/categories.py")
    return list(runpy.run_path(str(path))[f"{key}_CATEGORIES"])


def class_names(dataset: str) -> dict[int, str]:
    """Class id -> class name."""
    match dataset:
        case "pets" | "flowers" | "mnist" | "eurosat":  # eurosat: torchvision's labels are its folders, sorted
            found = clip_benchmark(dataset)
        case "caltech101":  # the folders, sorted; torchvision leaves out the first, the background
            found = clip_benchmark("caltech101")[1:]
        case "food":  # torchvision sorts the raw names ("cheese_plate" < "cheesecake"), mmpretrain has the file's order
            found = [name.replace("_", " ") for name in sorted(mmpretrain("FOOD101"))]
        case "cifar10" | "cifar100":
            found = [name.replace("_", " ") for name in mmpretrain(dataset.upper())]
        case "aircraft":  # torchvision and mmpretrain both keep the order of variants.txt
            found = mmpretrain("FGVCAIRCRAFT")
        case "imagenet":
            path = library_file("open_clip", "open_clip_torch", "zero_shot_metadata.py")
            found = runpy.run_path(str(path))["IMAGENET_CLASSNAMES"]
        case "imagenetA":  # keeps ImageNet's ids
            path = library_file("timm", "timm", "data/_info/imagenet_a_indices.txt")
            imagenet = class_names("imagenet")
            return {i: imagenet[i] for i in map(int, path.read_text().split())}
        case "objectnet":
            from diffusion.data.datasets import objectnet_classes

            names = objectnet_classes(catalogue.DATASET_ROOT)
            found = [name.lower() for name in names]  # as clip-benchmark has them; CLIP ignores case
        case "stl10":  # in no library; the order of its class_names.txt
            found = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
        case "sixteen":
            from diffusion.data.folders import SIXTEEN

            found = list(SIXTEEN)
        case "fashion-mnist":
            from torchvision.datasets import FashionMNIST

            found = FashionMNIST.classes
        case "digits" | "digits-colour" | "digits-two":
            from diffusion.data import digits

            names_of = {
                "digits": digits.WORDS,
                "digits-colour": digits.names_of_one(),
                "digits-two": digits.names_of_two(),
            }
            found = names_of[dataset]
        case _:
            raise InputError(f"data set {dataset!r}", "has no prompts")
    return dict(enumerate(found))


def with_species(breeds: dict[int, str]) -> dict[int, str]:
    """Abyssinian -> Abyssinian cat; American Bulldog stays, as a name that ends in its species has it already.

    The data set's own file names, kept by mmpretrain, begin with a capital for a cat and with a small letter for a dog.
    """
    species = ["cat" if name[0].isupper() else "dog" for name in mmpretrain("OxfordIIITPet")]
    return {i: name if name.endswith(species[i]) else f"{name} {species[i]}" for i, name in breeds.items()}


def prompts(dataset: str, templates: Sequence[str] | None = None) -> list[Row]:
    """Rows of the csv of a known data set; by default with its published template."""
    dataset = SAME_PROMPTS.get(dataset, dataset)
    found = templates_of(templates) if templates else [TEMPLATES[dataset]]
    classes = class_names(dataset)
    phrases = with_species(classes) if dataset == "pets" else classes
    rows = []
    for i, name in classes.items():
        rows += [(filled(template, phrases[i]), name, i) for template in found]
    return rows


def prompts_of_users(dataset: str, split: str, templates: Sequence[str] | None) -> tuple[str, list[Row]]:
    """The name of a user's data set, and the rows of its csv."""
    from diffusion.data.datasets import load_dataset  # imports torch

    data = load_dataset(dataset, split)
    found = prompts_for(dataset, data.labels, data.classes, templates=templates)
    return Path(data.name).stem, list(zip(found.texts, found.names, found.classes, strict=True))


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("prompt", "classname", "classidx"), *rows])


def parser() -> options.Parser:
    p = options.parser(__doc__, "DATASET")
    options.add(p, "dataset DATASET", f"{', '.join(TEMPLATES)}; {options.USERS_DATA}")
    options.add(p, "--out CSV", "file to write; default prompts/DATASET_prompts.csv")
    template = "prompts with {} for the name of the class and a(n) for a or an, as in 'a photo of a(n) {}.'"
    usual = "default the published one; openai-imagenet, simple-imagenet: those published for CLIP"
    options.add(p, "--template TEXT", f"{template}; {usual}", nargs="+")
    options.add(p, "--split", "which part of your own data", "test", choices=catalogue.SPLITS)
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.dataset in TEMPLATES or args.dataset in SAME_PROMPTS:
        options.refuse(args, parser(), ["split"], f"is for your own data, not for {args.dataset}")
        name, rows = args.dataset, prompts(args.dataset, args.template)
    else:
        name, rows = prompts_of_users(args.dataset, args.split, args.template)
    path = args.out or Path("prompts", prompts_file(name))
    try:
        write(path, rows)
    except OSError as error:
        raise InputError(path, f"cannot be written ({error})") from None
    print(f"{path}: {count(len(rows), 'prompt')}")
    return 0


if __name__ == "__main__":
    options.run(main)
