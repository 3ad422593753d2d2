"""Finds the files of ImageNet VID and DET in ``Annotations`` (XML) and ``Data`` (JPEG)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vodet.data.formats.folders import find_folder, listed, relative
from vodet.errors import DataError


class Files:
    """Looks up the annotation files or the images of a split; a stem is a name without suffix.

    Callers should look up files folder by folder: then each folder is listed only once, which is
    faster than checking each file.

    Args:
        root: The folder that contains ``Annotations`` or ``Data``.
        kind: ``Annotations`` for XML files, ``Data`` for images.
        split: Data set and split, such as ``VID/train``.

    Raises:
        DataError: If the folder of the split is missing.
    """

    def __init__(self, root: Path, kind: str, split: str) -> None:
        self.folder = find_folder(root, (f"{kind}/{split}",), f"the {kind.lower()} of {split}")
        self._suffix = {"Annotations": ".xml", "Data": ".JPEG"}[kind]
        self._listed: tuple[str, set[str]] | None = None

    def path(self, name: str) -> Path:
        """Return the full path of a file, given its path in the split's folder without suffix."""
        return self.folder / f"{name}{self._suffix}"

    def stems(self, folder: str) -> set[str]:
        """Return the stems of the files in a subfolder of the split.

        Raises:
            DataError: If the folder is missing.
        """
        if self._listed is None or self._listed[0] != folder:
            path = self.folder / folder
            try:
                names = os.listdir(path)  # noqa: PTH208  a million names, which need no Path
            except OSError as error:
                found = f"found none ({error.strerror})"
                msg = f"Expected a folder of {self._suffix} files at {path}, {found}."
                raise DataError(msg) from error
            self._listed = folder, set(self._stems(names))
        return self._listed[1]

    def expect(self, folder: str, stems: Collection[str]) -> None:
        """Check that a subfolder of the split has files with these stems.

        Raises:
            DataError: If files are missing; the message names the first missing files.
        """
        if missing := set(stems) - self.stems(folder):
            names = listed(f"{stem}{self._suffix}" for stem in missing)
            msg = (
                f"{len(missing)} of {len(stems)} files are not in {self.folder / folder}: {names}. "
                "Each frame needs its .JPEG in Data, and each annotated frame also its .xml in "
                "Annotations."
            )
            raise DataError(msg)

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each subfolder that contains files, with the stems of its files, both sorted."""
        for place, folders, names in os.walk(self.folder):
            folders.sort()
            if stems := sorted(self._stems(names)):
                yield relative(Path(place), self.folder), stems

    def _stems(self, names: list[str]) -> list[str]:
        return [name.removesuffix(self._suffix) for name in names if name.endswith(self._suffix)]
