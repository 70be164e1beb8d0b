"""The benchmark: what it counts, in closed form; its commands still run. Times are no test's business."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import ROOT, import_script

from diffusion.core import schedule
from diffusion.core.image import Measured
from diffusion.runs import records, results
from diffusion.speed import device as device_check
from diffusion.speed import networks, summary, synthetic
from diffusion.speed.device import Clock, Format, Speed
from diffusion.speed.networks import Size

CPU, META = torch.device("cpu"), torch.device("meta")


class Layers(torch.nn.Module):
    """A linear layer, a convolution and attention: FLOP in closed form."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 16)
        self.conv = torch.nn.Conv2d(4, 6, 3, padding=1)
        self.register_buffer("places", torch.arange(3))

    def forward(self, tokens, image):
        words = self.linear(tokens)[:, None]
        return torch.nn.functional.scaled_dot_product_attention(words, words, words), self.conv(image)


def layers_inputs(batch, device, dtype):
    return {
        "tokens": torch.zeros(batch, 5, 8, device=device, dtype=dtype),
        "image": torch.zeros(batch, 4, 10, 10, device=device, dtype=dtype),
    }


TINY = Size("tiny", Layers, layers_inputs)
FLOP = 2 * 5 * 8 * 16 + 2 * 2 * 5 * 5 * 16 + 2 * 6 * 4 * 9 * 10 * 10


# ---- networks ----


def test_flop_in_closed_form():
    """Of the meta device, where attention counts as well."""
    network = networks.empty(TINY)
    assert networks.flop_per_nfe(network, TINY.inputs(1, META, torch.float32)) == FLOP
    assert networks.flop_per_nfe(network, TINY.inputs(3, META, torch.float32)) == 3 * FLOP
    assert device_check.shape_of(TINY) == device_check.Shape(TINY, 8 * 16 + 16 + 4 * 6 * 9 + 6, FLOP)


@pytest.mark.slow
def test_published_sizes():
    """Parameters as published with the weights; FLOP of DiT-XL/2 as in its paper, in multiplications."""
    shapes = {size.name: device_check.shape_of(size) for size in networks.SIZES}
    dit, sd2, sdxl, flux = shapes.values()
    assert sd2.parameters == 865_910_724 and sd2.size.name == networks.STABLE_DIFFUSION_2
    assert sdxl.parameters == 2_567_463_684
    assert dit.flop_per_nfe / 2 == pytest.approx(118.64e9, rel=1e-3)
    with META:
        whole = networks.parameters(networks.flux(19, 38))
    assert whole == 11_901_408_320 and flux.parameters / whole == pytest.approx(0.1, abs=0.015)
    assert [each.flop_per_nfe for each in shapes.values()] == sorted(each.flop_per_nfe for each in shapes.values())


def test_random_networks():
    """The same each time, of the dtype, without a trace in torch's generator; integers are 0."""
    before = torch.get_rng_state()
    first, again = (networks.random_network(TINY, CPU, torch.bfloat16) for _ in range(2))
    weights, same = (torch.nn.utils.parameters_to_vector(each.parameters()).detach() for each in (first, again))
    assert torch.equal(weights, same) and first.places.tolist() == [0, 0, 0]
    assert weights.dtype == torch.bfloat16 and not first.training
    assert weights.float().std() == pytest.approx(0.02, rel=0.2)
    inputs = networks.random_inputs(TINY, 2, CPU, torch.bfloat16)
    assert inputs["tokens"].float().std() == pytest.approx(1, rel=0.3)
    assert torch.equal(torch.get_rng_state(), before)


# ---- a device ----


def test_speed_of_a_tiny_network():
    """In both memory formats, at the same batch; the share of the matrix rate follows from FLOP and speed."""
    first, second = device_check.measure_networks([TINY], CPU, torch.float32, 1e9, Clock(20))
    assert (first.form, second.form) == ("contiguous", "channels_last")
    assert first.batch_size == second.batch_size == max(first.speeds, key=first.speeds.get)
    assert list(first.speeds) == [2**k for k in range(len(first.speeds))] and first.ended_by in ("limit", "time")
    for row in (first, second):
        assert row.flop_per_nfe == FLOP and row.weights_bytes == 4 * row.parameters and row.peak_bytes is None
        assert row.matrix_share == pytest.approx(FLOP * row.nfe_per_second / 1e9)
    assert first.nfe_per_second == first.speeds[first.batch_size]


