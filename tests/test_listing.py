"""--list: its rows are those of the documents, and embedded ones are as they are measured here."""

import re
import subprocess
import sys

import pytest
import torch
from documents import table
from helpers import ROOT

from diffusion.data.catalogue import DATASETS
from diffusion.data.datasets import load_dataset
from diffusion.models.aliases import EMBEDDED, MODELS
from diffusion.models.loading import read_card, weights_size

SCRIPTS = {"eval_prob_adaptive.py": ("text", DATASETS), "eval_prob_dit.py": ("class", ["imagenet", "digits"])}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each line of a printed table, by its first word; a name stands in one table, or in both."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *cells = re.split(r"\s{2,}", line.strip())
        if cells:
            found.setdefault(name, []).extend(cells)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_list_ends_the_script_before_anything_heavy_is_imported(script):
    run = f"""
import runpy, sys
sys.argv = [{script!r}, "--version", "no-such-model", "--list"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
    assert not {{"torch", "diffusers", "transformers", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    conditioned_on, datasets = SCRIPTS[script]
    models, _, data = done.stdout.partition("\n\n")
    listed = rows(models)
    for name, alias in MODELS[conditioned_on].items():
        gated, memory, places = listed[name]
        assert gated == {True: "yes", False: "no", None: "-"}[alias.gated] and memory == alias.memory
        embedded = alias.repositories[0].startswith(str(EMBEDDED))
        assert "embedded" in places if embedded else places.split(", ") == alias.repositories
    listed = rows(data)
    for name in datasets:
        classes, images, size, source = listed[name]
        published = DATASETS[name]
        assert (classes, images) == (f"{published.classes:,}", f"{published.images:,}")
        assert name in source if published.torchvision else source.startswith(published.page or "embedded")
        assert (size == "none") == (published.page is None)


def test_the_page_of_models_has_the_same_aliases():
    page = (ROOT / "docs/models.md").read_text().partition("## Aliases")[2].partition("## Families")[0]
    table = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    stated = {}
    for names, repositories, gated, _, memory in table:
        for name in re.findall(r"`([\w-]+)`", names):
            stated[name] = (repositories, gated.strip(), re.findall(r"[\d.]+", memory.replace("float32", "")))
    for name, alias in {**MODELS["class"], **MODELS["text"]}.items():
        if name in ("1-2", "1-3"):  # between the two that are named
            name = "1-1"
        if alias.repositories[0].startswith(str(EMBEDDED)):
            continue
        repositories, gated, memory = stated[name]
        assert all(place in repositories or name == "1-1" or name == "1-4" for place in alias.repositories), name
        assert {"yes": True, "no": False}.get(gated) == alias.gated, name
        assert re.findall(r"[\d.]+", alias.memory.replace("t5", "")) == memory, name


def test_the_page_of_commands_has_the_same_data_sets():
    stated = {}
    for name, classes, images, _ in table("commands.md", "data set", "classes", "images"):
        stated[name.strip("`")] = (int(classes), int(images.replace(",", "")))
    assert stated == {name: (published.classes, published.images) for name, published in DATASETS.items()}


@pytest.mark.parametrize("conditioned_on", MODELS)
def test_embedded_models_take_the_memory_that_is_listed(conditioned_on):
    for name, alias in MODELS[conditioned_on].items():
        if alias.repositories[0].startswith(str(EMBEDDED)):
            size = weights_size(read_card(name, conditioned_on=conditioned_on), torch.float32)
            assert alias.memory == f"{size / 1e6:.0f} MB"


def test_embedded_data_sets_are_as_listed():
    for name, published in DATASETS.items():
        if published.page is None:
            dataset = load_dataset(name)
            assert (len(dataset.classes) or published.classes, len(dataset)) == (published.classes, published.images)
