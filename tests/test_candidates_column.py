"""Candidates of each image, as a column of the data's table says: reading it, and every script that must heed it."""

import numpy as np
import pytest
from helpers import ROOT, SCRIPT, WORDS, assert_same, blocks, clip_scores, folder_of, records_of, table_of

from diffusion import InputError, InputWarning
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import read_prompts
from diffusion.evaluate import candidates
from diffusion.runs.records import read_run

ACC, DIT, BASELINE = "scripts/print_acc.py", "eval_prob_dit.py", "scripts/baseline.py"
IMAGES = (0, 3, 10, 301)
LABELS = [load_dataset("digits").labels[k] for k in IMAGES]
PROMPTS = ROOT / "prompts" / "digits_prompts.csv"
RACE = ["--device", "cpu", "--search", "race", "--max_samples", 12]


def table(folder, cells=None, labels=LABELS):
    """A csv of four digits, in a folder that is made; `cells` of its column candidates."""
    folder.mkdir()
    header, rows = ["path"], [[f"{k}.png"] for k in IMAGES]
    for k in IMAGES:
        load_dataset("digits").open(k).save(folder / f"{k}.png")
    for name, column in (("label", labels), ("candidates", cells)):
        if column:
            header.append(name)
            rows = [[*row, str(each)] for row, each in zip(rows, column, strict=True)]
    (folder / "t.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    return folder / "t.csv"


def columned(path, text):
    (path.parent / "a.jpg").touch()
    path.write_text(text)
    return load_dataset(str(path))


# ---- reading ----


@pytest.mark.parametrize("name, text", [
    ("plain.csv", "path,label,candidates\na.jpg,cat,cat;dog;lynx\nb.jpg,dog,\nc.jpg,lynx,dog; cat;\n"),
    ("quoted.csv", '"path","label","candidates"\n"a.jpg","cat","cat;dog;lynx"\nb.jpg,dog,""\nc.jpg,lynx,dog;cat\n'),
    ("by.csv", 'path;candidates;label\na.jpg;"cat;dog;lynx";cat\nb.jpg;;dog\nc.jpg;"dog;cat";lynx\n'),
    ("list.jsonl", '{"path": "a.jpg", "label": "cat", "candidates": ["cat", "dog", "lynx"]}\n'
     '{"path": "b.jpg", "label": "dog", "candidates": null}\n'
     '{"path": "c.jpg", "label": "lynx", "candidates": "dog;cat"}\n'),
])  # fmt: skip
def test_tables_that_have_it(tmp_path, name, text):
    data = columned(tmp_path / name, text)
    assert data.classes == ["cat", "dog", "lynx"] and data.labels == [0, 1, 2] and data.groups == []
    assert [names for _, names in data.candidates] == [["cat", "dog", "lynx"], [], ["dog", "cat"]]
    assert [line for line, _ in data.candidates] == ([1, 2, 3] if name == "list.jsonl" else [2, 3, 4])


def test_beside_groups_and_without_labels(tmp_path):
    data = columned(tmp_path / "t.csv", "candidates,path,group,label\n3;5,a.jpg,indoors,3\n5;7,b.jpg,outdoors,5\n")
    assert (data.labels, data.groups) == ([3, 5], ["indoors", "outdoors"])
    assert [names for _, names in data.candidates] == [["3", "5"], ["5", "7"]]
    data = columned(tmp_path / "u.csv", "path,candidates\na.jpg,0;1\n")
    assert not data.labelled and data.candidates == [(2, ["0", "1"])]


def stage_of(path, text, arms):
    data = columned(path, text)
    stage = candidates.ByColumn(data, np.unique([k for *_, k in arms]), arms)
    return stage, range(len(data))


def test_names_become_rows_and_class_ids(tmp_path):
    """By the data's names and the prompts'; a prompt's class that no image has, too; rows are places among the ids."""
    text = "path,label,candidates\na.jpg,cat,big cat;dog\nb.jpg,dog,wolf;cat;dog\n"
    stage, images = stage_of(tmp_path / "t.csv", text, [("", "big cat", 0), ("", "dog", 1), ("", "wolf", 7)])
    assert [stage.rows(k, None)[0].tolist() for k in images] == [[0, 1], [2, 0, 1]]
    assert [stage.pick(k, None) for k in images] == [{"candidates": [0, 1]}, {"candidates": [7, 0, 1]}]
    assert stage.K == 3 == stage.options["candidates"]
    assert stage.options["candidates_from"].startswith("column, sha256 ")
    other, _ = stage_of(
        tmp_path / "t.csv", text.replace(";dog\nb", ";wolf\nb"), [("", "big cat", 0), ("", "dog", 1), ("", "wolf", 7)]
    )
    assert other.options["candidates_from"] != stage.options["candidates_from"]
    by_id = "path,label,candidates\na.jpg,3,03;five\nb.jpg,5,\n"  # whole numbers are ids, as labels are
    with pytest.warns(InputWarning, match=r"1 of 2 images have no candidates \(line 3\): all 3 classes compete"):
        stage, images = stage_of(tmp_path / "u.csv", by_id, [("", "three", 3), ("", "five", 5), ("", "3", 6)])
    assert [stage.pick(k, None)["candidates"] for k in images] == [[3, 5], [3, 5, 6]]


@pytest.mark.parametrize("cell, said", [
    ("cat;dogg", "t.csv, line 3: candidates has 'dogg', none of the classes that compete; did you mean dog?"),
    ("cat;7", "candidates has '7', none of the classes that compete: cat, dog, crane"),
    ("cat;crane", "candidates has 'crane', the name of several classes"),
])  # fmt: skip
def test_classes_that_do_not_compete(tmp_path, cell, said):
    text = f"path,label,candidates\na.jpg,cat,cat;dog\nb.jpg,dog,{cell}\n"
    with pytest.raises(InputError) as error:
        stage_of(tmp_path / "t.csv", text, [("", "cat", 0), ("", "dog", 1), ("", "crane", 2), ("", "crane", 3)])
    assert said in str(error.value)


# ---- the scripts ----


@pytest.fixture
def scored(tmp_path):
    """Random scores [4, 10] in a npy file, and the cells that name the three best of each image."""
    scores = np.random.default_rng(1).standard_normal((4, 10))
    np.save(tmp_path / "scores.npy", scores)
    return tmp_path / "scores.npy", [";".join(map(str, candidates.best(row, 3))) for row in scores]


@pytest.mark.parametrize("script, search", [
    (SCRIPT, ["--search", "race", "--max_samples", 12]), (DIT, ["--to_keep", 2, 1, "--n_samples", 2, 6]),
])  # fmt: skip
def test_it_is_the_search_of_candidates_from_scores(
    run_main, tmp_path, scored, script, search, model_folder, dit_folder
):
    """The same records, bit by bit, as --candidates 3 of a npy file that likes the same three best."""
    args = ["--device", "cpu", *search]
    args += ["--version", model_folder, "--prompt_path", PROMPTS] if script == SCRIPT else ["--version", dit_folder]
    result = run_main(script, *args, "--dataset", table(tmp_path / "a", scored[1]))
    three = ["--candidates", 3, "--candidates_from", scored[0]]
    wanted = run_main(script, *args, "--dataset", table(tmp_path / "b"), *three, log="wanted")
    assert_same(records_of(result), records_of(wanted))
    assert table_of(result) == table_of(wanted) and "among 3 candidates" in "\n".join(table_of(result))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, run_once, model_folder):
    """The records of a race without the column, and the command but for the table."""
    args = [*RACE, "--version", model_folder, "--prompt_path", PROMPTS, "--dataset"]
    return records_of(run_once(SCRIPT, *args, table(tmp_path_factory.mktemp("plain") / "t"))), args


