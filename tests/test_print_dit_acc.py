"""Accuracies by four rules: of records made by hand, then of real runs over parts of the classes and adaptive ones."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, blocks, folder_of, records_of, subset, write_run

from diffusion.io import wording
from diffusion.runs.records import save_record

EVAL, PRINT = "eval_prob_dit.py", "scripts/print_dit_acc.py"
LOSSES = ["l2", "l1", "huber", "vb"]


@pytest.fixture
def count(run_main, monkeypatch):
    """`count(*args) -> Result`: print_dit_acc.py in this process, as a module that its own processes can import."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import print_dit_acc

    return lambda *args: run_main(print_dit_acc, *args)


def table(result) -> dict[str, str]:
    """First column -> the rest of the line."""
    return {line[:16].strip(): line[16:] for line in result.out.splitlines()}


def shares(result) -> dict[str, str]:
    """Rule -> accuracy, of the rules that are printed."""
    return {rule: line.split("%")[0] for rule, line in table(result).items() if "%" in line}


# ---- by hand ----


def run_of(folder: Path, arms=(0, 1, 2, 3), *, images=10, all_arms="0-3", class_of=int, **options) -> Path:
    """A run folder without records, as eval_prob_dit.py leaves it."""
    folder.mkdir(parents=True)
    options = {"dataset": "digits", "split": "test", "seed": 0, "cls": None, "keep": "save_vb"} | options
    options = {"to_keep": [1], "n_samples": [2], "loss": "l2"} | options
    about = {"images": images, "arms": [[arm, f"no. {arm}", class_of(arm)] for arm in arms], "all_arms": all_arms}
    about["indices"] = wording.ranges(range(images))
    (folder / "run.json").write_text(json.dumps({"options": options, **about}))
    return folder


def save(folder: Path, index: int, label: int, errors, **change) -> None:
    """errors: per arm, its [points][l2, l1, huber, vb]."""
    counts = [len(block) for block in errors]
    record = {"index": index, "label": label, "nfe": sum(counts), "losses": LOSSES[: len(errors[0][0])]}
    tensors = {"levels": torch.arange(max(counts)) * 10, "noise": torch.zeros(max(counts), dtype=torch.int64)}
    tensors |= {"counts": torch.tensor(counts), "errors": torch.tensor([row for block in errors for row in block])}
    save_record(folder / f"{index:03d}.pt", record | tensors | change)


# Means over two points that differ; the first point alone would prefer arm 3 everywhere.
#           l2   l1   vb   l2 + vb
MEANS = [
    [1.0, 4.0, 9.0],  # 10
    [4.0, 1.0, 8.0],  # 12
    [9.0, 3.0, 1.0],  # 10
    [2.0, 2.0, 2.0],
]  # 4   fmt: skip
ERRORS = [[[l2 + d, l1 + d, 0.0, vb + d] for d in ((-1.5, 1.5) if arm == 3 else (3.0, -3.0))]
          for arm, (l2, l1, vb) in enumerate(MEANS)]  # fmt: skip


def test_each_rule_has_another_answer(count, tmp_path):
    """L2 says 0, L1 says 1, VLB says 2 and L2+VLB says 3; one image in ten is a 0, two are a 1, and so on."""
    folder = run_of(tmp_path / "digits/run/test")
    for index, label in enumerate([0, 1, 1, 2, 2, 2, 3, 3, 3, 3]):
        save(folder, index, label, ERRORS)
    for at in (folder, folder.parent, folder.parent.parent):  # the split's folder, the run's, the data set's
        result = count(at, "--dataset", "digits")
        assert result.code == 0 and not result.err
        assert shares(result) == {"L2": "10.00", "L1": "20.00", "VLB": "30.00", "L2+VLB": "40.00"}
        assert table(result)["images"] == "10 of 10" and table(result)["classes"] == "4 of 4"
        assert table(result)["NFE per image"] == "8  (in all 80)"
    assert table(result)["L1"] == "20.00%  (95% interval 5.67 to 50.98)"  # Wilson's, of 2 in 10


def test_classes_that_were_dropped_are_no_answers(count, tmp_path):
    """Arm 1 was measured at one point of three only, where it was best; of the others arm 2 is."""
    folder = run_of(tmp_path / "r", to_keep=[2, 1], n_samples=[1, 3], images=1, all_arms="0-2", arms=(0, 1, 2))
    save(folder, 0, 2, [[[5.0, 5, 5, 5]] * 3, [[0.1, 0.1, 0.1, 0.1]], [[6.0, 6, 6, 6], [1.0, 1, 1, 1], [1.0, 1, 1, 1]]])
    result = count(tmp_path)
    assert result.code == 0 and set(shares(result).values()) == {"100.00"} and len(shares(result)) == 4
    assert table(result)["NFE per image"] == "7  (in all 7)"


