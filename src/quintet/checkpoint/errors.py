"""The error of a weight file that cannot be read."""


class CheckpointError(OSError):
    """A weight file is damaged, is not what its name says, or is refused as unsafe.

    An OSError, because that is what the reference raises from `from_pretrained` and what callers catch.
    """
