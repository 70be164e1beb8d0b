"""The rooms of the package: imports only go down, what is wrapped is wrapped in one place."""

import ast
import sys
from pathlib import Path

import pytest

from diffusion import datasets, models, names

ROOT = Path(__file__).parent.parent
LAYERS = [  # every module once; each imports only from lines above its own, or from its own line's left
    "names process errors search levels metrics calibration adapt measures",
    "files settings depth images classnames adapters weights hub schedules singlefile lora cards models clip "
    "classifiers digits",
    "prompts own datasets items digit_items readers records",
    "results candidates decide figures bars matching gallery tables api",
    "cluster options plan progress run",
]
ORDER = " ".join(LAYERS).split()
WRAPPED = {  # library -> the modules that may import it; scripts may import only those of SCRIPTS
    "torchvision": {"images", "datasets"},
    "diffusers": {"models", "cards", "adapters", "weights", "singlefile", "schedules", "settings"},
    "transformers": {"models", "clip", "settings"},
    "open_clip": {"clip"},
    "timm": {"classifiers", "datasets"},
    "datasets": {"own", "items"},
    "matplotlib": {"figures"},
    "pandas": {"tables"},
    "tqdm": {"plan", "progress", "run"},
    "argparse": {"options"},
}
SCRIPTS = {
    "pandas": {"export", "compare"},  # tables that others read
    "torchvision": {"write_prompts", "download", "train_classifier"},
    "diffusers": {"benchmark", "train_classifier"},
    "matplotlib": {"report", "plot_maps"},  # tickers, fonts and colours
    "tqdm": {"adapt", "benchmark", "train_classifier"},
}
PACKAGE = {path.stem: path for path in sorted((ROOT / "diffusion").glob("*.py")) if path.stem != "__init__"}
STUDIES = {path.stem: path for path in sorted((ROOT / "studies").glob("*.py"))}
OUTSIDE = {path.stem: path for path in [*sorted((ROOT / "scripts").glob("*.py")), *sorted(ROOT.glob("*.py"))]}


def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, anywhere in it; `from diffusion import x` as diffusion.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = node.module == "diffusion"
            found |= {f"diffusion.{alias.name}" for alias in node.names} if below else {node.module}
    return found


def own(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("diffusion.")} & PACKAGE.keys()


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(PACKAGE)


@pytest.mark.parametrize("module", PACKAGE)
def test_imports_go_down(module):
    place = ORDER.index(module)
    assert {name for name in own(PACKAGE[module]) if ORDER.index(name) >= place} == set()


def test_the_package_itself_imports_nothing_at_once():
    tree = ast.parse((ROOT / "diffusion/__init__.py").read_text())
    heavy = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in heavy for alias in node.names} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", [*PACKAGE.values(), *OUTSIDE.values()], ids=lambda path: path.stem)
def test_libraries_are_imported_where_they_are_wrapped(path):
    libraries = {name.split(".")[0] for name in imported(path)}
    allowed = WRAPPED if path.parent.name == "diffusion" else SCRIPTS
    assert {name for name in libraries & WRAPPED.keys() if path.stem not in allowed.get(name, set())} == set()


def test_no_script_imports_a_script():
    for path in OUTSIDE.values():
        assert not {name.split(".")[0] for name in imported(path)} & OUTSIDE.keys(), path


def test_the_product_does_not_know_the_studies():
    """It imports none; its only commands of theirs stand in documents and in the Makefile, which a clone has."""
    for path in [*PACKAGE.values(), *OUTSIDE.values()]:
        assert not {name.split(".")[0] for name in imported(path)} & {"studies", *STUDIES}, path
        assert "studies/" not in path.read_text(), path


def test_no_test_imports_a_test():
    """What several use is in helpers.py, layouts.py and the like."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert not [name for name in imported(path) if name == "conftest" or name.startswith("test_")], path


def test_names_are_those_of_the_tables():
    """names.py lists them again, since the tables cannot be imported in no time."""
    assert list(names.DATASETS) == list(datasets.TABLE)
    assert {told: words.split(", ") for told, words in names.VERSIONS.items()} == {
        told: list(known) for told, known in models.ALIASES.items()
    }
