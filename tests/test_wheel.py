"""The wheel: what a plain install brings along works without the checkout.

.venv/bin/pytest tests/test_wheel.py -m slow
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from autoresearch_kit.starter import templates

ROOT = Path(__file__).parents[1]


QUICK = ("blank", "python-speed", "compile-flags", "toy", "kernel-tuning")
"""Templates that run without a model or a device."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """How to call the `ark` of a wheel that was just built; it returns what came out of it."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (home / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "__pycache__" in name or "results.tsv" in name or "/build/" in name]
    site = home / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    for path in [site, *site.rglob("*")]:  # as an administrator installs it
        path.chmod(path.stat().st_mode & ~0o222)

    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "ARK_", "XDG_"))}
    env |= {"HOME": str(home), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    code = "import autoresearch_kit; print(autoresearch_kit.__file__)"
    where = subprocess.run([sys.executable, "-c", code], cwd=home, env=env, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(site))

    def ark(*words: str, cwd: Path) -> str:
        line = [sys.executable, "-m", "autoresearch_kit", *words]
        done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield ark
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.slow
def test_the_wheel_has_every_template(installed, tmp_path):
    listed = [line.split()[0] for line in installed("init", "--list", cwd=tmp_path).splitlines()]
    assert listed == list(templates())


@pytest.mark.slow
@pytest.mark.parametrize("template", templates())
def test_what_init_makes_passes_check_and_can_be_changed(template, installed, tmp_path):
    installed("init", "mine", "--template", template, cwd=tmp_path)
    installed("check", "mine", cwd=tmp_path)
    files = [path for path in (tmp_path / "mine").rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(files) > 3
    for path in files:
        assert path.stat().st_mode & 0o200, path


@pytest.mark.slow
@pytest.mark.parametrize("template", QUICK)
def test_what_init_makes_runs(template, installed, tmp_path):
    if template in ("compile-flags", "kernel-tuning") and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    installed("init", "mine", "--template", template, cwd=tmp_path)
    path = tmp_path / "mine/autoresearch-config.yaml"
    # The gate would repeat what is close, and is tested elsewhere.
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"decision": "first_better"}))
    installed("run", "mine", "--tag", "t", "--agent", "search", "--attempts", "1", cwd=tmp_path)
    log = json.loads(installed("log", "mine", "--tag", "t", "--json", cwd=tmp_path))
    assert len(log) == 2 and log[0]["value"] is not None
    assert {attempt["outcome"] for attempt in log} <= {"keep", "discard", "crash"}