def test_the_order_of_points_does_not_matter(count, tmp_path):
    """Errors whose sum depends on the order: a run that measured the same ones in another ties with the first."""
    values = [[1.0, 1.0, 1.0, 1.0], [1e-12] * 4, [-1.0] * 4]
    levels = torch.tensor([10, 20, 30])
    for arm, order in ((0, [1, 0, 2]), (1, [0, 2, 1])):  # as they stand, 1e-12 and a little less
        folder = run_of(tmp_path / str(arm), [arm], cls=str(arm), n_samples=[3], images=1, all_arms="0-1")
        save(folder, 0, 0, [[values[k] for k in order]], levels=levels[order])
    result = count(tmp_path)
    assert result.code == 0 and set(shares(result).values()) == {"100.00"}  # the smaller class wins a tie


def test_several_arms_may_be_one_class(count, tmp_path):
    """As in ObjectNet: the arms 409 and 530 are class 0, and 610 class 2."""
    class_of = {409: 0, 530: 0, 610: 2}.get
    for arms, errors in (([409, 610], [[[3.0] * 4], [[2.0] * 4]]), ([530], [[[1.0] * 4]])):
        folder = run_of(
            tmp_path / str(arms[0]), arms, class_of=class_of, all_arms="409 530 610", n_samples=[1], images=2
        )
        save(folder, 0, 0, errors)
        save(folder, 1, 0, [[[4.0] * 4], [[5.0] * 4]] if len(arms) == 2 else [[[6.0] * 4]])
    result = count(tmp_path)
    assert result.code == 0 and shares(result)["L2"] == "100.00" and table(result)["classes"] == "3 of 3"


# ---- what is missing is named, and the rest is counted ----


def two_halves(tmp_path, missing=()) -> tuple[Path, Path]:
    """Arms 0-1 and 2-3 of three images, all with ERRORS; less the (half, image) pairs in `missing`."""
    halves = [run_of(tmp_path / f"r{k}/test", [2 * k, 2 * k + 1], cls=f"{2 * k}-{2 * k + 1}", images=3) for k in (0, 1)]
    for k, folder in enumerate(halves):
        for index in range(3):
            if (k, index) not in missing:
                save(folder, index, 0, ERRORS[2 * k : 2 * k + 2])
    return tuple(halves)


def test_an_image_that_a_part_has_not_measured(count, tmp_path):
    two_halves(tmp_path, [(1, 2)])
    result = count(tmp_path)
    assert result.code == 1 and result.err == "not counted: image 2: classes 2-3 are not measured yet\n"
    assert table(result)["images"] == "2 of 3" and table(result)["classes"] == "4 of 4"
    assert shares(result)["L2"] == "100.00" and shares(result)["L1"] == "0.00"


def test_classes_that_no_run_has(count, tmp_path):
    """Of the others there are accuracies still: a run that goes on class by class can be watched."""
    _, second = two_halves(tmp_path)
    for path in second.iterdir():
        path.unlink()
    result = count(tmp_path)
    assert result.code == 1 and result.err == "not counted: no run has classes 2-3\n"
    assert table(result)["classes"] == "2 of 4" and table(result)["images"] == "3 of 3"
    assert shares(result) == {"L2": "100.00", "L1": "0.00", "VLB": "0.00", "L2+VLB": "100.00"}


def test_a_run_that_has_only_begun(count, tmp_path):
    two_halves(tmp_path, [(1, 0), (1, 1), (1, 2)])
    result = count(tmp_path)
    assert result.code == 1 and result.err == "not counted: no run has classes 2-3\n"
    assert table(result)["classes"] == "2 of 4"
    for path in tmp_path.rglob("*.pt"):
        path.unlink()
    result = count(tmp_path)
    assert result.code == 1 and table(result) == {"images": "0 of 3", "classes": "0 of 4"}
    assert "no run has classes 0-3" in result.err and "images without a record: 0-2" in result.err


