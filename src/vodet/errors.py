"""The errors that vodet raises for its users.

Each says what was expected, what was found, where, and what to do.
"""


class VodetError(Exception):
    """Base class of all errors that vodet raises for a fault in its input or its environment."""


class ConfigError(VodetError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(VodetError, ValueError):
    """An annotation file, prediction file or data set that is invalid or does not fit its use."""


class FrameError(VodetError, ValueError):
    """An image or video that is missing, damaged, or does not have the expected size."""


class CheckpointError(VodetError, ValueError):
    """A checkpoint that cannot be read, is not trusted, or does not fit the model or the data."""


class TrainingError(VodetError, RuntimeError):
    """A training run that cannot continue."""


class OutputError(VodetError, OSError):
    """A file that cannot be written."""
