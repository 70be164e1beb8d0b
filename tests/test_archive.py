"""Records read without torch.load: exactly what it reads, or nothing; and no code of a file runs."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_run

from diffusion import paths
from diffusion.runs import archive, records


def saved(record, **how) -> bytes:
    file = io.BytesIO()
    torch.save(record, file, **how)
    return file.getvalue()


def record_of(**more) -> dict:
    rng = torch.Generator().manual_seed(0)
    record = {"index": 3, "label": -1, "file": "\u96ea \udcff.png", "margin": float("inf"), "losses": ["l2", "l1"]}
    record |= {"levels": torch.arange(100)[:7], "errors": torch.rand(12, 2, generator=rng), "decided": True}
    return record | {"weights": torch.rand(7, dtype=torch.float64), "one": torch.tensor(5.0)} | more


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8"])
def test_it_is_what_torch_loads(dtype):
    data = saved(record_of(numbers=torch.arange(30).reshape(2, 3, 5).to(getattr(torch, dtype))))
    wanted = torch.load(io.BytesIO(data), weights_only=True)
    found = archive.to_tensors(archive.parse(data))
    assert list(found) == list(wanted)
    for a, b in zip(found.values(), wanted.values(), strict=True):
        assert type(a) is type(b)
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
        else:
            assert a == b


@pytest.mark.parametrize(
    "kind", ["transposed", "expanded", "empty", "bfloat16", "bool", "gradient", "older", "no dict"]
)
def test_other_forms_are_left_to_torch(kind):
    data = {
        "transposed": lambda: saved(record_of(x=torch.rand(2, 3).T)),
        "expanded": lambda: saved(record_of(x=torch.rand(2, 1).expand(2, 3))),
        "empty": lambda: saved(record_of(x=torch.zeros(0))),
        "bfloat16": lambda: saved(record_of(x=torch.zeros(2, dtype=torch.bfloat16))),
        "bool": lambda: saved(record_of(x=torch.ones(2, dtype=torch.bool))),
        "gradient": lambda: saved(record_of(x=torch.zeros(2, requires_grad=True))),
        "older": lambda: saved(record_of(), _use_new_zipfile_serialization=False),
        "no dict": lambda: saved([1, 2]),
    }[kind]()
    assert archive.parse(data) is None


def test_a_compressed_archive_is_left_to_torch():
    data, packed = saved(record_of()), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    assert archive.parse(packed.getvalue()) is None


def test_every_flipped_bit_of_a_record_is_seen_or_harmless():
    data = saved(record_of())
    right = archive.parse(data)
    seen = 0
    for at in range(len(data)):
        found = archive.parse(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        if found is None:
            seen += 1
            continue
        assert list(found) == list(right), at
        for key, value in right.items():
            assert np.array_equal(found[key], value), (at, key)
    assert seen > 500


class Bait:
    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("bait", [Bait(print, "it ran"), Bait(eval, "print('it ran')"), Bait(getattr, dict, "get")])
def test_no_code_of_a_file_runs(bait, capsys):
    assert archive.parse(saved(record_of(x=bait))) is None
    assert not capsys.readouterr().out


def test_what_a_pickle_may_name_cannot_be_changed():
    """BUILD, with which a pickle sets attributes, has nothing to set."""
    for found in archive.FOUND.values():
        with pytest.raises((AttributeError, TypeError)):
            found.more = 1


@pytest.mark.slow
@pytest.mark.parametrize("script", ["print_acc", "export", "calibrate", "compare", "progress"])
def test_readers_import_no_torch(script, tmp_path):
    """Nor torchvision: each takes seconds."""
    errors = np.random.default_rng(0).random((40, 3, 8))
    folders = [write_run(tmp_path / name, errors, [k % 3 for k in range(40)], model=name) for name in ("a", "b")]
    words = {"export": [folders[0], "--scores", "--out", tmp_path / "x.csv"], "compare": folders}
    argv = [paths.program(f"scripts/{script}.py"), *words.get(script, folders[:1])]
    code = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "print(sorted({'torch', 'torchvision', 'diffusers'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_record_with_lists_in_place_of_tensors_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", np.ones((1, 3, 4)), [0])
    path = Path(folder) / "0.pt"
    wanted = records.expected(records.read_run(folder))
    for key in ("levels", "counts", "errors"):
        record = records.load_record(path)
        records.save_record(tmp_path / "0.pt", record | {key: record[key].tolist()})
        with pytest.raises(Exception, match=key):
            records.load_record(tmp_path / "0.pt", wanted)
