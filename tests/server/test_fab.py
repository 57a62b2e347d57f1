"""What Flower ships to devices: the app, and nothing of the tests and simulations."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 10 * 2**20


@pytest.mark.slow
def test_bundle_is_small_and_holds_the_app_alone(tmp_path: Path) -> None:
    source = tmp_path / "fedrec"
    skip = shutil.ignore_patterns("__pycache__")
    for room in ("server", "client", "shared", "simulations", "tests"):
        shutil.copytree(ROOT / room, source / room, ignore=skip)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    flwr = Path(sys.executable).with_name("flwr")
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    done = subprocess.run(  # noqa: S603
        [str(flwr), "build"], cwd=source, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = source.glob("*.fab")
    assert bundle.stat().st_size < LIMIT
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {
        ".info",
        "LICENSE",
        "client",
        "pyproject.toml",
        "server",
        "shared",
    }
    assert {"server/app.py", "client/app.py", "shared/protocol/orders.py"} <= set(names)
