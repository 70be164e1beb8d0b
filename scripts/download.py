"""Download a data set with torchvision to the folder that the other scripts read; first show its terms, and ask.

python scripts/download.py pets
"""

from diffusion.data import catalogue
from diffusion.evaluate import options

SOURCES = {  # torchvision's class, the data set's page, the size of the download, and its terms, or None if not found
    "pets": ("OxfordIIITPet", "https://www.robots.ox.ac.uk/~vgg/data/pets/", "0.8 GB",
             "CC BY-SA 4.0, as the card of timm/oxford-iiit-pet on huggingface.co has it"),
    "flowers": ("Flowers102", "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "0.35 GB", None),
    "stl10": ("STL10", "https://cs.stanford.edu/~acoates/stl10/", "2.6 GB", None),
    "mnist": ("MNIST", "http://yann.lecun.com/exdb/mnist/", "12 MB", "CC BY-SA 3.0, as pymvpa.org has it"),
    "fashion-mnist": ("FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist", "30 MB",
                      "MIT License, Zalando SE"),
    "cifar10": ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar.html", "163 MB", None),
    "cifar100": ("CIFAR100", "https://www.cs.toronto.edu/~kriz/cifar.html", "161 MB", None),
    "food": ("Food101", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", "5 GB",
             "images of Foodspotting; any use beyond scientific fair use is to be negotiated with their owners"),
    "aircraft": ("FGVCAircraft", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", "2.75 GB",
                 "for non-commercial research only; the photographers keep their copyright"),
    "caltech101": ("Caltech101", "https://data.caltech.edu/records/20086", "137 MB",
                   "CC BY 4.0, as the card of HuggingFaceM4/Caltech-101 on huggingface.co has it"),
    "eurosat": ("EuroSAT", "https://github.com/phelber/eurosat", "90 MB",
                "MIT License, as the card of timm/eurosat-rgb on huggingface.co has it"),
}  # fmt: skip


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "NAME")
    p.add_argument("name", choices=SOURCES, metavar="NAME", help=", ".join(SOURCES))
    options.switch(p, "--yes", "do not ask")
    return p


import torchvision

from diffusion import InputError, one_line
from diffusion.data.datasets import load_dataset


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    kind, page, size, terms = SOURCES[args.name]
    folder = catalogue.DATASET_ROOT.expanduser() / args.name
    print(f"terms    {terms or f'see {page}'}\nsource   {page}, by torchvision\nsize     {size}\nfolder   {folder}")
    if not args.yes:
        try:
            agreed = input("Download it? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            raise InputError("--yes", "wanted: there is no terminal to ask on; nothing is downloaded") from None
        if not agreed:
            return 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, kind)(folder, download=True)
    except Exception as error:  # no network, no room, another file than was expected, ...
        why = f"{type(error).__name__}: {one_line(error, 300)}"
        raise InputError(args.name, f"cannot be downloaded to {folder} ({why})") from None
    print(f"{args.name}: {len(load_dataset(args.name, root=catalogue.DATASET_ROOT)):,} images in its test split")
    return 0


if __name__ == "__main__":
    options.run(main)
