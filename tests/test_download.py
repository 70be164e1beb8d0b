"""scripts/download.py: what it says first, torchvision's own download from a server of ours, and what goes wrong."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torchvision
from helpers import import_script

from diffusion.data import catalogue
from diffusion.data.datasets import TABLE, load_dataset

SCRIPT = "scripts/download.py"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """MNIST, 6 and 4 images of it, at torchvision's only mirror; data sets lie in tmp_path/datasets."""
    files, at = {}, tmp_path / "served"
    at.mkdir()
    for part, n in (("train", 6), ("t10k", 4)):
        head = np.array([0x803, n, 28, 28], ">i4").tobytes()
        files[f"{part}-images-idx3-ubyte.gz"] = head + bytes(range(28)) * (28 * n)
        files[f"{part}-labels-idx1-ubyte.gz"] = np.array([0x801, n], ">i4").tobytes() + bytes(range(n))
    for name, content in files.items():
        (at / name).write_bytes(gzip.compress(content))
    sums = [(name, hashlib.md5((at / name).read_bytes()).hexdigest()) for name in files]
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=at))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    monkeypatch.setattr(catalogue, "DATASET_ROOT", tmp_path / "datasets")
    yield at
    server.shutdown()


def test_a_data_set_is_fetched_and_can_be_read(run_main, served):
    done = run_main(SCRIPT, "mnist", "--yes")
    assert done.code == 0, done.err
    data = load_dataset("mnist", "test", catalogue.DATASET_ROOT)
    assert data.labels == [0, 1, 2, 3] and data.open(2).size == (28, 28)
    *about, last = done.out.splitlines()
    folder = catalogue.DATASET_ROOT / "mnist"
    assert [line.split()[0] for line in about] == ["terms", "source", "size", "folder"]
    assert "CC BY-SA" in about[0] and about[3].endswith(str(folder)) and (folder / "MNIST").is_dir()
    assert last == "mnist: 4 images in its test split"
    assert run_main(SCRIPT, "mnist", "--yes").code == 0  # it is there


@pytest.mark.parametrize("answer, code", [("y", 0), ("YES", 0), ("", 1), ("n", 1)])
def test_it_asks(run_main, served, monkeypatch, answer, code):
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert run_main(SCRIPT, "mnist").code == code
    assert catalogue.DATASET_ROOT.exists() == (code == 0)


def refused(result) -> str:
    """The line after torchvision's bars."""
    *_, last = result.err.splitlines()
    assert result.code == 2 and last.startswith("download.py: ") and result.err.endswith("\n"), result
    return last


def test_what_goes_wrong_is_one_line(run_main, served, monkeypatch):
    def nobody(_):
        raise EOFError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.input", nobody)
        assert "--yes: wanted" in refused(run_main(SCRIPT, "mnist"))
    (served / "t10k-images-idx3-ubyte.gz").write_bytes(b"another file")
    assert "mnist: cannot be downloaded" in refused(run_main(SCRIPT, "mnist", "--yes"))
    (served / "t10k-images-idx3-ubyte.gz").unlink()
    said = refused(run_main(SCRIPT, "mnist", "--yes"))
    assert "t10k-images-idx3-ubyte.gz" in said and "404" in said

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", full)
    assert "No space left on device" in refused(run_main(SCRIPT, "mnist", "--yes"))
    catalogue.DATASET_ROOT.joinpath("pets").write_text("")
    assert "pets: cannot be downloaded" in refused(run_main(SCRIPT, "pets", "--yes"))


def test_everything_that_torchvision_can_fetch_is_there():
    sources = import_script(SCRIPT).SOURCES
    by_hand = {"imagenet", "imagenetv2", "imagenetA", "objectnet"}
    assert set(sources) | by_hand == {name for name in TABLE if not name.startswith("digits")}
    for source in sources.values():
        assert hasattr(torchvision.datasets, source.torchvision)
        assert source.page.startswith("http") and source.size.endswith("B")
        assert source.terms is None or len(source.terms) > 5
