"""Whole records or none, whenever the writer dies; runs that do not mix; nothing unpickled."""

import contextlib
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Malicious

from diffusion import InputError, InputWarning
from diffusion.core.schedule import Points
from diffusion.evaluate import loop
from diffusion.evaluate.noise import read_noise
from diffusion.io.atomic import sha256, write_atomic
from diffusion.io.reading import check_pt
from diffusion.runs import results
from diffusion.runs.records import (
    clean,
    expected,
    fingerprint,
    finished,
    load_record,
    open_run,
    read_run,
    record_path,
    save_record,
)

OURS = {
    "index": 7,
    "label": 3,
    "pred": 5,
    "nfe": 30,
    "decided": True,
    "margin": math.inf,
    "losses": ["l2", "l1", "huber"],
    "levels": torch.arange(10),
    "counts": torch.tensor([10, 10, 10]),
    "errors": torch.rand(30, 3),
}
DIES = """
import os, signal, sys
from pathlib import Path
from diffusion.io.atomic import write_atomic

def write(file):
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_atomic(Path(sys.argv[1]), write)
"""


def test_names_are_padded_to_the_last_index(tmp_path):
    assert [record_path(tmp_path, n, 7) for n in (10, 11, 100, 101, 10_000, 50_000)] == [
        tmp_path / name for name in ("7.pt", "07.pt", "07.pt", "007.pt", "0007.pt", "00007.pt")
    ]


def test_a_saved_record_comes_back(tmp_path):
    save_record(tmp_path / "007.pt", OURS)
    back = load_record(tmp_path / "007.pt")
    assert back.keys() == OURS.keys() and os.listdir(tmp_path) == ["007.pt"]
    for key, value in OURS.items():
        assert torch.equal(back[key], value) if isinstance(value, torch.Tensor) else back[key] == value


def test_finished_lists_records_alone(tmp_path):
    for name in ("010.pt", "002.pt", ".003.pt.host-1", "run.json", "x.pt", "004.pt.bak"):
        (tmp_path / name).touch()
    assert finished(tmp_path) == {2: tmp_path / "002.pt", 10: tmp_path / "010.pt"}


# ---- a writer that dies ----


@pytest.mark.parametrize("old", [None, b"the old one"])
def test_killed_while_writing(tmp_path, old):
    path = tmp_path / "007.pt"
    if old:
        path.write_bytes(old)
    assert subprocess.run([sys.executable, "-c", DIES, path]).returncode == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == old
    assert list(finished(tmp_path)) == ([7] if old else [])
    assert len(os.listdir(tmp_path)) == (2 if old else 1)  # the leftover is there
    clean(tmp_path, [6, 8])
    assert len(os.listdir(tmp_path)) == (2 if old else 1)  # another worker may be writing it
    clean(tmp_path, [7])
    assert os.listdir(tmp_path) == (["007.pt"] if old else [])


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "007.pt"
    path.write_bytes(b"the old one")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        write_atomic(path, write)
    assert path.read_bytes() == b"the old one" and os.listdir(tmp_path) == ["007.pt"]


def test_clean_touches_nothing_else(tmp_path):
    others = ["1.pt", "run.json", "x.1.pt.", ".11.pt.host-1"]
    for name in (*others, ".01.pt.host-99", ".run.json.host-1"):
        (tmp_path / name).touch()
    clean(tmp_path, [1])
    assert sorted(os.listdir(tmp_path)) == sorted(others)


# ---- run.json ----

ABOUT = {"images": 10, "arms": []}
OPTIONS = {"loss": "l1", "seed": 0, "to_keep": (5, 1), "noise": None}


def test_a_run_is_created_and_joined(tmp_path):
    folder = tmp_path / "digits" / "v"
    open_run(folder, OPTIONS, {"images": 10, "arms": [("a “photo”", "a", 0)]})
    there = read_run(folder)
    assert there["options"] == OPTIONS | {"to_keep": [5, 1]} and there["arms"] == [["a “photo”", "a", 0]]
    save_record(folder / "7.pt", OURS)
    open_run(folder, OPTIONS, ABOUT | {"images": 20})
    assert read_run(folder)["images"] == 20 and sorted(os.listdir(folder)) == ["7.pt", "run.json"]


@pytest.mark.parametrize("change, says", [
    ({"loss": "l2"}, "loss was 'l1', now 'l2'."), ({"to_keep": (4, 1)}, "to_keep was [5, 1], now [4, 1]."),
    ({"noise": "ab12", "seed": 3}, "noise was None, now 'ab12'; seed was 0, now 3."),
    ({"dtype": "float32"}, "dtype was None, now 'float32'."), ({"loss": ...}, "loss was 'l1', now None."),
])  # fmt: skip
def test_other_options_are_refused(tmp_path, change, says):
    open_run(tmp_path, OPTIONS, ABOUT | {"images": 10})
    before = (tmp_path / "run.json").read_bytes()
    assert before.endswith(b"}\n")
    with pytest.raises(InputError) as error:
        options = {key: value for key, value in (OPTIONS | change).items() if value is not ...}
        open_run(tmp_path, options, ABOUT | {"images": 99})
    message = str(error.value)
    assert says in message and str(tmp_path) in message and "--extra" in message and "\n" not in message
    assert (tmp_path / "run.json").read_bytes() == before


