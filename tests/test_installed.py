"""What pip installs, away from the clone: prompts and models come along, the commands and the API work."""

import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from diffusion.datasets import load_dataset
from diffusion.records import load_record

pytestmark = pytest.mark.slow
PARTS = ["diffusion", "scripts", "models", "prompts", "LICENSE", "README.md", "pyproject.toml"]
API = """
import diffusion
from diffusion import classify, load_model, names
answer = classify(load_model("digits"), "zero.png", names.DATA / "prompts" / "digits_prompts.csv")
print(diffusion.__file__, answer.best, answer.nfe)
"""


def call(words: list, folder: Path, **env) -> str:
    done = subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist of a copy of the clone, as pip builds them."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    clone.mkdir()
    for path in [*(ROOT / part for part in PARTS), *ROOT.glob("*.py")]:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, clone / path.name)
    sdist = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    call([sys.executable, "-c", sdist], clone)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    call([*wheel, folder, clone], folder)
    return folder


@pytest.fixture(scope="module")
def installed(built) -> Path:
    """The wheel, installed into a folder of its own."""
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", built / "site"]
    call([*pip, wheel], built)
    return built / "site"


def test_wheel_and_sdist_carry_prompts_and_models(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    wanted = {
        str(path.relative_to(ROOT))
        for part in ("prompts", "models")
        for path in (ROOT / part).rglob("*")
        if path.is_file()
    }
    scripts = {path.name for path in ROOT.glob("*.py")}
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"diffusion/scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")} <= inside
    assert {f"diffusion/data/{name}" for name in wanted} | scripts <= inside
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | scripts | {"pyproject.toml", "diffusion/names.py"} <= sources


def test_a_wheel_of_the_sdist_is_the_same(built, tmp_path):
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    made = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    call([*made, tmp_path, sdist], tmp_path)
    names = [sorted(zipfile.ZipFile(path).namelist()) for path in (wheel, tmp_path / wheel.name)]
    assert names[0] == names[1]


def test_from_anywhere(installed, tmp_path):
    """The command, with the package's prompts and model, and the API classify the same image alike, to the bit."""
    load_dataset("digits").open(0).save(tmp_path / "zero.png")
    np.save(tmp_path / "one.npy", np.array([0]))
    there = {"PYTHONPATH": str(installed), "LOG_DIR": str(tmp_path / "data")}
    words = ["--version", "digits", "--dataset", "digits", "--subset_path", "one.npy", "--device", "cpu"]
    call([sys.executable, installed / "bin" / "eval-prob-adaptive", *words], tmp_path, **there)
    (path,) = (tmp_path / "data").glob("*/*/*.pt")
    record = load_record(path)
    table = call([sys.executable, "-m", "diffusion.scripts.print_acc", path.parent], tmp_path, **there)
    assert f"NFE per image   {record['nfe']} " in table
    where, best, nfe = call([sys.executable, "-c", API], tmp_path, **there).split()
    assert where == str(installed / "diffusion" / "__init__.py")
    assert (int(best), int(nfe)) == (record["pred"], record["nfe"])


@pytest.mark.parametrize("name", ["eval-prob-adaptive", "eval-prob-dit", "run-winoground"])
def test_help_comes_at_once(installed, tmp_path, name):
    started = time.monotonic()
    said = call([sys.executable, installed / "bin" / name, "--help"], tmp_path, PYTHONPATH=str(installed))
    assert said.startswith(f"usage: {name} [options]")
    assert time.monotonic() - started < 2
