"""Runs that travel: exported, compared and put together; on runs by hand, then from the command line to the file."""

import csv
import html
import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, SCRIPT, folder_of, import_script, race_options, rewrite_run, subset, write_run
from PIL import Image
from scipy.stats import binomtest

from diffusion import tables
from diffusion.matching import scores as matching_scores
from diffusion.runs import differences, records, results, show, summary
from diffusion.stats import calibration, intervals, metrics

ACC, EXPORT, COMPARE = "scripts/print_acc.py", "scripts/export.py", "scripts/compare.py"
ENSEMBLE = "scripts/ensemble.py"
WORDS = ["cat", "dog", "owl"]


def drawn(seed: int, labels: np.ndarray, K: int = 3, P: int = 8, gap: float = 0.3) -> np.ndarray:
    """Errors whose right class is better by `gap`, in units of their spread."""
    errors = 1 + np.random.default_rng(seed).normal(size=(len(labels), K, P))
    errors[np.arange(len(labels)), labels] -= gap
    return errors


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(9).integers(0, 3, 120)


@pytest.fixture(scope="module")
def two(tmp_path_factory, labels):
    """Two runs on the same images, with files and groups."""
    root = tmp_path_factory.mktemp("two")
    about = lambda k: {"file": f"{WORDS[labels[k]]}/{k}.png", "group": "day" if k % 3 else "night"}  # noqa: E731
    return [write_run(root / m, drawn(s, labels), labels.tolist(), model=m, about=about) for s, m in enumerate("ab")]


# ---- rows and summaries ----


def rows_of(folder: Path) -> list[dict]:
    return [records.load_record(path) for path in records.finished(folder).values()]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_rows_are_the_records(run_main, tmp_path, two, suffix):
    out = tmp_path / f"x.{suffix}"
    done = run_main(EXPORT, *two, "--scores", "--out", out)
    assert done.code == 0, done.err
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda path: pd.read_json(path, lines=True)}
    table = read[suffix](out)
    assert len(table) == 240 and table.run.nunique() == 2
    for folder in two:
        mine = table[table.run == f"{folder.parent.name}/{folder.name}"].reset_index()
        for k, record in enumerate(rows_of(folder)):
            row = mine.loc[k]
            assert row["index"] == k and row.file == record["file"] and row.group == record["group"]
            assert (row.label, row.pred, row.nfe) == (record["label"], record["pred"], record["nfe"])
            assert (row.label_name, row.pred_name) == (WORDS[record["label"]], WORDS[record["pred"]])
            assert row.right == (record["label"] == record["pred"])
            scores = calibration.scores(record, np.arange(3), np.arange(3), "l2")
            assert [row[f"score_{name}"] for name in WORDS] == pytest.approx(scores.tolist(), abs=1e-12)
            votes = metrics.votes(record, np.arange(3), "l2")
            assert row.votes == pytest.approx(votes[record["pred"]] / 8)


def test_numbers_of_jsonl_are_the_same_bits(run_main, tmp_path, two):
    """Also those that need 17 digits; a class that was not measured is null, which all readers of JSON take."""
    folder = shutil.copytree(two[0], tmp_path / "some/run")
    record = records.load_record(folder / "000.pt")
    other = (record["pred"] + 1) % 3
    parts = list(record["errors"].split(record["counts"].tolist()))
    parts[other], record["counts"][other] = parts[other][:0], 0
    torch.save(record | {"errors": torch.cat(parts)}, folder / "000.pt")
    assert run_main(EXPORT, folder, "--scores", "--out", tmp_path / "x.jsonl").code == 0
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    table, _ = tables.images(tables.read(folder), scores="score")
    assert lines[0][f"score_{WORDS[other]}"] is None
    for line, (_, row) in zip(lines, table.iterrows(), strict=True):
        for name in WORDS:
            value = line[f"score_{name}"]
            assert value == row[f"score_{name}"] or (value is None and not np.isfinite(row[f"score_{name}"]))
    assert any(len(repr(line["score_cat"]).strip("-0.")) >= 16 for line in lines)


def test_columns_of_classes_with_one_name(tmp_path):
    """The class id tells them apart, in the order of class ids."""
    errors = np.random.default_rng(0).normal(1, 0.1, (4, 3, 8))
    folder = write_run(tmp_path / "a", errors, [0, 1, 2, 0], words=["crane", "cat", "crane"])
    table, _ = tables.images(tables.read(folder), scores="score")
    assert list(table.columns)[-3:] == ["score_crane_0", "score_cat", "score_crane_2"]


