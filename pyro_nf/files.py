"""Files of tensors and plain values, written so that a crash leaves the old file or the new one."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["VERSION", "fingerprint", "read", "write"]

VERSION = "0.1.0"  # of the package; setup.cfg reads it here


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a file, all of it or nothing.

    Arguments:
        path: The file; its folder must exist.
        content: What ``torch.load(path, weights_only=True)`` shall give back.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:  # of the part, which means nothing to whoever named the target
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what :func:`write` has written, and refuse anything else.

    Arguments:
        path: The file.
        kind: What its entry ``"kind"`` must be.
    """
    try:
        content = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever torch and pickle find wrong with a foreign file
        raise ValueError(f"{os.fspath(path)!r} is no {kind} of pyro_nf, or is damaged") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{os.fspath(path)!r} is no {kind} of pyro_nf")
    return content


def fingerprint(data: Sequence[Any], **facts: Any) -> str:
    """A text that tells one fit from another: facts in JSON, and a hash of the data's tensors."""
    digest = hashlib.sha256()
    for item in pytree.tree_leaves(data):
        if isinstance(item, Tensor):
            digest.update(str((item.dtype, tuple(item.shape))).encode())
            digest.update(item.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(item, bool | int | float | str | None):
            digest.update(repr(item).encode())
    return json.dumps({**facts, "data": digest.hexdigest()[:16]}, sort_keys=True)
