"""A run packed into one file: every reader takes it in place of the folder, and a damaged one is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_run

from diffusion import InputError, tables
from diffusion.runs import pack, records, results

pytest.importorskip("pyarrow")
SCRIPT = "scripts/pack.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    """30 images of three classes at 16 points, with all kinds of fields; two groups of rows."""
    rng, _ = np.random.default_rng(0), torch.manual_seed(0)
    errors = 0.1 + 0.02 * rng.random((30, 3, 16)) + 0.1 * rng.random((30, 1, 16))

    def about(k: int) -> dict:
        signs = torch.tensor([1, -1] * 8, dtype=torch.int8)
        more = {"file": f"{k}\udcff 'x' \u96ea.png", "decided": k % 2 == 0, "margin": float("inf"), "signs": signs}
        return more | {"weights": torch.rand(16, dtype=torch.float64), "map": torch.rand(4, 4).half(), "map_of": [0, 1]}

    return write_run(tmp_path / "pets" / "run", errors, [k % 3 for k in range(30)], about=about)


@pytest.fixture
def packed(folder, run_main, monkeypatch) -> Path:
    monkeypatch.setattr(pack, "GROUP", 16)
    done = run_main(SCRIPT, folder)
    assert done.code == 0, done.err
    return folder.with_name("run.parquet")


def test_records_come_back_to_the_bit(folder, packed):
    there, here = results.read(packed), results.read(folder)
    assert list(there.done) == list(here.done) and there.wanted == here.wanted
    for k in here.done:
        a, b = results.record_of(here, k), results.record_of(there, k)
        assert list(a) == list(b)
        for x, y in zip(a.values(), b.values(), strict=True):
            assert type(x) is type(y)
            assert torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize("kind", ["any bits", "one point", "one arm", "a race", "one loss"])
def test_errors_of_any_bits_come_back(kind):
    rng = np.random.default_rng(1)
    counts = {"one point": [1, 1, 1], "one arm": [7], "a race": [2, 9, 0, 5, 9]}.get(kind, [4, 4])
    losses = 1 if kind == "one loss" else 3
    bits = rng.integers(0, 2**32, (sum(counts), losses), dtype=np.uint32)
    record = {"index": 3, "errors": bits.view(np.float32), "counts": np.array(counts)}
    assert pack._same(pack._decode(pack._encode(record)), record)


def without(text: str, *names: str) -> str:
    lines = text.splitlines()
    for name in names:
        lines = [line for line in lines if name not in line]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "options", [[], ["--loss", "l1"], ["--decide", "vote"], ["--top", 2, "--metrics", "classes", "votes"]]
)
def test_print_acc_prints_the_same(folder, packed, run_main, options):
    these, those = (run_main("scripts/print_acc.py", path, *options) for path in (folder, packed))
    assert these.code == those.code == 0, those.err
    assert str(packed) in those.out and without(these.out, str(folder)) == without(those.out, str(packed))


@pytest.mark.parametrize("out", ["x.csv", "x.json", "x.jsonl", "x.parquet"])
def test_export_writes_the_same(folder, packed, run_main, tmp_path, out):
    written = []
    for path in (folder, packed):
        done = run_main("scripts/export.py", path, "--out", tmp_path / out, *(["--scores"] if out == "x.csv" else []))
        assert done.code == 0, done.err
        written.append((tmp_path / out).read_bytes())
    assert written[0] == written[1]


def test_calibration_and_failures_are_in_it(folder, run_main, monkeypatch):
    (folder / "failed").mkdir()
    (folder / "failed/30.txt").write_text("cannot be read\n")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"images": 31, "indices": "0-30"}))
    assert run_main("scripts/calibrate.py", folder, "--fit", 0.5).code == 0
    assert run_main(SCRIPT, folder).code == 0
    packed = folder.with_name("run.parquet")
    run, same = results.read(packed), results.read(folder)
    assert results.failures(packed, run.description) == ["image 30: cannot be read"]
    assert results.read_calibration(run) == results.read_calibration(same)
    a, b = (tables.images(each, scores="probability")[0] for each in (run, same))
    assert a.equals(b)


def test_a_packed_run_is_calibrated_beside_it(folder, packed, run_main, tmp_path):
    """The file in a folder and the file beside a packed run have the same effect; that of another run is refused."""
    data = packed.read_bytes()
    for path in (folder, packed):
        assert run_main("scripts/calibrate.py", path, "--fit", 0.5).code == 0
    beside = folder.with_name("run.calibration.json")
    assert beside.read_bytes() == (folder / "calibration.json").read_bytes() and packed.read_bytes() == data
    a, b = (tables.images(results.read(path), scores="probability")[0] for path in (folder, packed))
    assert a.equals(b)

    fit = json.loads(beside.read_text())
    beside.write_text(json.dumps(fit | {"run": "another"}))
    done = run_main("scripts/export.py", packed, "--probabilities", "--out", tmp_path / "x.csv")
    assert done.code == 2 and done.err.count("\n") == 1 and str(beside) in done.err


def test_compare_takes_it_beside_a_folder(folder, packed, run_main, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    done = run_main("scripts/compare.py", packed, other)
    assert done.code == 0 and "+0.00" in done.out


def test_it_is_at_most_half_the_folder_and_the_folder_stays(tmp_path, run_main):
    """100 classes, races of about 300 evaluations; an image's errors differ by a twentieth."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pets" / "run"
    options = {"dataset": "pets", "split": "test", "version": "m", "loss": "l2"}
    records.open_run(folder, options, {"images": 20, "arms": [(f"a {k}", f"{k}", k) for k in range(100)]})
    for k in range(20):
        counts = torch.tensor([20] * 5 + [2] * 95)
        l2 = 0.1 * (1 + 0.05 * rng.random(290))
        table = np.stack([l2, np.sqrt(l2) * (1 + 0.003 * rng.random(290)), l2 / 2], 1)
        record = {
            "index": k, "label": 0, "pred": 0, "nfe": 290, "losses": ["l2", "l1", "huber"], "levels": torch.arange(20),
            "noise": torch.arange(20), "counts": counts, "errors": torch.from_numpy(table.astype(np.float32)),
        }  # fmt: skip
        records.save_record(records.record_path(folder, 20, k), record, records.fingerprint(options))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_main(SCRIPT, folder, "--out", tmp_path / "x.parquet").code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (tmp_path / "x.parquet").stat().st_size <= sum(map(len, before.values())) / 2


