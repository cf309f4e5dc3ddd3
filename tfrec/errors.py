"""The errors of commands. They stand apart from their commands, because a class of a module that runs with `python -m`
belongs to `__main__`, and `run_command` tells tfrec's own errors by the module that they belong to.
"""


class ClientError(ValueError):
    """A server that cannot be reached, or that refused the request; the message says why."""


class EncodeError(ValueError):
    """Options that do not go together."""


class LayersError(ValueError):
    """A study that the data or the encoder cannot give."""


class SweepError(ValueError):
    """A sweep file is broken; the message names the key and what it should be."""
