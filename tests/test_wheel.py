"""The wheel: what a plain install brings along works without the checkout.

.venv/bin/pytest tests/test_wheel.py -m slow
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_init_works_from_an_installed_wheel(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "__pycache__" in name or "results.tsv" in name or "/build/" in name]
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)

    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "ARK_", "XDG_"))}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(site)}
    env |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    code = "import autoresearch_kit, sys; print(autoresearch_kit.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(site))
    for template in ("blank", "toy", "kernel-tuning"):
        for words in (["init", template, "--template", template], ["check", template]):
            ark = [sys.executable, "-m", "autoresearch_kit", *words]
            done = subprocess.run(ark, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
