"""The store of MLflow: reached in a sensible time, in silence, with every mistake as a sentence."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.lab.cache import cache_root, make_private
from autoresearch_kit.ledger.lock import Lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment of MLflow, whatever the user's: nobody else hears of this."""
DEFAULTS = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_ENABLE_ASYNC_LOGGING": "false"}
"""The same unless the user has set it: since MLflow 3 a folder as a store has to be wished for."""
FIRST_CONTACT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""The same until a server has answered once: MLflow tries a server that is not there for minutes."""
DATABASE_TRIES = 3
"""The same for a database; MLflow has no variable for it."""
BUSY = ("already exists", "is locked", "unique constraint", "duplicate ", "online migration", "'active' state")
"""In what a store says, in lower case, when two set it up or write the same, or one deletes what another sends."""
AGAIN = "wait for it, and export again: what is there is not sent twice"
WAIT_SECONDS = 20.0
"""For another export into the same store; to set up a database takes up to ten seconds on a busy machine."""


@contextlib.contextmanager
def alone(folder: Path, uri: str) -> Iterator[None]:
    """As the one that has the store at `uri` by a lock in `folder`; ArkError when another has it for too long."""
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
        yield  # somebody else's repository may be exported all the same
        return
    # One store, however its path is written.
    path = re.sub(r"^(sqlite:///|file:(//)?)", "", uri)
    place = uri if re.match(r"[\w+.-]+://", path) else str(Path(path.partition("?")[0]).absolute())
    digest = hashlib.sha256(place.encode("utf-8", "replace")).hexdigest()[:12]
    lock = Lock(folder / f"+mlflow-{digest}.lock", f"the export into {shown(uri)}", AGAIN, WAIT_SECONDS)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MLflow without telemetry, log and warnings. It reads some of its settings once, when it is imported."""
    os.environ.update(SETTINGS)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Older versions print an address for each run.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def connect(uri: str) -> MlflowClient:
    """The store at `uri`, which has answered once; ArkError when MLflow is not installed, or does not reach it."""
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise ArkError(
            "ark export --mlflow needs MLflow, which is not installed",
            f"install it: {sys.executable} -m pip install mlflow-skinny",
        ) from None
    with contextlib.suppress(ImportError):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = min(utils.MAX_RETRY_COUNT, DATABASE_TRIES)
    ours = {name: value for name, value in FIRST_CONTACT.items() if name not in os.environ}
    os.environ.update(ours)
    with contextlib.suppress(ArkError):
        make_private(cache_root())
    try:
        with alone(cache_root(), uri):  # two that set up a database at once can spoil it, from two clones also
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except ImportError as error:
        raise ArkError(
            f"the store {shown(uri)} cannot be used: {clean_line(str(error), 200)}",
            f"install what is missing; what most stores need comes with {sys.executable} -m pip install mlflow",
        ) from None
    except errors() as error:
        raise refused_by(uri, error) from None
    finally:
        for name in ours:
            os.environ.pop(name, None)
    return client


def errors() -> tuple[type[Exception], ...]:
    """What MLflow and the libraries below it raise."""
    from mlflow.exceptions import MlflowException

    found: list[type[Exception]] = [MlflowException, OSError]  # an error of `requests` is an OSError
    with contextlib.suppress(ImportError):
        from sqlalchemy.exc import SQLAlchemyError

        found.append(SQLAlchemyError)
    with contextlib.suppress(ImportError):
        from alembic.util import CommandError

        found.append(CommandError)
    return tuple(found)


def refused_by(uri: str, error: Exception) -> ArkError:
    """An error of `errors()` as a sentence, without a password."""
    text = str(getattr(error, "message", None) or error).strip().replace(uri, shown(uri))
    if "Max retries exceeded" in text or "timed out" in text:
        return ArkError(f"MLflow at {shown(uri)} does not answer", "start it, or correct the address")
    text = re.split(r"\[SQL: |\(Background on this error", text)[0]
    if any(words in text.lower() for words in BUSY):
        return ArkError(
            f"another program writes into MLflow at {shown(uri)} at the moment",
            AGAIN,
        )
    return ArkError(
        f"MLflow at {shown(uri)}: {clean_line(text, 300)}",
        "a store is a server (http://...), a database (sqlite:////FOLDER/mlflow.db) or a folder",
    )


def shown(uri: str) -> str:
    """An address without the name and the password in it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "that address"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def experiment_of(client: MlflowClient, name: str, uri: str) -> tuple[str, bool]:
    """The identity of the project's experiment, which is made if need be, and whether it may be given files."""
    name = clean_line(name, 250) or "ark"
    found = client.get_experiment_by_name(name) or _made(client, name, uri)
    if found.lifecycle_stage != "active":
        raise ArkError(
            f"the experiment {name} was deleted in MLflow, which keeps its name",
            f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}",
        )
    remote = urlsplit(uri).scheme not in ("", "file", "sqlite")
    # A database on another machine may name a folder of that machine.
    local = urlsplit(found.artifact_location).scheme in ("", "file")
    return found.experiment_id, not (remote and local)


def _made(client: MlflowClient, name: str, uri: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        # Beside the database; MLflow would take a folder below the current one.
        return client.get_experiment(client.create_experiment(name, artifact_location=_beside(uri)))
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return found  # somebody else made it in between


def _beside(uri: str) -> str | None:
    if not uri.startswith("sqlite:///"):
        return None
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return (path.absolute().parent / "mlartifacts").as_uri()
