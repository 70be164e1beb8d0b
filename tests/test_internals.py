"""Every undocumented part of diffusers and transformers that is used stands in one table, and exists."""

import ast
import importlib
from pathlib import Path

import pytest
from helpers import ROOT

from diffusion import InputError
from diffusion.models import internals
from diffusion.models.config import read_card

LIBRARIES = ("diffusers.", "transformers.")
OF_TORCH = {"_parameters", "_buffers"}  # of torch.nn.Module, which names them in its own documents
LISTED = internals.INTERNALS | internals.OF_PIPELINES


def aliases(tree: ast.Module) -> dict[str, str]:
    """Names in a file that stand for modules below a library's top -> the module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.asname or each.name: each.name for each in node.names if each.name.startswith(LIBRARIES)}
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(LIBRARIES):
            for each in node.names:
                name = f"{node.module}.{each.name}"
                if name in LISTED:
                    found[each.asname or each.name] = name
    return found


def used(path: Path) -> set[tuple[str, str]]:
    """(module, name) of what a file takes from below the top of a library; ("", name) of attributes in underscores."""
    tree = ast.parse(path.read_text())
    modules, found = aliases(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(LIBRARIES):
            found |= {(node.module, each.name) for each in node.names if f"{node.module}.{each.name}" not in LISTED}
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner in modules:
                found.add((modules[owner], node.attr))
            elif (
                node.attr.startswith("_")
                and not node.attr.startswith("__")
                and owner != "self"
                and node.attr not in OF_TORCH
            ):
                found.add(("", node.attr))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"):
            name = getattr(node.args[1], "value", "")
            if str(name).startswith("_"):
                found.add(("", name))
    return found


PATHS = [ROOT / "diffusion/settings.py", *sorted((ROOT / "diffusion/models").glob("*.py"))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_is_used_is_listed(path):
    listed = {(place, name) for place, names in LISTED.items() for name in names}
    of_classes = {("", name) for place, names in LISTED.items() if ":" in place for name in names}
    assert used(path) <= listed | of_classes


def test_what_is_listed_exists():
    assert internals.missing(internals.INTERNALS) == []
    assert internals.missing(internals.OF_PIPELINES) == []


def test_the_scan_finds_each_kind(tmp_path):
    (tmp_path / "a.py").write_text(
        "from diffusers.loaders.x import y\nimport transformers.utils.logging as log\nlog.quiet()\nmodule._secret()\n"
        "hasattr(cls, '_hidden')\n"
    )
    assert used(tmp_path / "a.py") == {
        ("diffusers.loaders.x", "y"), ("transformers.utils.logging", "quiet"), ("", "_secret"), ("", "_hidden"),
    }  # fmt: skip


def test_a_version_that_lacks_one_is_refused(monkeypatch):
    """Before anything of a model is read; the line names what is lacking."""
    module = importlib.import_module("diffusers.loaders.single_file_utils")
    monkeypatch.delattr(module, "is_t5_in_single_file")
    internals.check_internals.cache_clear()
    with pytest.raises(InputError) as refused:
        read_card("digits")
    internals.check_internals.cache_clear()
    assert refused.value.where == "diffusers"
    assert "diffusers.loaders.single_file_utils.is_t5_in_single_file" in refused.value.problem