def test_images_fitted_on_are_marked(run_main, tmp_path, two):
    folder = shutil.copytree(two[0], tmp_path / "some/run")
    assert run_main("scripts/calibrate.py", folder, "--fit", 0.3, "--seed", 4).code == 0
    assert run_main(EXPORT, folder, "--probabilities", "--out", tmp_path / "x.csv").code == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert table.fitted_on.tolist() == calibration.fitted_on(np.arange(120), 0.3, 4).tolist()
    assert table[[f"probability_{name}" for name in WORDS]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert run_main(EXPORT, folder, "--scores", "--out", tmp_path / "y.csv").code == 0
    assert "fitted_on" not in pd.read_csv(tmp_path / "y.csv")


# ---- results.json ----


def test_results_of_a_finished_run_are_its_export(run_main, tmp_path, two):
    folder = shutil.copytree(two[0], tmp_path / "some/run")
    assert summary.write_results(folder) == folder / "results.json"
    assert run_main(EXPORT, folder, "--out", tmp_path / "x.json").code == 0
    assert json.loads((folder / "results.json").read_text()) == json.loads((tmp_path / "x.json").read_text())
    assert run_main(ACC, folder).out == run_main(ACC, folder).out  # readers read a run with it


def test_results_are_those_of_a_finished_run_alone(tmp_path, two):
    """Not while an image is to do; one that cannot be read is none to wait for."""
    folder = shutil.copytree(two[0], tmp_path / "run")
    summary.write_results(folder)
    (folder / "007.pt").unlink()
    assert summary.write_results(folder) is None and not (folder / "results.json").exists()
    records.note_failure(folder / "007.pt", "cannot be read")
    assert summary.write_results(folder) is not None
    found = json.loads((folder / "results.json").read_text())
    assert (found["images"], found["of"]) == (119, 120)


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(tmp_path, two):
    folder = shutil.copytree(two[0], tmp_path / "run")
    (folder / "results.json").mkdir()  # as a read-only folder, also for root
    assert summary.write_results(folder) is None


def test_results_without_labels_or_without_answers(tmp_path):
    errors = np.random.default_rng(0).normal(1, 0.1, (4, 3, 8))
    folder = write_run(tmp_path / "a", errors, [-1, -1, -1, -1])
    summary.write_results(folder)
    found = json.loads((folder / "results.json").read_text())
    assert found["metrics"] == {} and found["images"] == 4
    part = write_run(tmp_path / "b", errors, [0, 1, 2, 0], cls="0-1")
    assert summary.write_results(part) is None


def test_names_of_runs_are_distinct(run_main, tmp_path):
    """Those of eval_prob_dit.py, whose folders are named by the split, too; not one run given twice."""
    rng = np.random.default_rng(0)
    errors, labels = rng.normal(1, 0.1, (4, 3, 8)), [0, 1, 2, 0]
    one, other = (write_run(tmp_path / name / "DiT" / "test", errors, labels) for name in ("mine_a", "mine_b"))
    assert run_main(EXPORT, one, other, "--out", tmp_path / "x.csv").code == 0
    assert set(pd.read_csv(tmp_path / "x.csv").run) == {"mine_a/DiT/test", "mine_b/DiT/test"}
    said = run_main(COMPARE, one, other)
    assert "| mine_a | mine_b |" in re.sub(r" +", " ", said.out)
    done = run_main(EXPORT, one, one, "--out", tmp_path / "y.csv")
    assert done.code == 2 and "mine_a/DiT/test: given twice" in done.err and not (tmp_path / "y.csv").exists()


def test_a_summary_has_what_print_acc_prints(run_main, tmp_path, two):
    assert run_main(EXPORT, two[0], "--out", tmp_path / "x.json").code == 0
    found = json.loads((tmp_path / "x.json").read_text())
    rows = rows_of(two[0])
    right = np.mean([r["label"] == r["pred"] for r in rows])
    assert found["metrics"]["acc1"] == pytest.approx(right) and found["task"] == "zeroshot_classification"
    interval = found["intervals"]["acc1"]
    assert (interval["low"], interval["high"]) == pytest.approx(metrics.wilson(right, 120))
    printed = run_main(ACC, two[0]).out
    assert f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}" in printed
    assert found["images"] == found["of"] == 120 and found["nfe_per_image"] == 24
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= found.keys()  # CLIP_benchmark's
    assert run_main(EXPORT, *two, "--out", tmp_path / "y.json").code == 0
    assert [each["model"] for each in json.loads((tmp_path / "y.json").read_text())] == ["a", "b"]