def test_what_would_take_too_long_or_does_not_fit_is_skipped(monkeypatch):
    """One call of 1e9 FLOP at half of 1e6 FLOP/s takes 2,000 s; 100 GB of weights do not fit into 50 GB."""
    assert "2,000 s" in device_check.unfeasible(4, 10**9, CPU, 1e6, 100)
    assert device_check.unfeasible(4, 10**9, CPU, 1e6, 2001) is None
    monkeypatch.setattr(device_check, "free_bytes", lambda device: 50e9)
    assert "100.0 GB" in device_check.unfeasible(10**11, 1, CPU, 1e12, 100)
    (reason,) = device_check.measure_networks([TINY], CPU, torch.float32, 1.0, Clock(5))
    assert reason.startswith("tiny: ")


@pytest.mark.parametrize(("fits", "ended_by"), [(8, "memory"), (0, "memory"), (100, "limit")])
def test_growing_calls_end(fits, ended_by, monkeypatch):
    """At the first that does not fit, or at the most rows that are tried."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def maker(rows):
        if rows > fits:
            raise torch.OutOfMemoryError("none left")
        return lambda: None

    speeds, peaks, why = device_check.batch_speeds(maker, CPU, 60, most=16)
    assert list(speeds) == list(peaks) == [rows for rows in (1, 2, 4, 8, 16) if rows <= fits] and why == ended_by


def test_growing_calls_end_with_the_time():
    speeds, _, why = device_check.batch_speeds(lambda rows: lambda: None, CPU, 0.0, most=16)
    assert list(speeds) == [1] and why == "time"


def measured(errors: list[list[float]], winner: int = 0) -> Measured:
    """A search over an image: errors of each class at its points."""
    counts = torch.tensor([len(each) for each in errors])
    points = torch.arange(max(counts))
    flat = torch.tensor(np.concatenate(errors), dtype=torch.float32)[:, None]
    return Measured(winner, True, 0.1, points, points, counts, flat, torch.ones(len(points)))


def test_differences_of_errors():
    """Over the evaluations that both made; relative to the reference; nan is not lost."""
    reference = measured([[1.0, 2.0, 4.0], [2.0, 2.0]])
    assert device_check.relative_error(reference, reference) == 0
    assert device_check.relative_error(measured([[1.0, 2.0], [2.0, 1.5, 9.0]]), reference) == 0.25
    assert device_check.relative_error(measured([[1.5, 2.0], [2.0]]), reference) == 0.5
    assert np.isnan(device_check.relative_error(measured([[float("nan"), 2.0], [2.0]]), reference))
    assert device_check.same_bits(reference, measured([[1.0, 2.0, 4.0], [2.0, 2.0]]))
    assert not device_check.same_bits(reference, measured([[1.0, 2.0, 4.0], [2.0, 2.0000002]]))
    assert not device_check.same_bits(reference, measured([[1.0, 2.0], [4.0, 2.0, 2.0]]))


@pytest.mark.slow
def test_formats_of_the_embedded_model():
    """A CPU gives the same bits each time and with every batch; bfloat16 errs by more than nothing, within 10%."""
    float32, bfloat16 = itertools.islice(device_check.formats(CPU, Clock(1000), images=1), 2)
    for each in (float32, bfloat16):
        assert (each.images, each.same_bits_twice, each.same_bits_other_batch) == (1, 1, 1)
        assert each.error_twice == each.error_other_batch == 0 and each.other_batch == 32
    assert float32.same_decisions is None and bfloat16.same_decisions == 1
    assert 1e-5 < bfloat16.error_against_float32 < 0.1


def test_hours_are_those_of_the_readme():
    """At 100 NFE/s, for its images and NFE."""
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", readme, re.M)
    stated = {}
    for name, *figures in rows:
        stated[name] = tuple(int(figure.replace(",", "")) for figure in figures)
    assert {name: row[:2] for name, row in stated.items()} == summary.IMAGES
    assert {name: row[2] for name, row in stated.items()} == {
        name: round(hours) for name, hours in summary.gpu_hours(100).items()
    }


def test_summary_is_json_and_a_page():
    """nan becomes null; hours are those of the fastest form of Stable Diffusion 2."""
    about = summary.describe(CPU)
    name = networks.STABLE_DIFFUSION_2
    results = [
        Format("float32", 16, None, None, 16, 0.0, 32, 16, 0.0, 400.0),
        Format("float16", 16, 12, float("nan"), 16, 0.0, 32, 3, 1e-3, 500.0),
        "bfloat16: not here",
        Speed(
            name, "contiguous", "float16", 10**9, 10**12, 2 * 10**9, 8, 50.0, 0.4, 5 * 10**9,
            {8: 50.0, 16: 40.0}, "memory",
        ),
        Speed(name, "channels_last", "float16", 10**9, 10**12, 2 * 10**9, 8, 100.0, 0.8, None),
    ]  # fmt: skip
    check = summary.summary(about, "float16", 1e14, results, 60.0)
    again = json.loads(json.dumps(check, allow_nan=False))
    assert again["formats"][1]["error_against_float32"] is None and again["formats"][1]["same_decisions"] == 12
    assert again["networks"][0]["speeds"] == {"8": 50.0, "16": 40.0} and again["skipped"] == ["bfloat16: not here"]
    assert again["gpu_hours"]["Pets"] == pytest.approx(3669 * 2050 / 100 / 3600)
    assert {"device", "name", "torch", "diffusers", "dtype", "matrix_flop_per_second", "seconds"} <= again.keys()
    page = summary.lines(again)
    assert any("12 of 16" in line and "not finite" in line for line in page)
    assert any("16 (memory)" in line and "5.0" in line for line in page)
    assert "gpu_hours" in check and not summary.summary(about, "float32", 1.0, results[:3], 1.0)["gpu_hours"]


def test_device_from_the_command_line(run_main, tmp_path, monkeypatch):
    """In next to no time: one format, no network, but a table and its json."""
    monkeypatch.setattr(networks, "SIZES", networks.SIZES[:1])
    out = tmp_path / "device.json"
    result = run_main("scripts/benchmark.py", "device", "--device", "cpu", "--images", 1, "--within", 1, "--out", out)
    assert result.code == 0, result.err
    check = json.loads(out.read_text())
    assert [each["dtype"] for each in check["formats"]] == ["float32"] and check["networks"] == []
    assert len(check["skipped"]) == 2 + len(networks.SIZES)
    assert check["torch"] in result.out and all(reason in result.out for reason in check["skipped"])


# ---- many images, many classes ----


@pytest.fixture(scope="module")
def synthetic_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "run"
    return folder, list(synthetic.write_run(folder, images=12, classes=40, seed=0))


def test_a_synthetic_run_is_a_run(synthetic_run):
    """Readers find every record, of this run, with the errors that its NFE count; most answers are right."""
    folder, nfe = synthetic_run
    run = results.read(folder)
    assert list(run.done) == list(range(12))
    for index in run.done:
        record = results.record_of(run, index)
        assert record["nfe"] == nfe[index] == len(record["errors"]) == int(record["counts"].sum())
        assert record["counts"].min() >= 1 and record["label"] == index
    rows, problems = results.read_rows(run.done.values(), of_run=True)
    assert not problems and sum(row["pred"] == row["label"] for row in rows) >= 8


def test_a_synthetic_run_depends_on_its_seed_alone(synthetic_run, tmp_path):
    folder, nfe = synthetic_run
    assert list(synthetic.write_run(tmp_path / "again", 12, 40, 0)) == nfe
    assert list(synthetic.write_run(tmp_path / "other", 12, 40, 1)) != nfe
    ours, theirs = (records.load_record(path / "07.pt") for path in (folder, tmp_path / "again"))
    assert torch.equal(ours["errors"], theirs["errors"])


def test_search_costs_count_the_evaluations_of_the_schedule():
    """Halving by ImageNet's: 50 points of each class, then 100 more of 500, and so on."""
    race, independent, halved = synthetic.search_costs(600)
    assert halved.nfe == 600 * 50 + 500 * 100 + 50 * 400 + 10 * 450
    for each in (race, independent):
        assert 600 <= each.nfe < 600 * 20
    for each in (race, independent, halved):
        assert 0 < each.search_seconds < each.image_seconds


