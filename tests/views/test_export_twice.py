"""Two exports at once into one MLflow store, from one repository and from two clones.

.venv/bin/pytest tests/views/test_export_twice.py
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from autoresearch_kit.campaigns import all_campaigns
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.project import open_project
from autoresearch_kit.views import mlflow, mlflow_store
from tests.engine.conftest import _home, _surroundings, _template, tiny  # noqa: F401 - fixtures
from tests.views.test_export import Store, _environment, export, night, store  # noqa: F401 - fixtures


@pytest.mark.slow
def test_two_exports_of_one_repository_at_once_send_each_attempt_once(night, store):  # noqa: F811
    both = [
        subprocess.Popen(
            [*night.command, "export", "--mlflow", store], cwd=night.folder, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = sorted(process.communicate()[1] for process in both)
    # On a slow machine the first may take longer than the second waits.
    late = sum(process.returncode for process in both)
    assert "t: 6 new attempts, 0 were there\n" in said and "Traceback" not in "".join(said)
    assert "t: 0 new attempts, 6 were there\n" in said if late == 0 else "is held by process" in "".join(said)
    assert len(Store(store).parents) == 1


@pytest.mark.slow
def test_two_clones_that_set_up_a_store_at_once_do_not_spoil_it(night, store, tmp_path):  # noqa: F811
    shutil.copytree(night.root, tmp_path / "clone")
    folders = [night.folder, tmp_path / "clone" / night.folder.relative_to(night.root)]
    both = [
        subprocess.Popen([*night.command, "export", "--mlflow", store], cwd=folder, stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    export(night, "--mlflow", store)
    found = Store(store)
    assert len(found.parents) == 1 and sorted(found.children) == list(range(6))


@pytest.mark.slow
def test_what_is_there_twice_is_healed_by_the_next_export(night, store):  # noqa: F811
    export(night, "--mlflow", store)
    client, parent = (found := Store(store)).client, found.parents[0]
    key = parent.data.tags["ark.key"]
    client.set_tag(parent.info.run_id, "ark.key", "nobody finds it")
    assert "t: 6 new attempts, 0 were there" in export(night, "--mlflow", store).stderr
    client.set_tag(parent.info.run_id, "ark.key", key)
    for run in client.search_runs([found.experiment.experiment_id], "tags.`ark.attempt` = '3'"):
        client.create_run(found.experiment.experiment_id, tags=run.data.tags)  # a child that was cut short
    with pytest.raises(AssertionError, match="twice"):
        Store(store)
    assert "t: 0 new attempts, 6 were there" in export(night, "--mlflow", store).stderr
    healed = Store(store)
    assert len(healed.parents) == 1 and sorted(healed.children) == list(range(6))
    assert healed.history(healed.children[3], "score") == [(0, -1e-9)]


@pytest.mark.slow
def test_of_two_clones_that_export_at_once_one_takes_its_own_back(night, store, monkeypatch):  # noqa: F811
    finish, rivals = mlflow._finish_parent, []

    def while_another_finishes(client, parent, run, closed):
        experiment, key = client.get_run(parent).info.experiment_id, mlflow.identity(run, closed[0])
        while not rivals:
            other = mlflow._new_parent(client, experiment, run, closed[0], key)
            if other < parent:
                rivals.append(other)
            else:
                client.delete_run(other)
        finish(client, parent, run, closed)

    monkeypatch.setattr(mlflow, "_finish_parent", while_another_finishes)
    project = open_project(night.folder)
    with contextlib.closing(project.repository):
        told: list[str] = []
        mlflow.export(project.repository, project.spec.name, all_campaigns(project), store, told.append)
    assert any("another clone" in text for text in told)
    found = Store(store)
    assert [run.info.run_id for run in found.parents] == rivals and sorted(found.children) == list(range(6))
    assert {child.data.tags["mlflow.parentRunId"] for child in found.children.values()} == set(rivals)


def test_an_export_that_goes_on_elsewhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "WAIT_SECONDS", 0.0)
    with mlflow_store.alone(tmp_path, "sqlite:///a.db"):
        with mlflow_store.alone(tmp_path, "sqlite:///b.db"):
            pass
        same = f"sqlite:///{Path('a.db').absolute()}"
        said = r"the export into .*a\.db is held by process \d+"
        with pytest.raises(ArkError, match=said) as caught, mlflow_store.alone(tmp_path, same):
            pass
        assert "export again" in caught.value.hint and "ark run" not in caught.value.hint
    with mlflow_store.alone(tmp_path, "sqlite:///a.db"):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "(sqlite3.OperationalError) table experiments already exists\n[SQL: \nCREATE TABLE experiments (...)]\n"
        "(Background on this error at: https://sqlalche.me/e/20/e3q8)",
        "(sqlite3.IntegrityError) UNIQUE constraint failed: experiments.name\n[SQL: INSERT INTO experiments]",
        "(sqlite3.OperationalError) duplicate column name: step",
        "(sqlite3.OperationalError) database is locked\n[SQL: UPDATE x]",
        "The run 5 must be in the 'active' state. Current state is deleted.",
    ],
)
def test_what_a_database_says_when_two_write_is_a_sentence(text):
    error = mlflow_store.refused_by("sqlite:///a.db", Exception(text))
    assert error.message == "another program writes into MLflow at sqlite:///a.db at the moment"
    assert "export again" in error.hint


def test_no_statement_of_a_database_is_shown():
    error = mlflow_store.refused_by(
        "sqlite:///a.db", Exception("(x.Error) no such table: runs\n[SQL: SELECT 1]\n(Back")
    )
    assert error.message == "MLflow at sqlite:///a.db: (x.Error) no such table: runs"
