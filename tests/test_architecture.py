"""The rooms of the package: imports only go down, what is wrapped is wrapped in one place."""

import ast
import functools
import sys
from pathlib import Path

import pytest

from diffusion.data import catalogue, datasets
from diffusion.models import aliases
from diffusion.models import loading as load

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {  # folder -> the folders that it may import; the root's InputError, paths and settings everyone may
    "io": "",
    "stats": "",
    "core": "stats",
    "data": "io",
    "models": "core data io",
    "runs": "stats data io",
    "matching": "runs stats data io",
    "plots": "matching runs stats core data io",
    "evaluate": "plots matching runs models data core stats io",
    "speed": "runs models data core stats io",
}
FOR_ALL = {"paths", "settings"}  # modules of the root that every folder may import
WRAPPED = {  # library -> the modules that may import it; scripts may import only those of SCRIPTS
    "torchvision": {"data/images", "data/datasets"},
    "diffusers": {
        "models/loading", "models/config", "models/families", "models/checkpoint", "models/single_file",
        "models/scheduler", "settings", "speed/networks", "speed/summary",
    },
    "transformers": {"models/loading", "models/checkpoint", "models/clip", "settings"},
    "open_clip": {"models/clip"},
    "timm": {"models/timm_classifier", "data/datasets"},
    "datasets": {"data/hub", "matching/items"},
    "matplotlib": {"plots/style"},
    "pandas": {"tables"},
    "pyarrow": {"runs/pack"},
    "tqdm": {"evaluate/progress", "evaluate/machine", "evaluate/classifier", "evaluate/embeddings"},
    "argparse": {"evaluate/options"},
}  # fmt: skip
SCRIPTS = {
    "pandas": {"export", "compare"},  # tables that others read
    "pyarrow": {"export"},
    "torchvision": {"write_prompts", "download", "train_classifier"},
    "diffusers": {"benchmark", "train_classifier"},
    "matplotlib": {"report"},  # tickers and fonts
    "tqdm": {"adapt", "benchmark", "train_classifier"},
}
HOME = ROOT / "diffusion"
MODULES = {path.relative_to(HOME).with_suffix("").as_posix(): path for path in sorted(HOME.rglob("*.py"))}
STUDIES = {path.stem: path for path in sorted((ROOT / "studies").glob("*.py"))}
OUTSIDE = {path.stem: path for path in [*sorted((ROOT / "scripts").glob("*.py")), *sorted(ROOT.glob("*.py"))]}


@functools.cache
def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, anywhere in it; `from a.b import c` as a.b.c, which may be a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The folders of the package, and the modules of its root, that a file imports."""
    parts = [name.split(".") for name in imported(path)]
    below = {names[1] for names in parts if names[0] == "diffusion" and len(names) > 1}
    return below & (MAY_IMPORT.keys() | MODULES.keys())


def test_every_folder_has_its_place_and_says_what_is_in_it():
    assert {name.split("/")[0] for name in MODULES if "/" in name} == MAY_IMPORT.keys() | {"moved"}
    for folder in MAY_IMPORT:
        assert "Read " in ast.get_docstring(ast.parse(MODULES[f"{folder}/__init__"].read_text()))


@pytest.mark.parametrize("module", [name for name in MODULES if name.split("/")[0] in MAY_IMPORT])
def test_folders_import_in_one_direction(module):
    folder = module.split("/")[0]
    allowed = {folder, *MAY_IMPORT[folder].split()} | FOR_ALL
    assert rooms(MODULES[module]) <= allowed


def test_nobody_imports_by_an_old_name():
    old = {path.stem for path in (HOME / "moved").glob("*.py")}
    for path in [*MODULES.values(), *OUTSIDE.values(), *STUDIES.values()]:
        assert not {f"diffusion.{name}" for name in old} & {".".join(name.split(".")[:2]) for name in imported(path)}


def test_the_package_itself_imports_nothing_at_once():
    tree = ast.parse((ROOT / "diffusion/__init__.py").read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", [*MODULES.values(), *OUTSIDE.values()], ids=str)
def test_libraries_are_imported_where_they_are_wrapped(path):
    libraries = {name.split(".")[0] for name in imported(path)}
    inside = path.is_relative_to(HOME)
    allowed = WRAPPED if inside else SCRIPTS
    module = path.relative_to(HOME).with_suffix("").as_posix() if inside else path.stem
    assert {name for name in libraries & WRAPPED.keys() if module not in allowed.get(name, set())} == set()


def test_no_script_imports_a_script():
    for path in OUTSIDE.values():
        assert not {name.split(".")[0] for name in imported(path)} & OUTSIDE.keys(), path


def test_the_product_does_not_know_the_studies():
    """It imports none; its only commands of theirs stand in documents and in the Makefile, which a clone has."""
    for path in [*MODULES.values(), *OUTSIDE.values()]:
        assert not {name.split(".")[0] for name in imported(path)} & {"studies", *STUDIES}, path
        assert "studies/" not in path.read_text(), path


def test_no_test_imports_a_test():
    """What several use is in helpers.py, layouts.py and the like."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert not [name for name in imported(path) if name == "conftest" or name.startswith("test_")], path


def test_names_are_those_of_the_tables():
    """catalogue.py lists them again, since the tables cannot be imported in no time."""
    assert list(catalogue.DATASETS) == list(datasets.TABLE)
    assert {told: words.split(", ") for told, words in aliases.VERSIONS.items()} == {
        told: list(known) for told, known in load.ALIASES.items()
    }