def test_timed_searches_are_the_same():
    halving = schedule.halving_schedule(np.arange(20), [2, 4], [2, 1], np.ones(5, dtype=int))
    spent: list[float] = []
    watched = replace(halving, start=partial(synthetic.timed, halving.start, spent))
    plain, _ = synthetic.simulated(halving, np.arange(5.0), np.random.default_rng(1))
    timed, _ = synthetic.simulated(watched, np.arange(5.0), np.random.default_rng(1))
    assert device_check.same_bits(plain, timed) and plain.nfe == 5 * 2 + 2 * 2 and len(spent) == 3


def test_extrapolation():
    assert synthetic.extrapolated((100, 11.0), (200, 21.0), 1000) == pytest.approx((0.1, 101.0))
    assert synthetic.extrapolated((100, 11.0), (200, 11.5), 1000) is None


@pytest.mark.slow
def test_cost_of_a_command_leaves_out_who_starts_it():
    """Not that of the process that starts it, which holds more memory here."""
    held = bytearray(200_000_000)
    command = [sys.executable, "-S", "-c"]
    small = synthetic.cost_of([*command, "pass"], {})
    large = synthetic.cost_of([*command, "held = bytes(b'1') * 150_000_000\nfor _ in range(10_000_000): pass"], {})
    assert small.peak_bytes < 60e6 and 150e6 < large.peak_bytes < 210e6 and len(held)
    assert large.cpu_seconds > small.cpu_seconds