def test_every_flipped_byte_is_refused_or_harmless(folder, packed, run_main, tmp_path):
    """At 150 places: the table is the right one, or there is none and one line says why."""
    right = without(run_main("scripts/print_acc.py", packed).out, str(packed))
    data, bad, refused = packed.read_bytes(), tmp_path / "bad.parquet", 0
    for at in np.linspace(0, len(data) - 1, 150).astype(int):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        done = run_main("scripts/print_acc.py", bad)
        if done.code == 0:
            assert without(done.out, str(bad)) == right, at
            continue
        assert done.code == 2 and done.err.count("\n") == 1 and str(bad) in done.err, done.err
        refused += 1
    assert refused > 75


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", None])
def test_a_truncated_or_foreign_file_is_refused(packed, run_main, tmp_path, content):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(packed.read_bytes()[:-300] if content is None else content)
    for script in ("print_acc", "compare", "calibrate"):
        done = run_main(f"scripts/{script}.py", bad, *([packed] if script == "compare" else []))
        assert done.code == 2 and done.err.count("\n") == 1 and str(bad) in done.err


def test_a_record_of_another_run_in_it_is_refused(folder, packed, tmp_path):
    """As one of a folder: run.json says other options."""
    run = results.read(folder)
    files = pack.opened(packed).files
    about = json.loads(files["run.json"])
    about["options"]["seed"] = 5
    each = [(path, records.load_record(path) | {"run": "other"}) for path in run.done.values()]
    pack.write(tmp_path / "x.parquet", each, files | {"run.json": json.dumps(about), "checked": ""})
    rows, problems = results.read_rows(results.read(tmp_path / "x.parquet").done.values(), of_run=True)
    assert not rows and len(problems) == 30 and "other options" in problems[0]


def test_what_cannot_be_held_exactly_is_refused(folder, tmp_path):
    record = records.load_record(folder / "00.pt")
    for value in (np.float64(1), {1: 2}, (1, 2), b"x", {"a"}):
        with pytest.raises(InputError):
            pack.write(tmp_path / "x.parquet", [(folder / "00.pt", record | {"more": value})], {"records": 1})
        assert not (tmp_path / "x.parquet").exists()


def test_an_unfinished_run_is_refused(folder, run_main):
    (folder / "07.pt").unlink()
    done = run_main(SCRIPT, folder)
    assert done.code == 2 and "29 of 30" in done.err and not folder.with_name("run.parquet").exists()


def test_a_damaged_record_is_refused(folder, run_main):
    (folder / "07.pt").write_bytes((folder / "08.pt").read_bytes())
    done = run_main(SCRIPT, folder)
    assert done.code == 2 and "07.pt" in done.err and not folder.with_name("run.parquet").exists()


def test_a_pack_is_not_packed_nor_watched(packed, run_main):
    for script in (SCRIPT, "scripts/progress.py"):
        done = run_main(script, packed)
        assert done.code == 2 and done.err.count("\n") == 1
