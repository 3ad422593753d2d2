"""The errors a user can meet: each says what was expected, what was found, where, what to do."""


class VodetError(Exception):
    """Base of all errors that vodet raises for a mistake in its input."""


class ConfigError(VodetError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(VodetError, ValueError):
    """An annotation or prediction file, or a data set, that does not fit what is asked of it."""


class FrameError(VodetError, ValueError):
    """An image or video that is missing, damaged, or not of the size that was promised."""


class CheckpointError(VodetError, ValueError):
    """A checkpoint that cannot be read, is not trusted, or does not fit the model or the data."""


class TrainingError(VodetError, RuntimeError):
    """A training that cannot go on."""


class OutputError(VodetError, OSError):
    """A file that cannot be written."""