def test_figures_of_a_reader():
    """Twice the images take 10 s more; memory hardly grew."""
    costs = synthetic.Cost(11.0, 700_000_000), synthetic.Cost(21.0, 720_000_000)
    assert synthetic.figures((100, 200), costs, 1000) == ["21.0", "100.0", "101", "0.72", "-"]


def test_readers_take_a_synthetic_run(synthetic_run, run_main, tmp_path):
    """Each of those that the parser lists."""
    folder, _ = synthetic_run
    other, shifted = tmp_path / "other", tmp_path / "shifted"
    list(synthetic.write_run(other, 12, 40, 1))
    list(synthetic.write_run(shifted, 12, 40, 0, "shifted"))
    commands = synthetic.readers(folder, other, shifted, tmp_path)
    assert list(commands) == import_script("scripts/benchmark.py").READERS
    for name, (_, program, *words) in commands.items():
        result = run_main(str(program.relative_to(ROOT)), *words)
        assert result.code == 0, (name, result.err)


@pytest.mark.slow
def test_peak_of_a_process_leaves_out_who_starts_it():
    """Not that of the process that started it."""
    held = bytearray(300_000_000)
    code = "from diffusion.speed.memory import peak_of_process; x = bytes(b'1') * 40_000_000; print(peak_of_process())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 40e6 < int(done.stdout) < 150e6 and len(held)


def test_what_was_measured_before_a_failure_is_printed(run_main, tmp_path, monkeypatch):
    """As when a kernel fails on a device: the table, then the error."""

    def broken(*_):
        yield "float16: not here"
        raise RuntimeError("no kernel")

    monkeypatch.setattr(device_check, "formats", broken)
    out = tmp_path / "device.json"
    with pytest.raises(RuntimeError, match="no kernel"):
        run_main("scripts/benchmark.py", "device", "--device", "cpu", "--out", out)
    assert json.loads(out.read_text())["skipped"] == ["float16: not here"]


@pytest.mark.slow
def test_scale_from_the_command_line(run_main, monkeypatch):
    pytest.importorskip("pyarrow")
    module = import_script("scripts/benchmark.py")
    monkeypatch.setattr(module, "MANY", 1000)
    result = run_main(module, "scale", "--images", 40, "--classes", 10, "--readers", "export")
    assert result.code == 0, result.err
    names = re.findall(r"^\| ([a-z, ]*[a-z]) +\|", result.out, re.M)
    assert names == ["script", "export", synthetic.AGAIN, synthetic.PANDAS]
    assert len(re.findall(r"^search: .*1,000 classes", result.out, re.M)) == 3


# ---- the other parts ----


@pytest.mark.slow
def test_the_benchmark_runs(run_main, monkeypatch):
    module = import_script("scripts/benchmark.py")
    task = module.embedded(CPU)
    monkeypatch.setattr(module, "embedded", lambda device: replace(task, labels=task.labels[:16]))
    done = run_main(module, "network", "published", "--repeats", 1, "--images", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert re.search(r"^network: race over 2 embedded images, .* batches \d+\.\d% full", done.out, re.M)
    assert re.search(r"^published: .* 1 image, .*the same answer for 100\.0%", done.out, re.M)


def test_ways_to_draw():
    """The same levels each, but for pairs at one; of every pair a draw and its negative."""
    ways = import_script("scripts/benchmark.py").ways_to_draw(np.arange(200, 800), 4, 0.5)
    expected = {
        "independent": [[275, 425, 575, 725], [0, 1, 2, 3], [1, 1, 1, 1]],
        "pair at one level": [[350, 350, 650, 650], [0, 0, 1, 1], [1, -1, 1, -1]],
        "pair at neighbouring levels": [[275, 425, 575, 725], [0, 0, 1, 1], [1, -1, 1, -1]],
        "one draw for all levels": [[275, 425, 575, 725], [0, 0, 0, 0], [1, 1, 1, 1]],
        "one draw, signs in turn": [[275, 425, 575, 725], [0, 0, 0, 0], [1, -1, 1, -1]],
    }
    assert ways.keys() == expected.keys()
    for way, drawn in ways.items():
        assert np.array_equal(drawn, expected[way])


def test_pairs_are_worth_more_than_two_draws(run_main):
    """For the embedded model, as docs/speed.md has it; on four images, so within wide bounds."""
    result = run_main("scripts/benchmark.py", "noise", "--images", 4, "--draws", 8, "--points", 4, "--device", "cpu")
    assert result.code == 0, result.err
    found = {line[:28].strip(): float(line[28:]) for line in result.out.splitlines()[1:]}
    assert found["independent"] == 1 and found["pair at neighbouring levels"] < 0.8
    assert found["one draw for all levels"] > 1.3 > found["one draw, signs in turn"]