@pytest.mark.parametrize("change", [{"errors": None}, {"errors": torch.zeros(1, 4)}, None])
def test_files_that_cannot_be_counted(count, tmp_path, change):
    """Whatever is wrong with one file is one line that names it, and costs one image."""
    first, _ = two_halves(tmp_path)
    path = first / "001.pt"
    if change:
        torch.save(torch.load(path) | change, path)
    else:
        path.write_bytes(b"half")
    result = count(tmp_path)
    assert result.code == 1 and table(result)["images"] == "2 of 3" and shares(result)["L2"] == "100.00"
    named, lacks = result.err.splitlines()
    assert named.startswith("not counted: ") and str(path) in named
    assert lacks == "not counted: image 1: classes 0-1 are not measured yet"


def test_many_problems_are_cut_short(count, tmp_path):
    folder = run_of(tmp_path / "r", images=30)
    for index in range(30):
        (folder / f"{index:03d}.pt").write_bytes(b"half")
    result = count(tmp_path)
    assert result.code == 1 and len(result.err.splitlines()) == 21 and "12 more" in result.err


# ---- what is no set of runs is refused in one line ----


@pytest.mark.parametrize("option, these, those", [
    ("seed", 0, 1), ("split", "test", "train"), ("keep", "save_vb", None), ("noise", "ab", None), ("dtype", "x", "y"),
    ("levels", None, "0.2-0.8"), ("n_samples", [200], [25]), ("search", "race", None), ("max_samples", 20, 10),
])  # fmt: skip
def test_runs_of_other_options(count, tmp_path, option, these, those):
    run_of(tmp_path / "a", [0, 1], **{option: these})
    run_of(tmp_path / "b", [2, 3], **{option: those})
    error = count(tmp_path).error
    assert error.where == str(tmp_path / "b")
    found = "levels is 200 and 25" if option == "n_samples" else f"{option} is {these!r} and {those!r}"
    assert found in error.problem
    assert count(tmp_path / "a").code == 1  # one of them can be named: it is incomplete, but no mixture


def test_runs_of_the_same_points_are_merged(count, tmp_path):
    """How the classes were cut, how many were kept on the way and which loss decided may differ."""
    whole = run_of(tmp_path / "a", images=1, n_samples=[1, 2], to_keep=[3, 1], loss="l1")
    save(whole, 0, 3, [block if arm else block[:1] for arm, block in enumerate(ERRORS)])
    part = run_of(tmp_path / "b", [0], images=1, cls="0")
    save(part, 0, 3, ERRORS[:1])
    result = count(tmp_path)  # class 0, dropped in the first, is the second's
    assert result.code == 0 and shares(result) == {"L2": "0.00", "L1": "0.00", "VLB": "0.00", "L2+VLB": "100.00"}
    save(part, 0, 0, ERRORS[:1])
    save(whole, 0, 0, [block if arm else block[:1] for arm, block in enumerate(ERRORS)])
    assert shares(count(tmp_path))["L2"] == "100.00"


def test_runs_of_the_other_script(count, tmp_path):
    """They are passed over, and are not enough."""
    write_run(tmp_path / "vdigits", np.ones((1, 3, 2)), [0], dataset="digits")
    assert count(tmp_path).error.where == str(tmp_path)
    folder = run_of(tmp_path / "A", images=1)
    save(folder, 0, 0, ERRORS)
    assert shares(count(tmp_path)) == shares(count(folder))


# ---- many records, in several processes ----


def test_chunks_in_parallel_are_the_serial_result(count, tmp_path, monkeypatch):
    """Twelve records in chunks of one by several processes; a broken one and a missing one among them."""
    draw = torch.Generator().manual_seed(0)
    for k, folder in enumerate(run_of(tmp_path / f"r{k}", [2 * k, 2 * k + 1], images=6) for k in (0, 1)):
        for index in range(6):
            save(folder, index, index % 4, torch.rand(2, 2, 4, generator=draw).tolist())
        (folder / f"{k}.pt").write_bytes(b"half")  # another name of image k: the number counts
        (folder / f"00{k}.pt").unlink()
    import print_dit_acc

    serial = count(tmp_path)
    assert serial.code == 1 and table(serial)["images"] == "4 of 6" and len(shares(serial)) == 4
    assert serial.err.count(": no record: ") == 2 and "image 0: classes 0-1" in serial.err
    used = []

    class Pool(ProcessPoolExecutor):
        def map(self, *args):
            used.append(args)
            return super().map(*args)

    monkeypatch.setattr(print_dit_acc, "ProcessPoolExecutor", Pool)
    assert count(tmp_path) == serial and not used
    monkeypatch.setattr(print_dit_acc, "CHUNK", 1)
    assert count(tmp_path) == serial and len(used) == 2


