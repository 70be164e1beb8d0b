"""Schedulers as they are found: of any class, of older versions, of packages that are not installed."""

import inspect
import warnings

import diffusers

from diffusion import InputError, InputWarning, one_line
from diffusion.core.process import Process

SPELLED = {"v": "v_prediction", "v-prediction": "v_prediction", "velocity": "v_prediction", "eps": "epsilon"}
SPELLED |= {"noise": "epsilon", "x0": "sample", "original_sample": "sample", "flow": "flow_prediction"}
EDM = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"}
KNOWN = {"epsilon", "v_prediction", "sample", "flow_prediction"}


def scheduler_of(config: dict, source: str):
    """The scheduler that a configuration describes: its class's, or where that is not to be had, one of equal noise.

    A null is a default; what older versions wrote is understood. InputError, naming the `source`, unless it has betas,
    or is of flow matching or EDM, and says what the network predicts in a word that we know.
    """
    name = str(config.get("_class_name"))
    told = {key: value for key, value in config.items() if value is not None and not key.startswith("_")}
    if told.pop("predict_epsilon", True) is False:  # diffusers before 0.9
        told.setdefault("prediction_type", "sample")
    if "prediction_type" in told:
        told["prediction_type"] = SPELLED.get(told["prediction_type"], told["prediction_type"])
    cls = getattr(diffusers, name.removeprefix("Flax"), None)
    if cls is None or hasattr(cls, "_backends"):  # diffusers' stand-in where a package is not installed
        betas = {"beta_schedule", "trained_betas"} & told.keys()
        if not betas and "shift" not in told:
            raise InputError(source, f"its scheduler, {name}, is unknown or needs a package that is not installed")
        cls = diffusers.DDPMScheduler if betas else diffusers.FlowMatchEulerDiscreteScheduler
    takes = inspect.signature(cls.__init__).parameters
    if told.get("rescale_betas_zero_snr") and "beta_schedule" in takes and "rescale_betas_zero_snr" not in takes:
        cls = diffusers.DDPMScheduler  # PNDM and others would leave the betas as they are, and say nothing
    try:
        scheduler = cls.from_config(told)
        flow, edm = "FlowMatch" in cls.__name__, cls.__name__ in EDM
        predicts = "flow_prediction" if flow else scheduler.config.get("prediction_type", "epsilon")
        if scheduler.config.get("invert_sigmas"):
            raise ValueError("invert_sigmas, of networks whose sigma runs from noise to the image")
        if not (flow or edm) and not (hasattr(scheduler, "betas") and hasattr(scheduler, "alphas_cumprod")):
            raise ValueError(f"known are those with betas, flow matching's, and {', '.join(sorted(EDM))}")
        if predicts not in KNOWN or (edm and predicts not in ("epsilon", "v_prediction")):
            raise ValueError(f"prediction_type {predicts!r}, known are {', '.join(sorted(KNOWN))}")
        if scheduler.config.get("use_flow_sigmas") and predicts != "flow_prediction":
            raise ValueError(f"use_flow_sigmas with prediction_type {predicts!r}")
        if scheduler.config.get("timestep_type") == "continuous" and predicts == "v_prediction":
            raise ValueError("timestep_type 'continuous', of networks that are told log(sigma) / 4")
        process = Process.from_scheduler(scheduler)
        if len(process) < 2 or not (process.alpha.isfinite() & process.sigma.isfinite()).all():
            raise ValueError("noise levels that are no numbers")
    except (ValueError, TypeError, NotImplementedError, RuntimeError, ImportError, AttributeError) as error:
        raise InputError(source, f"its scheduler, {name}, is none for us: {one_line(error)}") from None
    return scheduler


def flow_scheduler(config: dict, source: str, pipeline: str):
    """The scheduler of a network that exists as flow matching only, in whose folder lies another kind.

    `Class.from_config` of a scheduler with betas takes a flow-matching scheduler's configuration without a word, and
    predicts epsilon (diffusers 0.42.1). It keeps what it does not know, so the shift is still there. Warns.
    """
    told = {key: value for key, value in config.items() if value is not None and not key.startswith("_")}
    told.pop("prediction_type", None)
    name = config.get("_class_name")
    found = f"its scheduler, {name}, is none of flow matching"
    warnings.warn(
        f"{source}: {found}, but a {pipeline}'s network predicts its velocity: read as that", InputWarning, stacklevel=4
    )
    return scheduler_of(told | {"_class_name": "FlowMatchEulerDiscreteScheduler"}, source)