def test_every_eval_ever(run_main, tmp_path, two):
    """Valid under the schema's structure, and refused by it when a required field is gone."""
    schema = json.loads((ROOT / "tests/data/every_eval_ever_0.3.0.json").read_text())
    words = ["--format", "eee", "--organization", "A lab", "--out", tmp_path / "e.json"]
    assert run_main(EXPORT, two[0], *words).code == 0
    found = json.loads((tmp_path / "e.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    score = found["evaluation_results"][0]["score_details"]
    assert score["score"] == np.mean([r["label"] == r["pred"] for r in rows_of(two[0])])
    del found["evaluation_results"][0]["metric_config"]["lower_is_better"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(found)


def test_matching_runs_travel_too(run_main, tmp_path):
    words = ["--dataset", "digits-pairs", "--model", "clip", "--version", "digits", "--limit", 9, "--device", "cpu"]
    done = run_main("run_winoground.py", *words)
    assert done.code == 0, done.err
    (folder,) = {path.parent for path in (tmp_path / "data").rglob("run.json")}
    assert run_main(EXPORT, folder, "--out", tmp_path / "x.csv").code == 0
    table = pd.read_csv(tmp_path / "x.csv")
    assert len(table) == 9 and {"id", "tags", "text", "image", "right"} <= set(table.columns)
    assert (table.right == ((table.text > 0) & (table.image > 0))).all()
    assert run_main(EXPORT, folder, "--out", tmp_path / "x.json").code == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["metrics"]["text_score"] == pytest.approx((table.text > 0).mean())
    assert found["metrics"]["group_score"] == pytest.approx(table.right.mean())
    assert matching_scores.write_results(results.read(folder, answers=False)) == folder / "results.json"
    assert json.loads((folder / "results.json").read_text()) == found
    next(folder.glob("*.pt")).unlink()
    assert matching_scores.write_results(results.read(folder, answers=False)) is None


# ---- side by side ----


def test_a_file_name_that_is_not_utf8(tmp_path):
    folder = write_run(tmp_path / "run", np.eye(3)[None, :, :1], [0], about=lambda k: {"file": "cat\udcff.png"})
    for scores in (None, "score"):
        table, problems = tables.images(results.read(folder), scores=scores)
        assert table.file.tolist() == ["cat?.png"] and not problems


def test_compare_by_hand(run_main, tmp_path, two):
    out = tmp_path / "c.csv"
    done = run_main(COMPARE, *two, "--out", out)
    assert done.code == 0, done.err
    a, b = (np.array([r["label"] == r["pred"] for r in rows_of(folder)]) for folder in two)
    first, second = (list(csv.DictReader(part.splitlines())) for part in out.read_text().split("\n\n"))
    for row, hits in zip(first, (a, b), strict=True):
        assert float(row["right, %"].split()[0]) == pytest.approx(100 * hits.mean(), abs=0.005)
    (pair,) = second
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    assert (int(pair["only first right"]), int(pair["only second right"])) == (only_a, only_b)
    assert float(pair["p"]) == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=0.05)
    difference = pair["difference (second - first), points"].removeprefix("'")  # not a formula
    assert difference.startswith(f"{100 * (b.mean() - a.mean()):+.2f} (")
    assert difference in done.out
    for suffix, mark in {"md": "|:--", "tex": r"\toprule"}.items():
        assert run_main(COMPARE, *two, "--out", tmp_path / f"c.{suffix}").code == 0
        assert (tmp_path / f"c.{suffix}").read_text().count(mark) >= 2


def test_compare_takes_the_images_that_both_have(run_main, tmp_path, two, labels):
    half = write_run(tmp_path / "half", drawn(5, labels), labels.tolist(), model="half")
    for k in range(60):
        records.record_path(half, 120, k).unlink()
    done = run_main(COMPARE, two[0], half)
    assert done.code == 0 and "On the 60 images that all runs have done" in done.out


def test_compare_counts_a_text_score_beside_a_race(run_main, tmp_path):
    """A grid's examples ask for the image too, which a race cannot say."""
    words = ["--dataset", "digits-pairs", "--version", "digits", "--limit", 20, "--device", "cpu"]
    race = ["--search", "race", "--max_samples", 4, "--randomize_noise"]
    for more in (["--model", "clip"], race):
        done = run_main("run_winoground.py", *words, *more)
        assert done.code == 0, done.err
    clip, raced = sorted(path.parent for path in (tmp_path / "data").rglob("run.json"))
    assert run_main(EXPORT, clip, "--out", tmp_path / "x.csv").code == 0
    of_clip = pd.read_csv(tmp_path / "x.csv")
    assert (of_clip.right != (of_clip.text > 0)).any()
    done = run_main(COMPARE, clip, raced, "--out", tmp_path / "c.csv")
    assert done.code == 0 and "By the text score alone" in done.out, done.err
    shown = next(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert float(shown["right, %"].split()[0]) == pytest.approx(100 * (of_clip.text > 0).mean(), abs=0.005)


@pytest.fixture(scope="module")
def four(tmp_path_factory, labels):
    """Two models on each of two data sets, the second with other images."""
    root, found = tmp_path_factory.mktemp("four"), {}
    for data, of_data in (("pets", labels), ("birds", labels[:90])):
        for model, gap in (("a", 0.3), ("b", 0.6)):
            errors = drawn(len(found), of_data, gap=gap)
            folder = write_run(root / data / model, errors, of_data.tolist(), model=f"hub/{model}", dataset=data)
            found[data, model] = folder
    return found


def test_compare_over_data_sets(run_main, tmp_path, four):
    """Models down and data sets across; each pair on each data set, with the figures of compare.py on it alone."""
    names = ["First", "Second", "First", "Second"]
    done = run_main(COMPARE, *four.values(), "--names", *names, "--out", tmp_path / "c.csv")
    assert done.code == 0, done.err
    parts = [list(csv.DictReader(part.splitlines())) for part in (tmp_path / "c.csv").read_text().split("\n\n")]
    accuracy, nfe, pairs = parts
    for row, model in zip(accuracy, "ab", strict=True):
        assert row["right, %"] == {"a": "First", "b": "Second"}[model]
        for data in ("pets", "birds"):
            hits = [r["label"] == r["pred"] for r in rows_of(four[data, model])]
            assert row[data] == show.in_percent(*metrics.share(np.array(hits)))
    assert [(row["NFE"], row["pets"], row["birds"]) for row in nfe] == [("First", "24", "24"), ("Second", "24", "24")]
    assert [(row["data"], row["first"], row["second"]) for row in pairs] == [
        ("pets", "First", "Second"), ("birds", "First", "Second"),
    ]  # fmt: skip
    for row in pairs:
        alone = tmp_path / "alone.csv"
        assert run_main(COMPARE, *(four[row["data"], model] for model in "ab"), "--out", alone).code == 0
        (wanted,) = list(csv.DictReader(alone.read_text().split("\n\n")[1].splitlines()))
        for key in wanted.keys() - {"first", "second"}:
            assert row[key] == wanted[key]


def test_a_model_that_lacks_a_data_set(run_main, four):
    done = run_main(COMPARE, *list(four.values())[:3])
    assert done.code == 0, done.err
    row = next(line for line in done.out.splitlines() if line.startswith("| b "))
    assert [cell.strip() for cell in row.split("|")][3] == "-"


def test_a_tex_names_runs_and_no_folders(run_main, tmp_path, two, four):
    out = tmp_path / "c.tex"
    assert run_main(COMPARE, *two, "--names", "CLIP 50%", "SD_2", "--out", out).code == 0
    text = out.read_text()
    assert r"CLIP 50\%" in text and r"SD\_2" in text
    assert "folder" not in text and all(folder.parent.name not in text for folder in two)
    assert run_main(COMPARE, *four.values(), "--out", out).code == 0
    assert "folder" not in out.read_text()


@pytest.mark.parametrize(
    "cell, wanted",
    [
        ("1.9e-06", r"$1.9\cdot10^{-6}$"), ("0.25", "0.25"), (12, "12"), ("-", "-"),
        ("-2.50 (-9.00 to +4.00)", "$-$2.50 ($-$9.00 to +4.00)"),
    ],
)  # fmt: skip
def test_numbers_in_tex(cell, wanted):
    assert import_script(COMPARE).number_in_latex(cell) == wanted


def test_tables_have_the_same_numbers_in_every_format(run_main, tmp_path, two):
    """Numbers on the right; a share of 65.0 is nowhere 65."""
    found = {}
    for suffix in ("csv", "md", "tex"):
        done = run_main(COMPARE, *two, "--out", tmp_path / f"c.{suffix}")
        found[suffix] = (tmp_path / f"c.{suffix}").read_text()
    *_, line = found["csv"].splitlines()
    (cells,) = csv.reader([line])
    assert re.fullmatch(r"\d+\.\d", cells[4])
    in_md = [cell.strip() for cell in found["md"].splitlines()[-1].strip("|").split("|")]
    assert in_md == [cell.lstrip("'") for cell in cells] and found["md"].splitlines()[-1] in done.out
    in_tex = found["tex"].split("\\midrule\n")[-1].split(" \\\\")[0].split(" & ")
    assert in_tex[3:] == [import_script(COMPARE).number_in_latex(cell) for cell in in_md[3:]]
    assert r"\begin{tabular}{llrrrrr}" in found["tex"] and "second $-$ first" in found["tex"]


@pytest.fixture(scope="module")
def worded(tmp_path_factory, labels):
    """Two runs that differ only in their template."""
    folders = []
    for k, template in enumerate(("a photo of a(n) {}.", "a drawing of a {}.")):
        few = labels[:12]
        folder = write_run(tmp_path_factory.mktemp("worded") / f"m_prompts-{k}", drawn(k, few), few.tolist())
        run = json.loads((folder / "run.json").read_text())
        run["arms"] = [(template.replace("(n)", "").format(word), word, k) for k, word in enumerate(WORDS)]
        source = "the default template" if k == 0 else "--template"
        run["prompts"] = f"3 prompts of 3 classes, from {source} {template!r}, such as 'a cat', 'a dog', 'an owl'"
        run["options"]["prompts"] = f"{k}"
        rewrite_run(folder, run)
        folders.append(folder)
    return folders


def test_runs_are_named_by_their_prompts_if_only_these_differ(run_main, tmp_path, worded):
    named = [repr("a photo of a(n) {}."), repr("a drawing of a {}.")]
    assert list(tables.read_same(worded)) == named
    assert run_main(COMPARE, *worded, "--out", tmp_path / "c.csv").code == 0
    first, _ = (list(csv.DictReader(part.splitlines())) for part in (tmp_path / "c.csv").read_text().split("\n\n"))
    assert [row["run"].lstrip("'") for row in first] == [name.lstrip("'") for name in named]
    lines = run_main(ACC, *worded).out.splitlines()[1:]
    assert all(name in line for name, line in zip(named, lines, strict=True))
    for more, wanted in (([], named), (["--names", "photo", "drawing"], ["photo", "drawing"])):
        out = tmp_path / "page.html"
        assert run_main("scripts/report.py", *worded, *more, "--out", out).code == 0
        headings = re.findall(r"<h2 id=\"run\d-top\">(.*?)</h2>", out.read_text())
        assert [html.unescape(each) for each in headings] == [f"Run {k + 1}: {each}" for k, each in enumerate(wanted)]
    assert run_main("scripts/report.py", *worded, "--names", "one").code == 2
    out = tmp_path / "x.json"
    assert run_main(EXPORT, *worded, "--out", out).code == 0
    assert [named[k] in each["prompts"] for k, each in enumerate(json.loads(out.read_text()))] == [True, True]


@pytest.mark.parametrize(
    "source, first, name",
    [
        ("/home/me/own.csv", "my cat", "own.csv: 'my cat'"),
        ("--prompts", "my cat", "'my cat'"),
        (None, "my cat", "'my cat'"),
        ("--template 'one {}' 'two {}'", "one cat", "'one {}' 'two {}'"),
    ],
)
def test_prompts_in_a_few_words(source, first, name):
    """The first prompt is one that the other run does not have there; class ids are no prompts."""
    about = {"arms": [["the same", "x", 0], [first, "cat", 1]]}
    if source:
        about["prompts"] = f"2 prompts of 2 classes, from {source}, such as 'the same', {first!r}"
    other = {"arms": [["the same", "x", 0], ["a cat", "cat", 1]]}
    ids = {"arms": [[0, "x", 0], [1, "cat", 1]]}
    assert differences.prompts_that_differ([about, other, ids]) == [name, "'a cat'", ""]
    assert differences.prompts_that_differ([about, about, ids]) == [""] * 3


@pytest.mark.parametrize("names", [["one"], ["one", "one"]])
def test_names_are_one_for_each_folder_and_distinct(run_main, two, names):
    done = run_main(COMPARE, *two, "--names", *names)
    assert done.code == 2 and done.err.count("\n") == 1 and f"--names {' '.join(names)}" in done.err and not done.out


def test_a_picture_is_of_one_data_set(run_main, tmp_path, four):
    done = run_main(COMPARE, *four.values(), "--picture", tmp_path / "p.png")
    assert done.code == 2 and "one data set" in done.err and not (tmp_path / "p.png").exists()


# ---- text ----


@pytest.fixture
def wide() -> pd.DataFrame:
    """Five rows with all kinds of cells, then columns of scores; the last rows are of a run with other classes."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "run": ["a", "b,c", 'say "x"', "two\nlines", "\u96ea"], "index": range(5), "right": [True, False] * 2 + [True],
        "margin": [0.1, np.inf, np.nan, 1e-7, 1e22], "file": ["x.png", None, "=1+1", "-3", ""],
    })  # fmt: skip
    for k in range(4):
        table[f"score_{k}"] = -rng.random(5) * 10.0 ** rng.integers(-12, 3, 5)
    table["score_same"] = [0.0, -np.inf, np.nan, -0.0, -5e-324]
    return table


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_csv_in_parts_is_that_of_pandas(wide, at_once, monkeypatch):
    monkeypatch.setattr(tables, "AT_ONCE", at_once)
    wanted = wide.replace({"file": {"=1+1": "'=1+1"}}).to_csv(index=False, lineterminator="\n")
    assert "".join(tables.to_csv(wide)) == wanted
    assert "".join(tables.to_csv(wide[:0])) == wanted.splitlines()[0] + "\n"


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_json_lines_in_parts_read_back(wide, at_once, monkeypatch):
    monkeypatch.setattr(tables, "AT_ONCE", at_once)
    lines = list(tables.to_json_lines(wide))
    for line, row in zip(lines, wide.to_dict(orient="records"), strict=True):
        finite = {}
        for name, value in row.items():
            finite[name] = None if isinstance(value, float) and not np.isfinite(value) else value
        assert line == json.dumps(finite, ensure_ascii=False) + "\n"


# ---- together ----


def test_a_product_beats_each_where_they_err_apart(run_main, tmp_path, two, labels):
    """Against a plain softmax of the weighted scores; on images that were not fitted on alone."""
    done = run_main(ENSEMBLE, *two, "--fit", 0.5)
    assert done.code == 0, done.err
    (folder,) = {path.parent for path in (tmp_path / "data").rglob("run.json")}
    run = records.read_run(folder)
    held = ~calibration.fitted_on(np.arange(120), 0.5, 0)
    there = {r["index"]: r for r in rows_of(folder)}
    assert sorted(there) == np.flatnonzero(held).tolist() and run["images"] == held.sum()
    weights = run["options"]["weights"]
    assert min(weights) > 0
    for k, record in there.items():
        total = np.zeros(3)
        for w, each in zip(weights, two, strict=True):
            total += w * calibration.scores(rows_of_one(each, k), np.arange(3), np.arange(3), "l2")
        p = np.exp(total - total.max())
        assert np.exp(-record["errors"][:, 0].double().numpy()) == pytest.approx(p / p.sum(), rel=1e-5)
        assert record["pred"] == total.argmax() and record["nfe"] == 48
    accuracy = {f: np.mean([r["label"] == r["pred"] for r in rows_of(f) if held[r["index"]]]) for f in (*two, folder)}
    assert accuracy[folder] > max(accuracy[f] for f in two)  # as independent errors let it
    assert run_main(COMPARE, *two, folder).code == 0  # a run like others
    again = run_main(ENSEMBLE, *two, "--fit", 0.5)
    assert again.code == 0 and again.out == done.out


def rows_of_one(folder: Path, index: int) -> dict:
    return records.load_record(records.record_path(folder, 120, index))


def test_fitted_weights_are_the_likeliest():
    """No weight nearby is better; a model that says nothing counts for nothing."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 300)
    scores = rng.normal(size=(300, 3, 4))
    scores[np.arange(300), 0, label] += 2
    scores[np.arange(300), 1, label] += 1
    scores -= scores.max(2, keepdims=True)
    w = calibration.fit_weights(scores, label)
    assert w[0] > w[1] > 0.2 > abs(w[2])

    def nll(w: np.ndarray) -> float:
        return calibration.nll(calibration.probabilities(np.tensordot(w, scores, (0, 1)), 1), label)

    for step in np.vstack([np.eye(3), -np.eye(3)]):
        assert nll(w) < nll(np.maximum(w + 0.2 * step, 0)) + 1e-4


def test_votes_and_a_tie(run_main, tmp_path, labels):
    """Two of three; and where all differ, the first that was named."""
    answers = [[0, 1, 2], [1, 1, 2], [2, 0, 2]]  # of three runs, of three images
    runs = []
    for r, said in enumerate(answers):
        errors = np.ones((3, 3, 2))
        errors[np.arange(3), said] = 0.5
        runs.append(write_run(tmp_path / f"r{r}", errors, [1, 1, 2], model=f"r{r}"))
    done = run_main(ENSEMBLE, *runs, "--decide", "vote")
    assert done.code == 0 and "66.67%" in done.out
    (folder,) = {path.parent for path in (tmp_path / "data").rglob("run.json")}
    assert [r["pred"] for r in rows_of(folder)] == [0, 1, 2]
    assert run_main(ACC, folder, "--top", 2).code == 0
    assert run_main(ACC, folder, "--loss", "l1").code == 2


def test_a_tie_of_two_votes_each(run_main, tmp_path):
    """The first run's, though its class is the larger and its ally the last."""
    runs = []
    for r, said in enumerate([2, 0, 0, 2]):
        errors = np.ones((1, 3, 2))
        errors[0, said] = 0.5
        runs.append(write_run(tmp_path / f"r{r}", errors, [2], model=f"r{r}"))
    assert "100.00%" in run_main(ENSEMBLE, *runs, "--decide", "vote").out


# ---- figures of other fields ----


def test_metrics_of_print_acc(run_main, two, labels):
    done = run_main(ACC, two[0], "--metrics", "classes", "groups", "votes")
    assert done.code == 0, done.err
    rows = rows_of(two[0])
    for group in ("day", "night"):
        hits = [r["label"] == r["pred"] for r in rows if r["group"] == group]
        assert f"group {group} " in done.out and f"{100 * np.mean(hits):.2f}%" in done.out
    assert "macro F1" in done.out and "votes if wrong" in done.out and "worst, group" in done.out
    refused = run_main(ACC, two[0], "--metrics", "two-class").error
    assert refused.where == "--metrics two-class" and "3 classes" in refused.problem


def test_a_class_without_images_has_no_recall(run_main, tmp_path):
    """Of three classes the last has no image and one answer, the second one image and no answer."""
    errors = np.ones((3, 3, 2))
    errors[np.arange(3), [0, 0, 2]] = 0.5
    folder = write_run(tmp_path / "run", errors, [0, 0, 1], words=["cat", "dog", "owl"])
    done = run_main(ACC, folder, "--metrics", "classes")
    assert done.code == 0, done.err
    cells = {line[:28].strip(): line[28:].split() for line in done.out.splitlines()}
    assert cells["owl"][:2] == ["0", "0.00"] and cells["owl"][-2:] == ["-", "-"]
    assert cells["dog"][:3] == ["1", "-", "0.00"] and cells["cat"][1] == "100.00"
    assert f"{'macro F1':<32} 50.00%" in done.out


def test_two_classes_and_votes_decide(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 9)  # the values alone are compared
    labels = np.random.default_rng(0).integers(0, 2, 60)
    errors = drawn(1, labels, K=2, P=5)
    folder = write_run(tmp_path / "two", errors, labels.tolist(), words=["well", "ill"])
    done = run_main(ACC, folder, "--metrics", "two-class", "--positive", "ill")
    assert done.code == 0, done.err
    score = errors.astype(np.float32)[:, 0].mean(1) - errors.astype(np.float32)[:, 1].mean(1)
    pairs = score[labels == 1][:, None] > score[labels == 0]
    assert f"{'AUROC':<32} {100 * pairs.mean():.2f}%" in done.out
    voted = (errors.argmin(1) == 1).sum(1) > 2  # [images] more than two of five points prefer "ill"
    done = run_main(ACC, folder, "--decide", "vote")
    assert f"top-1 accuracy  {100 * np.mean(voted == labels):.2f}%" in done.out
    assert run_main(ACC, folder, "--metrics", "two-class", "--positive", "dead").code == 2
    assert "no group" in run_main(ACC, folder, "--metrics", "groups").err


def test_several_runs_a_line_each(run_main, two):
    one = run_main(ACC, two[0].parent)
    both = run_main(ACC, *two)
    assert one.code == both.code == 0 and one.out == both.out
    lines = both.out.splitlines()
    assert len(lines) == 3 and all(str(folder) in line for folder, line in zip(two, lines[1:], strict=True))


# ---- model-vs-human ----


def test_model_vs_human(run_main, tmp_path, model_folder):
    """A miniature of both layouts, from the images to the toolbox's files."""
    root = tmp_path / "sketch"
    for k, name in enumerate(["cat", "dog", "cat"]):
        place = root / "dnn" / f"session-{1 + k // 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * k, 90, 10)).save(place / f"000{k}_sk_dnn_c{k}_{name}_10_n0{k}.png")
    few = ["--max_samples", 2, "--z", 0.1, "--device", "cpu", "--search", "race"]
    prompts = ["--prompt_path", ROOT / "prompts/sixteen_prompts.csv"]
    done = run_main(SCRIPT, "--version", model_folder, "--dataset", root, *few, *prompts)
    assert done.code == 0, done.err
    (folder,) = {path.parent for path in (tmp_path / "data").rglob("run.json")}
    (tmp_path / "out").mkdir()
    done = run_main(EXPORT, folder, "--format", "model-vs-human", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    files = sorted((tmp_path / "out").glob("*.csv"))
    assert [f.name for f in files] == ["sketch_sd_session-1.csv", "sketch_sd_session-2.csv"]
    rows = [row for file in files for row in csv.DictReader(file.open())]
    assert list(rows[0]) == ["subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename"]
    assert [row["category"] for row in rows] == ["cat", "dog", "cat"]
    assert [row["condition"] for row in rows] == ["c0", "c1", "c2"]
    assert [row["trial"] for row in rows] == ["1", "2", "1"] and rows[0]["rt"] == "NaN"
    assert {row["object_response"] for row in rows} <= {"airplane", "bear", "bicycle", "bird", "boat", "bottle", "car",
        "cat", "chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"}  # fmt: skip
    other = shutil.copytree(folder, tmp_path / "sketch/another_search")
    done = run_main(EXPORT, folder, other, "--format", "model-vs-human", "--out", tmp_path / "out")
    assert done.code == 2 and "session-1.csv would be the trials of several of these runs" in done.err


def test_shape_bias_of_a_run(run_main, tmp_path):
    files = ["cat/cat1-dog1.png", "cat/cat2-dog1.png", "dog/dog1-cat1.png", "owl/owl1-owl2.png"]
    errors = np.ones((4, 3, 2))
    errors[np.arange(4), [0, 1, 1, 2]] = 0.5
    folder = write_run(tmp_path / "cues", errors, [0, 0, 1, 2], about=lambda k: {"file": files[k]})
    done = run_main(ACC, folder, "--metrics", "shape-bias")
    assert done.code == 0 and f"{'shape bias':<32} 66.67%" in done.out and "3 images" in done.out
    plain = write_run(tmp_path / "plain", errors, [0, 0, 1, 2])
    assert run_main(ACC, plain, "--metrics", "shape-bias").code == 2


def test_groups_of_a_table(run_main, tmp_path, model_folder):
    """From path,label,group to the worst group; a row without its group is refused."""
    lines = ["path,label,group"]
    for k, name in enumerate(["one", "two", "one", "two"]):
        Image.new("RGB", (32, 32), (60 * k, 90, 10)).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png,{name},g{k % 2}")
    (tmp_path / "d.csv").write_text("\n".join(lines))
    few = ["--max_samples", 2, "--z", 0.1, "--device", "cpu", "--search", "race", "--version", model_folder]
    done = run_main(SCRIPT, "--dataset", tmp_path / "d.csv", *few)
    assert done.code == 0, done.err
    (folder,) = {path.parent for path in (tmp_path / "data").rglob("run.json")}
    assert [r["group"] for r in rows_of(folder)] == ["g0", "g1", "g0", "g1"]
    assert "worst, group g" in run_main(ACC, folder, "--metrics", "groups").out
    (tmp_path / "d.csv").write_text("\n".join([*lines[:-1], "3.png,two,"]))
    assert "the group is empty" in run_main(SCRIPT, "--dataset", tmp_path / "d.csv", *few).err


# ---- end to end ----


def test_from_runs_to_a_picture(run_main, run_once, tmp_path, tmp_path_factory, model_folder):
    few = subset(tmp_path_factory.mktemp("few"), *range(0, 497, 35))
    race = folder_of(run_once(SCRIPT, *race_options(model_folder, "--max_samples", 3, "--z", 1), *few))
    clip = run_once("scripts/baseline.py", "--dataset", "digits", "--model", "clip:digits", "--device", "cpu", *few)
    assert clip.code == 0, clip.err
    other = folder_of(clip)
    done = run_main(COMPARE, race, other, "--picture", tmp_path / "p.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 400


# ---- names that a spreadsheet or a terminal takes for commands ----


def test_no_text_of_a_csv_is_a_formula(run_main, tmp_path, labels):
    """Numbers stay numbers; jsonl has the texts as they are."""
    words = ['=HYPERLINK("x")', "-2.5", "@owl"]
    about = lambda k: {"file": ("+" if k % 2 else "-") + f"1+{k}.png", "group": "\tday"}  # noqa: E731
    folder = write_run(tmp_path / "a", drawn(0, labels), labels.tolist(), words=words, about=about)
    for suffix in ("csv", "jsonl"):
        assert run_main(EXPORT, folder, "--scores", "--out", tmp_path / f"x.{suffix}").code == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    plain = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(found) == len(plain) == len(labels)
    for row, wanted in zip(found, plain, strict=True):
        called = words[wanted["label"]]
        assert wanted["label_name"] == called and row["label_name"] == (called if called == "-2.5" else f"'{called}")
        assert row["file"] == f"'{wanted['file']}" and row["group"] == "'\tday" and wanted["group"] == "\tday"
        assert all(float(row[f"score_{name}"]) == wanted[f"score_{name}"] for name in words)
    assert any(float(row["score_-2.5"]) < 0 for row in found)
    assert run_main(COMPARE, folder, write_run(tmp_path / "b", drawn(1, labels), labels.tolist(), model="=b"),
                    "--out", tmp_path / "c.csv").code == 0  # fmt: skip
    assert "'=b" in (tmp_path / "c.csv").read_text()


def test_no_name_commands_the_terminal(run_main, tmp_path, labels):
    words = ["\x1b[2Jcat", "dog\x07\x9b31m", "o\u202ewl\r"]
    folder = write_run(tmp_path / "a\x1b]0;x", drawn(0, labels), labels.tolist(), words=words, model="m\x1bc")
    other = write_run(tmp_path / "b", drawn(1, labels), labels.tolist(), words=words, model="n")
    (folder / "099.pt").write_bytes(b"")
    for command in (
        (ACC, folder, "--metrics", "classes"), (ACC, folder, other), (COMPARE, folder, other),
        (ACC, folder, "--metrics", "two-class", "--positive", "\x1b[2J"),
    ):  # fmt: skip
        result = run_main(*command)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.out + result.err), command
        assert result.code in (1, 2) and "\\x1b" in result.out + result.err


def test_a_page_of_runs_names_no_folder_of_this_machine(run_main, tmp_path, two):
    result = run_main(COMPARE, *two)
    assert result.code == 0 and str(two[0].parent) not in result.out
    assert all("/".join(folder.parts[-2:]) in result.out for folder in two)


@pytest.mark.parametrize("rho", [-0.8, -0.5, 0.25])
def test_what_pairs_save_is_printed(rho):
    """Squares between and within pairs are as 1 + rho to 1 - rho; every image the same, so the interval is a point."""
    within = np.array([1.0, 2.0, 4.0])
    ((_, text),) = show.pairs_line(within * (1 + rho) / (1 - rho), within)
    correlation, low, high = map(float, re.findall(r"[-+]\d\.\d+", text))
    worth = [float(number) for number in re.findall(r"worth (\d+\.\d)", text)]
    assert correlation == low == high == pytest.approx(rho, abs=0.005)
    assert worth == ([pytest.approx(1 / (1 + rho), abs=0.05)] if rho < 0 else [])
    assert ("--noise independent" in text) == (rho > 0)
    assert show.pairs_line(np.zeros(3), np.zeros(3)) == []


def test_a_run_from_before_data_without_splits_was_marked(run_main, tmp_path):
    """It stands beside a run on the same data that is marked, as one of the same data."""
    rng = np.random.default_rng(5)
    labels = [0, 1, 2] * 4
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        write_run(folder, rng.random((12, 3, 4)), labels, model=folder.name)
    run = json.loads((new / "run.json").read_text())
    (new / "run.json").write_text(json.dumps(run | {records.UNSPLIT: True}))
    assert results.read(old).data != results.read(new).data
    for folders in ((old, new), (new, old)):
        (named,) = tables.read_groups(folders).values()
        assert sorted(named) == ["new", "old"]


def test_of_no_image_no_accuracy_is_printed(capsys):
    assert show.print_accuracy([], 3, ["image 0: is damaged"]) == 1
    assert "0 of 3" in capsys.readouterr().out.splitlines()[0]


def test_a_loss_that_decides_again_is_named(run_main, tmp_path):
    folder = write_run(tmp_path / "run", np.random.default_rng(6).random((6, 3, 4)), [0, 1, 2, 0, 1, 2])
    again = run_main("scripts/print_acc.py", folder, "--loss", "l1").out
    assert re.search(r"^decided by +l1; the run by l2$", again, re.M)
    assert "decided by" not in run_main("scripts/print_acc.py", folder).out
