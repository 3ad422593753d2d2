"""Checks a checkpoint file before it is unpickled: the kind of file, its size and its checksums."""

from __future__ import annotations

import io
import os
import reprlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile, is_zipfile

from vodet.errors import CheckpointError

FilePath = str | os.PathLike[str]
ByteFile = io.BufferedReader | io.BytesIO

WHAT_READS_WHAT = (
    "ckpt=, resume= and init_from= read checkpoints written by vodet-train. init_from= also reads "
    "the weights of SLTnet and of the Faster R-CNN of torchvision and detectron2; `vodet-data "
    "import-weights PROGRAM SRC DST` converts these weights, and detectors of the transformers "
    "library, to checkpoints. For weights of a timm model, set model.backbone.checkpoint_path."
)

_CHUNK = 2**20  # bytes read at once
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxtuple = _short.maxdict = 5


def shown(value: object) -> str:
    """Format a value from a file for an error message: short and without control characters."""
    return _short.repr(value)


def entries(value: object) -> str:
    """Describe the content of a checkpoint for an error message: the keys of a dict, or a type."""
    if isinstance(value, dict):
        return f"the entries {shown(list(value))}"
    return f"a value of type {type(value).__name__}"


@contextmanager
def opened(path: FilePath) -> Iterator[ByteFile]:
    """Open a checkpoint for reading.

    Raises:
        CheckpointError: If ``path`` is not a regular file or cannot be opened. Pipes and devices
            are not opened, because reading from them may never end.
    """
    try:
        mode = Path(path).stat().st_mode
        file = Path(path).open("rb") if stat.S_ISREG(mode) else None  # noqa: SIM115  # closed below
    except FileNotFoundError as error:
        msg = f"Expected a checkpoint at {path}, found no such file."
        raise CheckpointError(msg) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"The checkpoint {path} cannot be opened: {reason}."
        raise CheckpointError(msg) from error
    if file is None:
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        msg = f"Expected a checkpoint at {path}, found {found}. Give a file, such as best.ckpt."
        raise CheckpointError(msg)
    with file:
        yield file


def is_zip(file: ByteFile) -> bool:
    """Return whether a file begins with the signature of a zip file, which torch.load also checks.

    The file position is 0 afterwards.
    """
    file.seek(0)
    beginning = file.read(4)
    file.seek(0)
    return beginning == b"PK\x03\x04"


def check_members(file: ByteFile) -> None:
    """Verify the checksum of every member of a zip file, which torch.load does not do.

    Raises:
        BadZipFile: If the file is truncated or damaged, two members have the same name, or the
            members claim more bytes than the file has (torch.save does not compress).
    """
    size = file.seek(0, os.SEEK_END)
    if not is_zipfile(file):
        msg = f"it is truncated: its {size} bytes do not end with the directory of a zip file"
        raise BadZipFile(msg)
    with ZipFile(file) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        if claimed > size:  # torch.save does not compress
            msg = f"its members claim {claimed} bytes, but the file has {size}"
            raise BadZipFile(msg)
        if len({member.filename for member in members}) < len(members):
            msg = "two of its members have the same name"
            raise BadZipFile(msg)
        for member in members:
            with archive.open(member) as stream:
                while stream.read(_CHUNK):
                    pass
    file.seek(0)
