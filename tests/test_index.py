"""The index of a run: it saves parsing, and no line of it is believed for other bytes, another run or other code."""

import json
import multiprocessing
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_run

from diffusion.runs import index, records, results
from diffusion.stats import metrics


@pytest.fixture
def run(tmp_path) -> results.Run:
    """Six images of three classes, 8 points; half of the answers are wrong."""
    errors = np.random.default_rng(0).random((6, 3, 8))
    more = {"margin": np.inf, "decided": True, "candidates": [0, 1, 2], "file": "a b\udcff.png"}
    return results.read(write_run(tmp_path / "run", errors, [0, 1, 2, 0, 1, 2], about=lambda k: more))


def rows_of(run: results.Run) -> tuple[list[dict], list[str]]:
    return results.read_rows(run.done.values(), of_run=True)


def parsed(monkeypatch) -> list[int]:
    """The images whose records are parsed from now on."""
    found, parse = [], records._parse

    def noted(data: bytes, checked: bool = False) -> dict:
        record = parse(data, checked)
        found.append(record["index"])
        return record

    monkeypatch.setattr(records, "_parse", noted)
    return found


def lines(run: results.Run) -> list[bytes]:
    return [line for line in (run.folder / index.NAME).read_bytes().split(b"\n") if line]


def resave(run: results.Run, k: int, **change) -> None:
    records.save_record(run.done[k], records.load_record(run.done[k]) | change)


@pytest.mark.parametrize("read", [rows_of, lambda run: results.decided(run, scores=False)])
def test_rows_are_the_same_with_and_without_it(run, read, monkeypatch):
    first = read(run)
    seen = parsed(monkeypatch)
    again = read(run)
    assert not seen and len(first[0]) == 6
    assert json.dumps(again) == json.dumps(first)  # fields, types, their order
    (run.folder / index.NAME).unlink()
    assert json.dumps(read(run)) == json.dumps(first) and len(seen) == 6


def test_decisions_are_those_of_the_errors(run):
    for _ in range(2):
        rows, _ = results.decided(run, scores=False)
        for row, path in zip(rows, run.done.values(), strict=True):
            record = records.load_record(path)
            assert row["pred"] == metrics.rescore(record, np.arange(3), "l2")
            assert row["votes"] == pytest.approx(metrics.votes(record, np.arange(3), "l2")[row["pred"]] / 8)


def test_other_decisions_have_lines_of_their_own(run):
    by_vote = [row["pred"] for row in results.decided(run, vote=True, scores=False)[0]]
    by_error = [row["pred"] for row in results.decided(run, scores=False)[0]]
    assert by_vote != by_error
    assert [row["pred"] for row in results.decided(run, vote=True, scores=False)[0]] == by_vote
    assert [row["pred"] for row in results.decided(run, vote=True)[0]] == by_vote  # from the errors


def test_a_record_that_changed_is_read_again(run, monkeypatch):
    rows_of(run)
    before = run.done[2].stat()
    resave(run, 2, pred=(rows_of(run)[0][2]["pred"] + 1) % 3)
    os.utime(run.done[2], ns=(before.st_atime_ns, before.st_mtime_ns))  # as large and as old as it was
    assert run.done[2].stat().st_size == before.st_size
    seen = parsed(monkeypatch)
    assert rows_of(run)[0][2]["pred"] == records.load_record(run.done[2])["pred"]
    assert seen[0] == 2 and len(seen) == 2


def test_a_flipped_bit_of_a_record_is_seen(run):
    rows_of(run)
    data = bytearray(run.done[4].read_bytes())
    stored = records.load_record(run.done[4])["errors"].numpy().tobytes()
    data[data.index(stored) + 10] ^= 1
    run.done[4].write_bytes(data)
    rows, problems = rows_of(run)
    assert len(rows) == 5 and len(problems) == 1 and str(run.done[4]) in problems[0]


def test_a_record_under_another_name_is_refused(run):
    rows_of(run)
    run.done[1].write_bytes(run.done[0].read_bytes())
    rows, problems = rows_of(run)
    assert [row["index"] for row in rows] == [0, 2, 3, 4, 5] and "image 0" in problems[0]