# ---- of real runs ----


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list:
    return subset(tmp_path_factory.mktemp("subset"), *range(6))


@pytest.fixture(scope="module")
def grid(dit_folder, images) -> list:
    model = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *images]
    return [*model, "--t_interval", 125, "--randomize_noise", "--save_vb"]


def relabel(folders, answers: dict[int, int]) -> None:
    """Say in the records of image k that it is of class answers[k]."""
    for folder in folders:
        for path in folder.glob("*.pt"):
            save_record(path, torch.load(path) | {"label": answers[int(path.stem)]})


def test_parts_of_the_classes_are_merged_to_the_whole(count, run_once, run_main, tmp_path, grid):
    """The same table as of all classes at once, by every rule, whatever the parts and whatever their folders' names."""
    whole = run_once(EVAL, *grid)
    wanted = count(folder_of(whole).parents[1], "--dataset", "digits")
    assert wanted.code == 0 and list(shares(wanted)) == ["L2", "L1", "VLB", "L2+VLB"]
    parts = [folder_of(run_main(EVAL, *grid, "--cls", word)) for word in ("5-9", "0-3", "4")]
    merged = count(tmp_path / "data/digits", "--dataset", "digits")
    assert merged == wanted
    for k, folder in enumerate(parts):
        folder.parent.rename(tmp_path / f"data/digits/{k}")
    folders = [tmp_path / f"data/digits/{k}/test" for k in range(len(parts))]
    assert count(tmp_path / "data/digits") == wanted
    # the predictions themselves: where the records say that they are right, all are
    columns = {"L2": [0], "L1": [1], "VLB": [3], "L2+VLB": [0, 3]}
    for rule, losses in columns.items():
        answers = {
            index: int(np.argmin([b[:, losses].mean(0, dtype=np.float64).sum() for b in blocks(record)]))
            for index, record in records_of(whole).items()
        }
        relabel(folders, answers)
        assert shares(count(tmp_path / "data/digits"))[rule] == "100.00"


def test_an_adaptive_run_alone(count, run_main, tmp_path, dit_folder, images):
    """Its L2 accuracy is that of its own answers; the other rules choose among the classes that it measured whole."""
    args = ["--dataset", "digits", "--version", dit_folder, "--device", "cpu", *images]
    result = run_main(EVAL, *args, "--to_keep", 3, 1, "--n_samples", 2, 8)
    printed = count(tmp_path / "data/digits")
    assert printed.code == 0 and list(shares(printed)) == ["L2", "L1"]
    own = table(run_main("scripts/print_acc.py", folder_of(result)))
    assert table(printed)["L2"] == own["top-1 accuracy"]
    assert table(printed)["NFE per image"] == own["NFE per image"] == "38  (in all 228)"
    records = records_of(result)
    for column, rule in enumerate(("L2", "L1")):
        means = {k: [b[:, column].mean(dtype=np.float64) if len(b) == 8 else np.inf for b in blocks(r)]
                 for k, r in records.items()}  # fmt: skip
        relabel([folder_of(result)], {k: int(np.argmin(row)) for k, row in means.items()})
        assert shares(count(tmp_path / "data/digits"))[rule] == "100.00"


def test_print_acc_of_a_part_of_the_classes(run_main, grid):
    """Of these, none is the answer: no accuracy."""
    folder = folder_of(run_main(EVAL, *grid, "--cls", "3"))
    script = "scripts/print_acc.py"
    printed = run_main(script, folder)
    found = table(printed)
    assert printed.code == 0 and set(found) == {"run", "model", "data", "images", "NFE per image"}
    assert found["images"] == "6 of 6" and found["NFE per image"] == "8  (in all 48)"


def test_from_the_shell(run_script, tmp_path):
    """In processes of its own: 1501 records are four chunks."""
    folder = run_of(tmp_path / "digits/r/test", [0], images=1501, all_arms="0", n_samples=[1])
    save(folder, 0, 0, [[[1.0] * 4]])
    whole = torch.load(folder / "000.pt")
    for index in range(1, 1501):
        torch.save(whole | {"index": index}, folder / f"{index}.pt")
    result = run_script(PRINT, tmp_path / "digits", "--dataset", "digits")
    assert result.code == 0 and not result.err and table(result)["images"] == "1501 of 1501"
    assert set(shares(result)) == {"L2", "L1", "VLB", "L2+VLB"} and set(shares(result).values()) == {"100.00"}