def test_all_classes_are_the_plain_run(run_main, tmp_path, plain):
    """Named or not: the same bits as without the column. A run is known by what the column says."""
    records, args = plain
    result = run_main(SCRIPT, *args, table(tmp_path / "all", [";".join(WORDS), "", ";".join(map(str, range(10))), ""]))
    assert "2 of 4 images have no candidates (line 3, ...): all 10 classes compete" in result.err
    assert folder_of(result).name.endswith("_candidates")
    found = records_of(result)
    assert [record.pop("candidates") for record in found.values()] == [list(range(10))] * 4
    assert_same(found, records)
    chosen = read_run(folder_of(result))["options"]
    assert chosen["candidates"] == 10 and chosen["candidates_from"].startswith("column, sha256 ")
    again = run_main(SCRIPT, *args, table(tmp_path / "same", [""] * 4))  # the same classes, said otherwise
    assert "4 done before" in again.out
    other = run_main(SCRIPT, *args, table(tmp_path / "other", ["0;1", "", "", ""]))
    assert other.code == 2 and "other options: candidates_from: its scores or names" in other.err


def test_as_many_as_each_image_has(run_main, tmp_path, plain):
    """Two to five; what is measured has the plain run's bits; a label that is left out is an error, seen in recall."""
    records, args = plain
    others = [[k for k in range(10) if k != label] for label in LABELS]
    cells = [[*others[0][:4], LABELS[0]], others[1][:2], [LABELS[2], others[2][0]], [*others[3][:2], LABELS[3]]]
    result = run_main(SCRIPT, *args, table(tmp_path / "some", [";".join(map(str, cell)) for cell in cells]))
    assert "at most 60 NFE each" in result.out  # five classes, twelve points
    for cell, (index, record) in zip(cells, records_of(result).items(), strict=True):
        assert record["candidates"] == cell and record["pred"] in cell
        assert set(np.flatnonzero(record["counts"]).tolist()) == set(cell)
        assert record["nfe"] == record["counts"].sum()
        for one, all_of in zip(blocks(record), blocks(records[index]), strict=True):
            shared = min(len(one), len(all_of))
            np.testing.assert_array_equal(one[:shared], all_of[:shared])
    line = next(line for line in table_of(result) if line.startswith("recall"))
    assert " 75.00%" in line and line.endswith("among 2 to 5 candidates")
    assert line in run_main(ACC, folder_of(result)).out
    assert run_main("scripts/report.py", folder_of(result), "--out", tmp_path / "r.html").code == 0
    assert "among 2 to 5 candidates" in (tmp_path / "r.html").read_text()


