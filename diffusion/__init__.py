"""Diffusion Classifier: a diffusion model's prediction errors, read as a classifier."""


class InputError(ValueError):
    """What the user gave cannot work; the message is one line that says what was found and what was wanted."""


class InputWarning(UserWarning):
    """What the user gave works, but perhaps not as meant; one line too."""
