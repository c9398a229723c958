"""Settings: values derived from others, and the environments of child processes."""

import pytest

from captioning.environment import (
    available_cores,
    child_environment,
    child_environment_without_secrets,
    set_for_children,
)
from captioning.errors import UsageError
from captioning.settings import LEASE_PER_DECODE_TIMEOUT, read_settings
from producer.embedded.client import _decode_share


@pytest.mark.parametrize(
    ("lease", "decode_timeout", "effective"), [(30, 20, 30), (10, 20, 30), (60, 20, 60), (10, 2, 10), (100, 100, 150)]
)
def test_the_effective_lease_is_at_least_one_and_a_half_decode_timeouts(
    lease: float, decode_timeout: float, effective: float
) -> None:
    settings = read_settings(lease_seconds=lease, decode_timeout_seconds=decode_timeout)
    assert settings.effective_lease_seconds == effective == max(lease, LEASE_PER_DECODE_TIMEOUT * decode_timeout)


def test_a_child_reads_the_settings_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = read_settings(data_dir="/data", broker_url="redis://queue", worker_name="w", bundles="/a:/b")
    for name, value in parent.as_environment().items():
        monkeypatch.setenv(name, value)
    child = read_settings()
    assert child.data_dir == parent.data_dir
    assert child.broker_url == parent.broker_url
    assert child.store_url == parent.store_url
    assert child.worker_name == parent.worker_name
    assert child.bundles == parent.bundles


def test_a_child_environment_contains_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("LANG", "C")
    environment = child_environment({"LANG": "en_US.UTF-8"})
    assert (environment["HOME"], environment["LANG"]) == ("/home/somebody", "en_US.UTF-8")


def test_a_child_environment_without_secrets_has_no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_BROKER_URL", "redis://:Kirschkern@queue")
    monkeypatch.setenv("PGPASSWORD", "Kirschkern")
    environment = child_environment_without_secrets({"OMP_NUM_THREADS": "1"})
    assert "Kirschkern" not in "".join(environment.values())
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_variable_that_is_set_for_children_is_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_MODEL", "old")
    set_for_children("CAPTIONING_MODEL", "new")
    assert child_environment({})["CAPTIONING_MODEL"] == "new"
    assert read_settings().model == "new"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("LEASE_SECONDS", "soon", "write a number above 0, at most 86400"),
        ("LEASE_SECONDS", "nan", "write a number above 0, at most 86400"),
        ("BATCH_SIZE", "abc", "write auto or a whole number from 1 to 1024"),
        ("BATCH_SIZE", "1.5", "write auto or a whole number from 1 to 1024"),
        ("BATCH_SIZE", "1e99", "write auto or a whole number from 1 to 1024"),
        ("BATCH_SIZE", "-1", "write auto or a whole number from 1 to 1024"),
        ("DEBUG", "perhaps", "write true or false"),
        ("RUNTIME", "onnx", "write auto, torch or openvino"),
        ("DEVICE", "gpu", "write auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(f"CAPTIONING_{name}", value)
    with pytest.raises(UsageError) as raised:
        read_settings()
    assert str(raised.value) == f"CAPTIONING_{name}={value}: {remedy}."


def test_an_empty_setting_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONING_BATCH_SIZE", "")
    assert read_settings().batch_size == "auto"


@pytest.mark.parametrize("url", ["postgres://u@host/db", "postgresql://u@host/db", "POSTGRES://u@host/db"])
def test_the_forms_of_a_database_url_that_hosting_services_give_out_are_accepted(url: str) -> None:
    assert read_settings(database_url=url).store_url == "postgresql+psycopg://u@host/db"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("/data/captions.sqlite", "sqlite:////"),
        ("host=db user=me", "postgresql"),
        ("sqlite://captions.sqlite", "three slashes"),
    ],
)
def test_what_is_no_database_url_is_explained(url: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        read_settings(database_url=url)


def test_embedded_workers_have_names_of_their_own() -> None:
    one, three = read_settings(embedded_workers=1), read_settings(embedded_workers=3)
    assert three.embedded_worker_names[:1] == one.embedded_worker_names
    assert len(set(three.embedded_worker_names)) == 3


def test_one_embedded_worker_is_enough_without_a_gpu() -> None:
    assert len(read_settings(device="cpu").embedded_worker_names) == 1


def test_embedded_workers_share_the_cores_for_decoding() -> None:
    assert _decode_share(read_settings(embedded_workers=1)) == {}
    shared = int(_decode_share(read_settings(embedded_workers=16))["CAPTIONING_DECODE_PROCESSES"])
    assert 1 <= shared <= max(1, available_cores() // 16)
    assert _decode_share(read_settings(embedded_workers=2, decode_processes=5)) == {}
