"""Names of losses, number formats and the default levels; imports nothing heavy."""

LOSSES = ["l2", "l1", "huber"]  # the last axis of every error tensor; all of them come from one network call
DTYPES = ("float16", "bfloat16", "float32")
NOISES = ("independent", "antithetic")
MIDDLE = (0.2, 0.8)  # of the schedule: where a race measures, and classes differ most


def usual_levels(search: str) -> str:
    """--levels of a search by default: all of them, but for a race."""
    if search != "race":
        return "0-1"
    low, high = MIDDLE
    return f"{low:g}-{high:g}"


def usual_noise(search: str, noise_path: object) -> str:
    """--noise of a search by default: of a race, unless the noise is a file's, antithetic."""
    if search == "race" and noise_path is None:
        return "antithetic"
    return "independent"
