"""Schedulers as folders hold them: of any class, from older versions, from packages that are not installed."""

import inspect
import warnings

import diffusers

from diffusion import InputError, InputWarning, one_line
from diffusion.core.process import Process
from diffusion.models.checkpoint import FOREIGN

SPELLED = {"v": "v_prediction", "v-prediction": "v_prediction", "velocity": "v_prediction", "eps": "epsilon"}
SPELLED |= {"noise": "epsilon", "x0": "sample", "original_sample": "sample", "flow": "flow_prediction"}
EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}
PREDICTIONS = {"epsilon", "v_prediction", "sample", "flow_prediction"}


def scheduler_of(config: dict, source: str):
    """The scheduler that a configuration describes, or one of another class with the same noise levels.

    Another class stands in if the configured one is not installed, or ignores a setting that the levels need. A null
    is a default; spellings of older versions are understood. Raises InputError, naming the `source`, unless the
    scheduler has betas, or is of flow matching or EDM, and the network's prediction is one of `PREDICTIONS`.
    """
    name = str(config.get("_class_name"))
    settings = _settings(config)
    cls = _class_of(name, settings, source)
    try:
        scheduler = cls.from_config(settings)
    except (*FOREIGN, NotImplementedError) as error:
        raise _unsupported(source, name, error) from None
    problem = _problem(scheduler)
    if problem:
        raise _unsupported(source, name, problem)
    process = Process.from_scheduler(scheduler)
    if len(process) < 2:
        raise _unsupported(source, name, f"{len(process)} noise levels, wanted two or more")
    finite = process.alpha.isfinite() & process.sigma.isfinite()
    if not finite.all():
        raise _unsupported(source, name, "noise levels are not finite")
    return scheduler


def _unsupported(source: str, name: str, problem: Exception | str) -> InputError:
    return InputError(source, f"unsupported scheduler {name}: {one_line(problem)}")


def _settings(config: dict) -> dict:
    """The settings of a configuration, without nulls and diffusers' own notes, in today's spelling."""
    settings = {key: value for key, value in config.items() if value is not None and not key.startswith("_")}
    if settings.pop("predict_epsilon", True) is False:  # diffusers before 0.9
        settings.setdefault("prediction_type", "sample")
    if "prediction_type" in settings:
        prediction = settings["prediction_type"]
        settings["prediction_type"] = SPELLED.get(prediction, prediction)
    return settings


def _class_of(name: str, settings: dict, source: str):
    """The class of this name, or one with the same noise levels. Raises InputError if neither is installed."""
    cls = getattr(diffusers, name.removeprefix("Flax"), None)
    if cls is None or hasattr(cls, "_backends"):  # diffusers' stand-in for a class whose package is not installed
        has_betas = bool({"beta_schedule", "trained_betas"} & settings.keys())
        if not has_betas and "shift" not in settings:
            raise InputError(source, f"its scheduler, {name}, is unknown or needs a package that is not installed")
        cls = diffusers.DDPMScheduler if has_betas else diffusers.FlowMatchEulerDiscreteScheduler
    takes = inspect.signature(cls.__init__).parameters
    if settings.get("rescale_betas_zero_snr") and "beta_schedule" in takes and "rescale_betas_zero_snr" not in takes:
        return diffusers.DDPMScheduler  # PNDM and others would silently leave the betas as they are
    return cls


def _problem(scheduler) -> str | None:
    """Why a scheduler is unsupported, if it is."""
    config, name = scheduler.config, type(scheduler).__name__
    flow, edm = "FlowMatch" in name, name in EDM
    predicts = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    if config.get("invert_sigmas"):
        return "invert_sigmas, of networks whose sigma runs from noise to the image"
    if not (flow or edm) and not (hasattr(scheduler, "betas") and hasattr(scheduler, "alphas_cumprod")):
        return f"supported are those with betas, flow matching's, and {', '.join(sorted(EDM))}"
    if predicts not in PREDICTIONS or (edm and predicts not in ("epsilon", "v_prediction")):
        return f"prediction_type {predicts!r}, supported are {', '.join(sorted(PREDICTIONS))}"
    if config.get("use_flow_sigmas") and predicts != "flow_prediction":
        return f"use_flow_sigmas with prediction_type {predicts!r}"
    if config.get("timestep_type") == "continuous" and predicts == "v_prediction":
        return "timestep_type 'continuous', of networks whose time is log(sigma) / 4"
    return None


def flow_scheduler(config: dict, source: str, pipeline: str):
    """A flow-matching scheduler for a network that exists as flow matching only, in place of one of another kind.

    `Class.from_config` of a scheduler with betas silently takes a flow-matching scheduler's configuration, and predicts
    epsilon (diffusers 0.42.1). It keeps settings that it does not use, so the shift is still there. Warns.
    """
    settings = _settings(config)
    settings.pop("prediction_type", None)
    found = f"its scheduler, {config.get('_class_name')}, is none of flow matching"
    warnings.warn(
        f"{source}: {found}, but a {pipeline}'s network predicts its velocity: read as that", InputWarning, stacklevel=4
    )
    return scheduler_of(settings | {"_class_name": "FlowMatchEulerDiscreteScheduler"}, source)
