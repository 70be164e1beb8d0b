"""Every scheduler class that diffusers ships: noise levels and targets against its own functions, or one line."""

import inspect

import diffusers
import numpy as np
import pytest
import torch

from diffusion import InputError
from diffusion.core.process import Process
from diffusion.models.scheduler import scheduler_of

CLASSES = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
# of sampling with other noise, of tokens, of time that is not ours, or without noise levels that the class tells
REFUSED = {
    "AmusedScheduler", "BlockRefinementScheduler", "CMStochasticIterativeScheduler",
    "CosineDPMSolverMultistepScheduler", "DDPMWuerstchenScheduler", "DiscreteDDIMScheduler",
    "EntropyBoundScheduler", "FlowMapEulerDiscreteScheduler", "HeliosDMDScheduler", "HeliosScheduler",
    "IPNDMScheduler", "KarrasVeScheduler", "LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "PiflowScheduler",
    "RFD4ProteinaScheduler", "SCMScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "VQDiffusionScheduler",
}  # fmt: skip
USABLE = [name for name in CLASSES if name not in REFUSED and not name.startswith("EDM")]  # test_own_models.py
ABSENT = {"DPMSolverSDEScheduler"}  # it needs torchsde
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEVELS = [0, 1, 10, 250, 500, 900, 998, 999]


@pytest.fixture(scope="module")
def made():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 8, generator=rng, dtype=torch.float64)
    return x, torch.randn(len(LEVELS), 4, 8, 8, generator=rng, dtype=torch.float64)


def options(name: str, **wanted) -> dict:
    """Those of some options that a class has."""
    cls = getattr(diffusers, name)
    known = inspect.signature((diffusers.DDPMScheduler if name in ABSENT else cls).__init__).parameters
    return {"_class_name": name} | {key: value for key, value in wanted.items() if key in known}


