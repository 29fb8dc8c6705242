"""The file from which a run that was cut short goes on, as if it had not been."""

import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

from pyro_nf.files import read, write

__all__ = ["CHECKPOINT_FORMAT", "Checkpoint"]

CHECKPOINT_FORMAT = 13


class Checkpoint:
    """A file to which a run is saved now and then.

    Arguments:
        path: The file; None for a run that is not saved.
        identity: What it must agree on to be of this run.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self._saved = time.monotonic()

    def is_due(self, every: float) -> bool:
        """Whether the run was saved more than so many seconds ago."""
        return self.path is not None and time.monotonic() - self._saved > every

    def load(self) -> dict[str, Any] | None:
        """What was saved; None if nothing was, and an error if it is of another run."""
        if self.path is None or not os.path.exists(self.path):
            return None
        content = read(self.path, "checkpoint")
        if content["identity"] != self.identity:
            raise ValueError(
                "the checkpoint is of another fit: it was made with "
                f"{content['identity']}, and this call has {self.identity}; delete the file, or "
                "name another"
            )
        return content

    def save(self, content: Mapping[str, Any]) -> None:
        """Write the file; a path that cannot be written is a warning, and the run goes on.

        Arguments:
            content: Tensors and plain values.
        """
        if self.path is None:
            return
        self._saved = time.monotonic()
        try:
            write(self.path, {"kind": "checkpoint", "identity": self.identity, **content})
        except OSError as error:
            warnings.warn(
                f"the checkpoint {os.fspath(self.path)!r} cannot be written: {error}; the fit goes "
                "on without",
                stacklevel=6,  # past Run's, and fit, to the line that called fit
            )
            self.path = None
