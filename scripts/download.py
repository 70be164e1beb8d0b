"""Download a data set with torchvision to the folder that the other scripts read; first show its terms, and ask.

python scripts/download.py pets
"""

from diffusion.data import catalogue
from diffusion.evaluate import options

SOURCES = {name: source for name, source in catalogue.DATASETS.items() if source.torchvision}


@options.answered_early
def parser() -> options.Parser:
    p = options.parser(__doc__, "NAME")
    p.add_argument("name", choices=SOURCES, metavar="NAME", help=", ".join(SOURCES))
    options.switch(p, "--yes", "do not ask")
    return p


import torchvision

from diffusion import InputError, one_line
from diffusion.data.datasets import load_dataset
from diffusion.io.wording import count


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    source = SOURCES[args.name]
    folder = catalogue.DATASET_ROOT.expanduser() / args.name
    terms = source.terms or f"see {source.page}"
    print(f"terms    {terms}")
    print(f"source   {source.page}, by torchvision")
    print(f"size     {source.size}")
    print(f"folder   {folder}")
    if not args.yes:
        try:
            agreed = input("Download it? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            raise InputError("--yes", "wanted: there is no terminal to ask on; nothing is downloaded") from None
        if not agreed:
            return 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, source.torchvision)(folder, download=True)
    except Exception as error:  # no network, no room, another file than was expected, ...
        why = f"{type(error).__name__}: {one_line(error, 300)}"
        raise InputError(args.name, f"cannot be downloaded to {folder} ({why})") from None
    dataset = load_dataset(args.name, root=catalogue.DATASET_ROOT)
    images = count(len(dataset), "image")
    if dataset.has_splits:
        images += f" in its {dataset.split} split"
    print(f"{args.name}: {images}")
    return 0


if __name__ == "__main__":
    options.run(main)