def test_images_without_labels(run_main, tmp_path, model_folder):
    texts = [f"a photo of the number {word}." for word in WORDS[:4]]
    path = table(tmp_path / "t", ["0;1", "2;3", ";".join(texts[1:3]), ""], labels=None)
    result = run_main(SCRIPT, *RACE, "--version", model_folder, "--dataset", path, "--prompts", *texts)
    kept = [record["candidates"] for record in records_of(result).values()]
    assert kept == [[0, 1], [2, 3], [1, 2], [0, 1, 2, 3]]
    assert all(record["pred"] in each for each, record in zip(kept, records_of(result).values(), strict=True))
    assert "recall" not in result.out and "predictions only" in result.out


def test_clip_alone_chooses_among_them_too(run_main, tmp_path, scored):
    """As open_clip does, of the three; without the column among all."""
    args = ["--model", "clip:digits", "--device", "cpu", "--prompt_path", PROMPTS, "--dataset"]
    result = run_main(BASELINE, *args, table(tmp_path / "t", scored[1]))
    plain = run_main(BASELINE, *args, table(tmp_path / "plain"))
    assert folder_of(result).name == folder_of(plain).name + "_candidates"
    for row, cell, one, other in zip(
        clip_scores("digits", IMAGES), scored[1], records_of(result).values(), records_of(plain).values(), strict=True
    ):
        kept = list(map(int, cell.split(";")))
        assert one["candidates"] == kept and one["pred"] == max(kept, key=lambda k: row[k])
        assert other["pred"] == row.argmax() and "candidates" not in other
        assert set(np.flatnonzero(one["counts"]).tolist()) == set(kept) and len(one["errors"]) == 3
    assert read_prompts(PROMPTS).classes == list(range(10))


@pytest.mark.parametrize("script, words, said", [
    (SCRIPT, "--candidates 3 --candidates_from x.npy", "--candidates: the column candidates of t.csv says"),
    (SCRIPT, "--candidates_from x.npy", "--candidates_from: the column candidates of t.csv says"),
    (DIT, "--cls 0-4", "--cls: the column candidates of t.csv says which classes compete"),
    (DIT, "", "t.csv, line 2: candidates has 'seventeen', none of the classes that compete; did you mean seven?"),
])  # fmt: skip
def test_refusals(run_main, tmp_path, model_folder, dit_folder, script, words, said):
    path = table(tmp_path / "t", ["3;5" if words else "3;seventeen", "", "", ""])
    version = [model_folder, "--prompt_path", PROMPTS] if script == SCRIPT else [dit_folder]
    if not words:  # the names are the model's
        (tmp_path / "names.txt").write_text("\n".join(WORDS))
        version += ["--classes", tmp_path / "names.txt"]
    result = run_main(script, "--device", "cpu", "--dataset", path, "--version", *version, *words.split())
    assert result.code == 2 and said in result.err.splitlines()[-1]
    assert not (tmp_path / "data").exists()