def damage(line: bytes, how: str) -> bytes:
    crc, digest, key, fields = line.split(b" ", 3)
    row = json.loads(fields) | {"pred": 1, "nfe": 99_999}
    return {
        "truncated": line[:-20],
        "edited": line.replace(b'"pred": ', b'"pred": 1'),
        "other fields": b" ".join([crc, digest, key, json.dumps(row).encode()]),
        "no line": b"what is this",
        "not UTF-8": b"\xff\xfe " + line,
    }[how]


@pytest.mark.parametrize("how", ["truncated", "edited", "other fields", "no line", "not UTF-8"])
def test_a_damaged_line_is_ignored_and_no_other(run, how, monkeypatch):
    wanted = rows_of(run)
    all_lines = lines(run)
    all_lines[3] = damage(all_lines[3], how)
    (run.folder / index.NAME).write_bytes(b"\n".join(all_lines))  # without a last line break
    seen = parsed(monkeypatch)
    assert rows_of(run) == wanted and seen == [3]
    assert rows_of(run) == wanted and seen == [3]  # it was appended anew


def forged(run: results.Run, key: bytes | None = None) -> None:
    """Lines whose CRC is right and whose answers are wrong, perhaps under another key."""
    found = []
    for line in lines(run):
        _, digest, own_key, fields = line.split(b" ", 3)
        rest = b" ".join([digest, key or own_key, json.dumps(json.loads(fields) | {"pred": 7}).encode()])
        found.append(b"%08x %s" % (zlib.crc32(rest), rest))
    (run.folder / index.NAME).write_bytes(b"\n".join(found))


def test_lines_of_another_key_do_not_count(run):
    wanted = rows_of(run)
    forged(run)
    assert rows_of(run) != wanted  # so the forgery is one
    forged(run, b"0" * 64)
    assert rows_of(run) == wanted


def test_lines_of_other_code_do_not_count(run, monkeypatch):
    wanted = rows_of(run)
    forged(run)
    monkeypatch.setattr(index, "_code", lambda: "another version")
    assert rows_of(run) == wanted


def test_the_index_of_another_run_does_not_count(run, tmp_path):
    """The same records and index, where run.json has a shorter schedule than their levels."""
    rows_of(run)
    about = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(about | {"schedule": 4}))
    rows, problems = rows_of(run)
    assert not rows and len(problems) == 6 and "levels from 0 to 7" in problems[0]


def test_a_folder_that_cannot_be_written(run, monkeypatch):
    wanted = rows_of(run)
    (run.folder / index.NAME).unlink()
    (run.folder / index.NAME).mkdir()  # permissions do not stop root
    assert rows_of(run) == wanted and rows_of(run) == wanted
    assert os.path.isdir(run.folder / index.NAME)


def _add_many(folder: Path, first: int) -> None:
    for k in range(first, first + 300):
        lines = index.Index(folder, "a run", read=False)
        lines.add(f"{k:064x}", {"index": k, "file": "x" * 500})
        lines.flush()


def test_writers_at_the_same_time_append_whole_lines(tmp_path):
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_add_many, args=(tmp_path, 300 * n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = index.Index(tmp_path, "a run")
    for k in range(1200):
        assert found.find(f"{k:064x}", Path(f"{k}.pt")) == {"index": k, "file": "x" * 500}


def test_a_writer_leaves_a_line_for_a_valid_record(run, monkeypatch):
    (run.folder / index.NAME).unlink(missing_ok=True)
    for path in run.done.values():
        records.save_record(path, records.load_record(path), run.wanted)
    seen = parsed(monkeypatch)
    assert len(rows_of(run)[0]) == 6 and not seen


def test_a_writer_leaves_none_for_a_record_that_readers_refuse(run):
    bad = records.load_record(run.done[0]) | {"errors": torch.full((24, 3), np.nan)}
    records.save_record(run.done[0], bad, run.wanted)
    assert not (run.folder / index.NAME).exists()
    assert "finite" in rows_of(run)[1][0]
