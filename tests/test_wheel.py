"""The built wheel works by itself, far from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli.conftest import TINY

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    subprocess.run([*build, REPOSITORY], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_holds_the_configs_and_the_package_alone(installed: Path) -> None:
    assert (installed / "vodet/py.typed").is_file()
    assert (installed / "vodet/evaluation/report/templates/page.html").is_file()
    shipped = {path.relative_to(installed / "vodet/conf") for path in installed.rglob("*.yaml")}
    assert shipped == {
        path.relative_to(REPOSITORY / "conf") for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"vodet"}
    (licence,) = installed.glob("*.dist-info/licenses/LICENSE")
    assert "Apache License" in licence.read_text()


@pytest.mark.slow
def test_trains_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    environment.pop("VODET_DATA", None)
    code = "import sys; sys.argv[0] = 'vodet-train'; from vodet.cli.main import train; train()"
    subprocess.run(
        [sys.executable, "-c", code, *TINY, "trainer.fast_dev_run=true"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=240,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    where = "import vodet; print(vodet.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(installed / "vodet" / "__init__.py")