KINDS = {
    "default": {},
    "sd": SD,
    "v": SD | {"prediction_type": "v_prediction"},
    "zero snr": SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "trained": {"trained_betas": np.linspace(1e-4, 0.03, 1000).tolist()},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


OF_EVERY_CLASS = ("sd", "zero snr")
OF_SOME = ("DDPMScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")


KINDS_OF_CLASSES = [(kind, name) for kind in OF_EVERY_CLASS for name in USABLE]
KINDS_OF_CLASSES += [(kind, name) for kind in KINDS if kind not in OF_EVERY_CLASS for name in OF_SOME]


@pytest.mark.parametrize("kind, name", KINDS_OF_CLASSES)
def test_noise_and_target(made, name, kind):
    x, eps = made
    config = options(name, **KINDS[kind])
    for key in {"UnCLIPScheduler": ["prediction_type", "beta_schedule"], "RePaintScheduler": ["trained_betas"]}.get(
        name, []
    ):
        config.pop(key, None)  # they know none
    if name in ABSENT and "trained_betas" not in config:
        config.setdefault("beta_schedule", "linear")
    scheduler = scheduler_of(config, name)
    process, i = Process.from_scheduler(scheduler), torch.tensor(LEVELS)
    z = process.noised(x, eps, i)
    if process.predicts == "flow":
        told = torch.tensor([float(process.time[k]) for k in LEVELS])
        assert torch.allclose(told.double() / 1000, process.sigma[i]) and torch.allclose(
            z, (1 - process.sigma[i, None, None, None]) * x + process.sigma[i, None, None, None] * eps
        )
        assert torch.equal(process.target(x, eps, i), eps - x)
        return
    last = -1 if kind == "zero snr" else None  # some classes write 2**-24 there, for their own division
    abar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(process.alpha[:last] ** 2, abar[:last], rtol=1e-3, atol=3e-6)
    np.testing.assert_allclose(process.alpha**2 + process.sigma**2, 1, rtol=1e-12)
    if hasattr(scheduler, "add_noise") and name != "RePaintScheduler":  # which points to DDPMScheduler's
        theirs = their_noise(scheduler, x, eps, i, abar)
        keep = slice(0, -1) if kind == "zero snr" else slice(None)
        torch.testing.assert_close(z[keep], theirs[keep], rtol=2e-3, atol=2e-3)
    wanted = config.get("prediction_type", "epsilon")
    assert process.predicts == (
        wanted if "prediction_type" in config else scheduler.config.get("prediction_type", "epsilon")
    )
    if process.predicts == "v_prediction":
        how = (
            scheduler
            if hasattr(scheduler, "get_velocity") and name != "EulerDiscreteScheduler"
            else diffusers.DDPMScheduler.from_config(dict(scheduler.config))
        )
        v = how.get_velocity(x.expand_as(eps), eps, i)
        keep = slice(0, -1) if kind == "zero snr" else slice(None)
        torch.testing.assert_close(process.target(x, eps, i)[keep].float(), v[keep].float(), rtol=2e-3, atol=2e-3)
    assert process.time[i].tolist() == LEVELS


@pytest.mark.parametrize("name", ["LCM", "TCD", "EulerDiscrete", "EulerAncestralDiscrete", "DDIM"])
def test_a_distilled_model_has_its_teachers_levels(name):
    """However few of them, and in whatever spacing, its own scheduler samples at: sdxl-turbo's, LCM's, Lightning's."""
    teacher = Process.from_scheduler(diffusers.DDPMScheduler(**SD))
    few = options(f"{name}Scheduler", **SD, timestep_spacing="trailing", original_inference_steps=50)
    student = Process.from_scheduler(scheduler_of(few, name))
    assert len(student) == 1000 and student.predicts == "epsilon" and torch.equal(student.time, teacher.time)
    assert torch.equal(student.alpha, teacher.alpha) and torch.equal(student.sigma, teacher.sigma)


def their_noise(scheduler, x, eps, i, abar):
    """add_noise of the class, in the scale that keeps the variance; those that work in sigma are told all levels."""
    if (
        hasattr(scheduler, "set_timesteps")
        and hasattr(scheduler, "sigmas")
        and hasattr(scheduler, "index_for_timestep")
    ):
        try:
            scheduler.set_timesteps(num_inference_steps=1000)
            order = [float(t) for t in scheduler.timesteps]
            if any(float(k) not in order for k in i):
                raise LookupError
        except (LookupError, ValueError, TypeError, AssertionError):
            sigma = ((1 - abar) / abar).sqrt()[i, None, None, None]
            return (x + sigma * eps) / (1 + sigma**2).sqrt()
        noisy = scheduler.add_noise(x.expand_as(eps).clone(), eps, i.to(scheduler.timesteps.dtype)).double()
        if "DPMSolver" in type(scheduler).__name__ or "DEIS" in type(scheduler).__name__:
            return noisy
        if type(scheduler).__name__ in ("UniPCMultistepScheduler", "SASolverScheduler"):
            return noisy
        sigma = ((1 - abar) / abar).sqrt()[i, None, None, None]
        return noisy / (1 + sigma**2).sqrt()
    return scheduler.add_noise(x.expand_as(eps).clone(), eps, i).double()


@pytest.mark.parametrize("name", sorted(REFUSED & set(CLASSES)))
def test_others_are_refused(name):
    with pytest.raises(InputError, match=name):
        scheduler_of({"_class_name": name}, "models/x")


def test_no_class_is_forgotten():
    assert set(CLASSES) >= {"EulerDiscreteScheduler", "PNDMScheduler", "LCMScheduler", "DPMSolverSDEScheduler"}
    assert len(USABLE) > 25


OLD = [  # as older versions wrote them -> what they mean
    ({"prediction_type": None, "trained_betas": None}, "epsilon"),
    ({"predict_epsilon": False}, "sample"),
    ({"predict_epsilon": True}, "epsilon"),
    ({"prediction_type": "v"}, "v_prediction"),
    ({"num_train_timesteps": None}, "epsilon"),
    ({"_class_name": "FlaxDDIMScheduler"}, "epsilon"),
    ({"_class_name": "DPMSolverSDEScheduler"}, "epsilon"),
    ({"_class_name": "OfNobodyScheduler"}, "epsilon"),
    ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "clip_sample": None}, "epsilon"),
]  # fmt: skip


@pytest.mark.parametrize("config, predicts", OLD)
def test_older_spellings(config, predicts):
    scheduler = scheduler_of({"_class_name": "DDIMScheduler", "_diffusers_version": "0.2.0"} | SD | config, "x")
    process = Process.from_scheduler(scheduler)
    plain = Process.from_scheduler(diffusers.DDPMScheduler(**SD))
    assert process.predicts == predicts and torch.equal(process.alpha, plain.alpha)


@pytest.mark.parametrize("name", ["PNDM", "LMSDiscrete", "HeunDiscrete"])
def test_zero_terminal_snr_of_a_class_that_knows_none(name):
    config = SD | {"rescale_betas_zero_snr": True}
    found = Process.from_scheduler(scheduler_of({"_class_name": f"{name}Scheduler"} | config, "x"))
    assert found.alpha[-1] == 0
    assert torch.equal(found.alpha, Process.from_scheduler(diffusers.DDPMScheduler(**config)).alpha)
