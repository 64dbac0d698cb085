"""The two ways in which asking for data or a model by name can fail."""


class DataUnavailableError(OSError):
    """A data set or model cannot be had from any of the places where it may lie."""


class DataIntegrityError(DataUnavailableError, ValueError):
    """A file was found but is not what it should be: damaged, altered, or of another layout."""