def test_results_of_unknown_origin_are_not_joined(tmp_path):
    save_record(tmp_path / "7.pt", OURS)
    with pytest.raises(InputError, match=r"no run\.json"):
        open_run(tmp_path, OPTIONS, ABOUT)
    assert os.listdir(tmp_path) == ["7.pt"]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"images": 3}', "[]", "null", '{"options": {}, "images": 3}', '{"options": 3}', '{"options": null}'],
)
def test_a_damaged_run_json(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    for read in (read_run, lambda folder: open_run(folder, OPTIONS, ABOUT)):
        with pytest.raises(InputError, match=r"run\.json: damaged") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)
    assert (tmp_path / "run.json").read_text() == text


# ---- published files, and worse ----


def rename_in_pickle(path, old: bytes, new: bytes) -> None:
    """Replace bytes in the pickle inside a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        parts = {item: archive.read(item) for item in archive.namelist()}
    assert any(old in content for content in parts.values())
    with zipfile.ZipFile(path, "w") as archive:
        for item, content in parts.items():
            archive.writestr(item, content.replace(old, new) if item.endswith(".pkl") else content)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("pred", [3, np.int64(3), np.int32(3), np.float32(3), np.float64(3), torch.tensor(3)], ids=repr)
def test_published_files_are_read(tmp_path, pred, module):
    """Scalars under the name of numpy 1 and that of numpy 2, whichever wrote the file."""
    path = tmp_path / "00042.pt"
    torch.save({"errors": torch.rand(5, 10), "pred": pred, "label": 5}, path)
    if isinstance(pred, np.generic):
        rename_in_pickle(path, type(pred).__reduce__(pred)[0].__module__.encode() + b"\nscalar", module + b"\nscalar")
    record = load_record(path)
    assert record["pred"] == 3 and type(record["pred"]) is int and record["label"] == 5
    assert record["errors"].shape == (5, 10)


@pytest.mark.parametrize("as_record", [lambda bad: bad, lambda bad: {"pred": bad, "label": 5}], ids=["bare", "inside"])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, as_record, legacy):
    path, trap = tmp_path / "1.pt", tmp_path / "ran"
    torch.save(as_record(Malicious(trap)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=f"{path}: no record") as error:
        load_record(path)
    assert not trap.exists() and "\n" not in str(error.value)
    torch.load(path, weights_only=False)
    assert trap.exists()  # so the trap was a real one


NO_RECORDS = [
    b"hello", b'{"pred": 1}', pickle.dumps({"pred": 1, "label": 1}, 2), torch.zeros(3), [1, 2], {"pred": 3},
    {"pred": "a", "label": 1}, {}, None, {"pred": 1, "label": 1, "errors": np.zeros(3)}, 0, 1, 100, -100, -1,
]  # fmt: skip


@pytest.mark.parametrize("content", NO_RECORDS, ids=str)
def test_files_that_are_no_records(tmp_path, content):
    """Of another kind, of other values, or cut: a number is how many bytes of a record are left."""
    path = tmp_path / "1.pt"
    save_record(path, OURS)
    if isinstance(content, int):
        content = path.read_bytes()[:content]
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError) as error:
        load_record(path)
    assert error.value.where == str(path) and "\n" not in str(error.value)


def test_a_missing_record_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "1.pt")


@pytest.mark.parametrize("data", [b"abc", "abc"])
def test_sha256(data):
    assert sha256(data) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_refused_prompts_are_shown(tmp_path):
    """As the lines that differ; a hash tells nobody anything."""
    arms = [["a cat", "cat", 0], ["a dog", "dog", 1]]
    open_run(tmp_path, {"prompts": "1"}, {"images": 2, "arms": arms})
    with pytest.raises(InputError) as refused:
        open_run(tmp_path, {"prompts": "2"}, {"images": 2, "arms": [arms[0], ["my dog", "dog", 1]]})
    said = str(refused.value)
    assert 'the prompts had "a dog",dog,1, the prompts now have "my dog",dog,1' in said and "cat" not in said
    assert "--extra NAME" in said and "delete" not in said
    with pytest.raises(InputError, match="in another order"):
        open_run(tmp_path, {"prompts": "3"}, {"images": 2, "arms": arms[::-1]})


# ---- which run a record is of ----

ARMS = [(f"a {k}", f"{k}", k) for k in range(5, 8)]
RUN = {"options": {"loss": "l2", "seed": 0}, "images": 8, "schedule": 1000, "arms": ARMS}
WHOLE = OURS | {"noise": torch.zeros(10, dtype=torch.int64)}


def saved(folder, options: dict, **change) -> Path:
    save_record(folder / "7.pt", WHOLE | change, fingerprint(options))
    return folder / "7.pt"


def test_a_record_knows_its_run(tmp_path):
    path = saved(tmp_path, RUN["options"])
    assert load_record(path, expected(RUN))["run"] == fingerprint(RUN["options"])
    more = RUN | {"images": 99, "versions": {"torch": "3"}, "options": {"seed": 0, "lora": None, "loss": "l2"}}
    assert load_record(path, expected(more))["pred"] == 5  # more images, other versions, an option that is not used


@pytest.mark.parametrize("other", [{"seed": 1}, {"loss": "l1"}, {"model": "x"}, {"data": "8, ab"}, {"lora": "x"}])
def test_a_record_of_another_run_is_refused(tmp_path, other):
    path = saved(tmp_path, RUN["options"] | other)
    with pytest.raises(InputError, match=r"7\.pt: no record: it is of a run with other options"):
        load_record(path, expected(RUN))
    assert load_record(path)["pred"] == 5


@pytest.mark.parametrize(
    "change",
    [
        {"counts": torch.full((6,), 5), "levels": torch.arange(5), "noise": torch.arange(5)},  # 6 arms of 3
        {"errors": torch.full((30, 3), torch.nan)},
        {"pred": 4},
        {"candidates": [4, 5]},
        {"losses": ["l1", "huber", "cosine"]},
        {"levels": torch.arange(995, 1005)},
        {"nfe": 0},
        {"index": 6},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_does_not_say_its_run_must_agree_with_it(tmp_path, change):
    save_record(tmp_path / "7.pt", WHOLE)
    assert load_record(tmp_path / "7.pt", expected(RUN))["pred"] == 5
    save_record(tmp_path / "7.pt", WHOLE | change)
    with pytest.raises(InputError, match=r"7\.pt: no record"):
        load_record(tmp_path / "7.pt", expected(RUN))


def test_readers_and_a_resumed_run_have_one_rule(tmp_path):
    """Of a folder with a copy of another run's record and a damaged one, both name the two and take the third."""
    folder = tmp_path / "run"
    open_run(folder, RUN["options"], {"images": 8, "arms": ARMS})
    for index, options in enumerate([RUN["options"], RUN["options"] | {"seed": 1}, RUN["options"]]):
        save_record(folder / f"{index}.pt", WHOLE | {"index": index}, fingerprint(options))
    data = bytearray((folder / "2.pt").read_bytes())
    data[data.index(WHOLE["errors"].numpy().tobytes()) + 5] ^= 1
    (folder / "2.pt").write_bytes(data)

    rows, problems = results.read_rows(finished(folder).values(), of_run=True)
    strict, refused = results.decided(results.read(folder))
    assert [row["index"] for row in rows] == [row["index"] for row in strict] == [0]
    assert problems == refused and [Path(each.split(":")[0]).name for each in problems] == ["1.pt", "2.pt"]
    with pytest.warns(InputWarning) as said:
        todo, done = loop.join_run(folder, RUN["options"], {"images": 8, "arms": ARMS}, [0, 1, 2, 3])
    assert todo == [1, 2, 3] and [row["index"] for row in done] == [0] and len(said) == 2


