"""The losses by hand, and the kernel over a network whose error is known in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diffusion.core.batching import Block, measure, together
from diffusion.core.conditions import Conditions
from diffusion.core.constants import LOSSES
from diffusion.core.losses import losses, losses_only
from diffusion.core.process import Process

SHAPE = (2, 3, 4)  # c, h, w
PROCESS = Process.from_scheduler(DDPMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon"))


def by_hand(d: float) -> list[float]:
    """l2, l1 and Huber of one difference."""
    return [d * d, abs(d), d * d / 2 if abs(d) <= 1 else abs(d) - 0.5]


@pytest.mark.parametrize("d", [0.0, 0.25, -0.5, 1.0, -1.0, 1.5, -3.0])
def test_losses_of_one_difference(d):
    assert LOSSES == ["l2", "l1", "huber"]
    out = losses(torch.full((1, *SHAPE), 2 + d), torch.full((1, *SHAPE), 2.0))
    assert out.shape == (1, 3) and out.flatten().tolist() == by_hand(d)


def test_losses_are_means_over_the_latent():
    """Half the entries are off by 0.5 and half by -3; rows do not mix."""
    prediction = torch.zeros(3, *SHAPE)
    prediction[2, 0], prediction[2, 1] = 0.5, -3
    wanted = torch.zeros(3, 3)
    wanted[2] = torch.tensor([(0.25 + 9) / 2, (0.5 + 3) / 2, (0.125 + 2.5) / 2])
    assert torch.equal(losses(prediction, torch.zeros(3, *SHAPE)), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers_are_reduced_in_float32(dtype):
    """300^2 overflows float16, and 2 + 1/4096 is not in either: the target keeps its own precision."""
    prediction, target = torch.full((1, *SHAPE), 300.0, dtype=dtype), torch.zeros(1, *SHAPE)
    out = losses(prediction, target)
    assert out.dtype == torch.float32 and out.flatten().tolist() == by_hand(float(prediction.flatten()[0]))
    out = losses(torch.full((1, *SHAPE), 2, dtype=dtype), torch.full((1, *SHAPE), 2 + 1 / 4096))
    assert out.flatten().tolist() == by_hand(1 / 4096)


# ---- the kernel ----


def fake(process=PROCESS):
    """A network that predicts z / 4 + c + i / 1000 for condition c, and the rows (z, i, c) of each of its calls."""
    asked = []

    def denoise(z, i, c):
        assert z.shape[1:] == SHAPE and len(z) == len(i) == len(c)
        c = c["c"]
        asked.append(list(zip(z, i.tolist(), c.tolist(), strict=True)))
        return 0.25 * z + (c + i / 1000)[:, None, None, None]

    return SimpleNamespace(process=process, device=torch.device("cpu"), denoise=denoise), asked


def problem(arms, points):
    draw = torch.Generator().manual_seed(arms * 1000 + points)
    x, noise = torch.randn(SHAPE, generator=draw), torch.randn(points, *SHAPE, generator=draw)
    return x, torch.linspace(-2, 2, arms), torch.randint(1000, (points,), generator=draw), noise


def block_of(x, c, levels, noise) -> Block:
    """Every condition at every level, each with its own draw."""
    return Block(x, Conditions({"c": c}), np.arange(len(c)), levels, torch.arange(len(levels)), noise)


def errors(model, *problem, **how):
    """[arms, points, k]: what a task that asks for one block is sent."""

    def task():
        return (yield block_of(*problem))

    (out,) = together(model, [task()], **how)
    return out


def expected(x, c, levels, noise, process=PROCESS):
    """[arms, points, losses] float64, one entry at a time."""
    out = torch.empty(len(c), len(levels), 3, dtype=torch.float64)
    for p, i in enumerate(levels.tolist()):
        z = process.alpha[i] * x.double() + process.sigma[i] * noise[p].double()
        wanted = noise[p].double()
        if process.predicts == "v_prediction":
            wanted = process.alpha[i] * noise[p].double() - process.sigma[i] * x.double()
        for a in range(len(c)):
            d = 0.25 * z + c[a].double() + i / 1000 - wanted
            out[a, p] = torch.tensor([by_hand(v) for v in d.flatten().tolist()], dtype=torch.float64).mean(0)
    return out


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_errors_of_a_network_in_closed_form(predicts):
    process = Process(PROCESS.alpha, PROCESS.sigma, PROCESS.time, predicts)
    args = problem(3, 4)
    out = errors(fake(process)[0], *args, batch_size=32)
    assert out.shape == (3, 4, 3) and out.dtype == torch.float32 and out.device.type == "cpu"
    torch.testing.assert_close(out.double(), expected(*args, process), rtol=1e-5, atol=1e-6)


def test_a_perfect_network_has_no_error():
    """x = 0: the network that divides z by sigma_i sees the noise itself."""
    model = SimpleNamespace(
        process=PROCESS,
        device=torch.device("cpu"),
        denoise=lambda z, i, c: z / PROCESS.sigma[i].float()[:, None, None, None] + c["c"][:, None, None, None],
    )
    _, _, levels, noise = problem(2, 6)
    out = errors(model, torch.zeros(SHAPE), torch.tensor([0.0, 2.0]), levels, noise, batch_size=4)
    torch.testing.assert_close(out[0], torch.zeros(6, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(out[1], torch.tensor(by_hand(2.0)).expand(6, 3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 32, 1000])
@pytest.mark.parametrize("arms, points", [(1, 1), (1, 40), (3, 5), (10, 7), (17, 3), (33, 2), (100, 1)])
def test_any_batch_size_gives_the_same_rectangle(arms, points, batch_size):
    """Padding never leaks, arms beyond the batch are not lost, each (arm, point) is asked and no other."""
    x, c, levels, noise = problem(arms, points)
    model, asked = fake()
    out = errors(model, x, c, levels, noise, batch_size=batch_size)
    torch.testing.assert_close(out.double(), expected(x, c, levels, noise), rtol=1e-5, atol=1e-6)
    assert torch.equal(out, errors(fake()[0], x, c, levels, noise, batch_size=32))
    distinct = {(tuple(z.flatten().tolist()), i, v) for call in asked for z, i, v in call}
    assert len(distinct) == arms * points
    z = PROCESS.noised(x, noise, levels)
    assert distinct == {(tuple(z[p].flatten().tolist()), int(levels[p]), float(v)) for p in range(points) for v in c}
    assert all(16 <= len(call) <= max(batch_size, 16) for call in asked)
    assert sum(map(len, asked)) - arms * points < 16  # only a last call that is too short is filled up


def test_no_padding_where_the_batch_is_full():
    model, asked = fake()
    errors(model, *problem(10, 32), batch_size=40)
    assert [len(call) for call in asked] == [40] * 8


def test_a_call_of_parts_of_several_blocks():
    """Rows are point by point, arm by arm; arms, levels and draws are those of their own block."""
    (x, c, levels, noise), (y, d, others, draws) = problem(3, 4), problem(5, 6)
    first = Block(x, Conditions({"c": c}), np.array([0, 2]), levels, torch.tensor([3, 0, 1, 3]), noise)
    second = Block(y, Conditions({"c": d}), np.array([4, 1, 3]), others, torch.tensor([5, 5, 0, 2, 1, 4]), draws)
    model, asked = fake()
    out = measure(model, [(first, 3, 8), (second, 0, 18), (first, 0, 1)], 16, losses_only)
    assert [len(call) for call in asked] == [24]
    whole = expected(x, c[[0, 2]], levels, noise[[3, 0, 1, 3]]).transpose(0, 1).flatten(0, 1)
    other = expected(y, d[[4, 1, 3]], others, draws[[5, 5, 0, 2, 1, 4]]).transpose(0, 1).flatten(0, 1)
    wanted = torch.cat([whole[3:8], other, whole[:1]])
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_sign_turns_the_noise():
    """The errors of -1 times a draw are, bit for bit, those of a draw that is its negative."""
    x, c, levels, noise = problem(3, 4)
    signs = torch.tensor([1, -1, -1, 1], dtype=torch.int8)
    signed = Block(x, Conditions({"c": c}), np.arange(3), levels, torch.arange(4), noise, signs=signs)
    turned = block_of(x, c, levels, noise * signs[:, None, None, None])
    out, wanted = (measure(fake()[0], [(block, 1, 11)], 16, losses_only) for block in (signed, turned))
    assert torch.equal(out, wanted)
    assert not torch.equal(out, measure(fake()[0], [(block_of(x, c, levels, noise), 1, 11)], 16, losses_only))


@pytest.mark.parametrize("n", [1, 5, 11])
def test_a_short_call_is_filled_up_with_its_last_row(n):
    model, asked = fake()
    out = measure(model, [(block_of(*problem(3, 4)), 0, n)], 12, losses_only)
    assert out.shape == (n, 3) and [len(call) for call in asked] == [12]
    z, i, c = asked[0][n - 1]
    assert all(torch.equal(row[0], z) and row[1:] == (i, c) for row in asked[0][n:])


def test_half_precision_noise_is_taken_in_float32():
    x, c, levels, noise = problem(2, 3)
    noise = noise.half()
    assert torch.equal(
        errors(fake()[0], x.double(), c, levels, noise, batch_size=4),
        errors(fake()[0], x, c, levels, noise.float(), batch_size=4),
    )
