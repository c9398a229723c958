"""The Celery app of the queue is found where `celery -A captioning.queue` looks for it."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import patch

import pytest
from celery import Celery

import captioning.queue
from captioning.environment import child_environment
from captioning.errors import BrokerUnavailable
from captioning.queue.celery_app import make_celery, queued_messages, wake_workers
from captioning.settings import read_settings
from tests.support.polling import free_port, wait_until

FLOWER = """
import importlib, pkgutil, sys
import captioning.queue
for module in pkgutil.walk_packages(captioning.queue.__path__, "captioning.queue."):
    importlib.import_module(module.name)
from celery.__main__ import main
sys.argv = ["celery", "-A", "captioning.queue", "flower", "--address=127.0.0.1", f"--port={sys.argv[1]}"]
main()
"""


def import_every_submodule() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(captioning.queue.__path__, "captioning.queue.")]
    for name in names:
        importlib.import_module(name)
    return names


def test_no_submodule_hides_the_celery_app(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "captioning.queue.celery_app" in import_every_submodule()
    monkeypatch.delitem(vars(captioning.queue), "app", raising=False)
    assert isinstance(captioning.queue.app, Celery)
    assert captioning.queue.app is captioning.queue.app


def test_an_unknown_attribute_of_the_package_is_an_error() -> None:
    with pytest.raises(AttributeError):
        _ = captioning.queue.no_such_name


def test_a_broker_that_does_not_answer_is_named_as_the_reason() -> None:
    app = make_celery(read_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(BrokerUnavailable, match=r"the broker does not answer: .*refused"):
        wake_workers(app, 1)


def test_the_queue_is_filled_up_to_the_wanted_number_of_messages(broker_url: str) -> None:
    app = make_celery(read_settings(broker_url=broker_url))
    before = queued_messages(app)
    assert wake_workers(app, before + 3) == 3
    assert wake_workers(app, before + 3) == 0
    assert wake_workers(app, before + 5) == 2
    assert queued_messages(app) == before + 5
    app.control.purge()


@pytest.mark.processes
def test_flower_finds_the_app_after_every_submodule_was_imported(broker_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "flower.log"

    def answers() -> bool:
        assert flower.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, TimeoutError):
            return False

    with log.open("wb") as file:
        flower = subprocess.Popen(
            [sys.executable, "-P", "-c", FLOWER, str(port)],
            env=child_environment({"CAPTIONING_BROKER_URL": broker_url}),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_until(answers, 60, "Flower")
    finally:
        os.killpg(flower.pid, signal.SIGKILL)
        flower.wait()
    assert "Traceback" not in log.read_text()


STRANGERS = {
    "CELERY_BROKER_URL": "redis://stranger:6379/0",
    "CELERY_BROKER_READ_URL": "redis://stranger:6379/0",
    "CELERY_BROKER_WRITE_URL": "redis://stranger:6379/0",
    "CELERY_RESULT_BACKEND": "redis://stranger:6379/1",
    "CELERY_LOADER": "stranger.loader",
    "CELERY_CONFIG_MODULE": "stranger.config",
    "DJANGO_SETTINGS_MODULE": "stranger.settings",
}


def test_the_app_uses_the_configured_broker_whatever_celerys_own_variables_say() -> None:
    """Also for `celery -A`, which does not come through our command lines."""
    with patch.dict(os.environ, STRANGERS):
        app = make_celery(read_settings(broker_url="redis://ours:6379/0"))
        app.finalize()
        hosts = {app.connection_for_read().hostname, app.connection_for_write().hostname}
        loader = type(app.loader).__module__
        backend = app.conf.result_backend
    assert (hosts, loader, backend) == ({"ours"}, "celery.loaders.app", None)
