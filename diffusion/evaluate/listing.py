"""The models and data sets that have a name here, as text: --list. Imports nothing heavy."""

from collections.abc import Iterable, Sequence

from diffusion.data.catalogue import DATASET_ROOT, DATASETS
from diffusion.models.aliases import EMBEDDED, MODELS, Alias
from diffusion.paths import script

GATED = {True: "yes", False: "no", None: "-"}


def models(conditioned_on: str) -> str:
    """The aliases that --version takes, of models conditioned on "text" or "class"."""
    rows = [("--version", "gated", "memory", "repository; the others are tried if it is gone")]
    for name, alias in MODELS[conditioned_on].items():
        rows.append((name, GATED[alias.gated], alias.memory, _places(alias)))
    notes = [
        "memory: of the weights in float16, with the VAE in float32; of DiT and of embedded models in float32.",
        "The download is as large, or up to twice as large. Gated: accept the terms on the model's page, then",
        '"hf auth login". "-": not known here. A hub id, a folder or a file will do in place of a name.',
    ]
    return "\n".join([*_columns(rows), *notes])


def _places(alias: Alias) -> str:
    if alias.repositories[0].startswith(str(EMBEDDED)):
        return "embedded, no download"
    return ", ".join(alias.repositories)


def datasets(names: Iterable[str]) -> str:
    """The data sets of these names, and how to get their files."""
    rows = [("--dataset", "classes", "images", "download", "from")]
    for name in names:
        published = DATASETS[name]
        if published.page is None:
            size, source = "none", "embedded, no files needed"
        elif published.torchvision:
            size, source = published.size, f"{script('download')} {name}"
        else:
            size, source = published.size, published.page
        rows.append((name, f"{published.classes:,}", f"{published.images:,}", size, source))
    notes = [
        f"images: of the test split. Files are read from $DATASET_ROOT, here {DATASET_ROOT}; commands.md says which.",
        "Own images: a folder of class folders, a csv of path,label, or hf:NAME.",
    ]
    return "\n".join([*_columns(rows, right=(1, 2)), *notes])


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The rows as lines of columns, those in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for k, cell in enumerate(row):
            cells.append(cell.rjust(widths[k]) if k in right else cell.ljust(widths[k]))
        lines.append("  ".join(cells).rstrip())
    return lines
