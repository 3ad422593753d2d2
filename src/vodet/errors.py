"""The errors that vodet raises for invalid settings, files and data.

Each message says what was expected, what was found and where, and what to do.
"""


class VodetError(Exception):
    """Base class of all vodet errors, which are caused by settings, files or the machine."""


class ConfigError(VodetError, ValueError):
    """A setting, or a combination of settings, is invalid."""


class DataError(VodetError, ValueError):
    """An annotation file, predictions file or data set is invalid, or does not fit the task."""


class FrameError(VodetError, ValueError):
    """An image or a video is missing or damaged, or does not have the expected size."""


class CheckpointError(VodetError, ValueError):
    """A checkpoint cannot be read, is not trusted, or does not fit the detector or the data."""


class TrainingError(VodetError, RuntimeError):
    """A training run cannot continue."""


class OutputError(VodetError, OSError):
    """A file cannot be written."""