# ---- damaged ones ----


def same(record: dict) -> bool:
    values = ((record[key], value) for key, value in WHOLE.items())
    return record.keys() == WHOLE.keys() and all(
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(b, torch.Tensor) else a == b for a, b in values
    )


def test_a_flipped_bit_is_seen_or_harmless(tmp_path):
    """Bits of the archive's directory and of its parts; torch.load alone gives other numbers for hundreds of them."""
    path = tmp_path / "7.pt"
    save_record(path, WHOLE)
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    inside, outside = range(8 * directory), range(8 * directory, 8 * len(data))
    rng = random.Random(0)
    bits = rng.sample(inside, 250) + rng.sample(outside, 250)
    # the attribute that makes a folder of a part, which torch.load then does not read
    bits += [8 * (m.start() + 38) + 4 for m in re.finditer(b"PK\x01\x02", data)]
    seen = silent = 0
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert same(load_record(path)), f"bit {bit} of {8 * len(data)} changed a value"
        except InputError:
            seen += 1
        with contextlib.suppress(Exception):
            silent += not same(torch.load(path, weights_only=True))
    assert seen > 200 and silent > 10


def test_a_damaged_bank_is_refused(tmp_path):
    """As records: torch.load would give other noise."""
    path = tmp_path / "noise.pt"
    torch.save(torch.ones(4, 1, 8, 8), path)
    check_pt(path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(4).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    points = Points(np.arange(4), np.arange(4), None, np.ones(4))
    with pytest.raises(InputError, match="damaged"):
        check_pt(path)
    with pytest.raises(InputError, match="damaged"):
        read_noise(path, points, (1, 8, 8), loss="l2")
