from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference values and sample videos, in a folder beside the developers' checkout."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"reference values and sample videos are not here: no folder {path}")
    return path
