"""Settings: what is read, what is refused, and that one message names everything at once."""

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.secrets import new_key
from shared.settings import DEFAULT_SCHEDULE, Settings, duration_s, read_settings, unknown_settings


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("HARI_PRODUCER_BIND", "8080", "must be host:port"),
        ("HARI_METRICS_BIND", "127.0.0.1:99999", "must be host:port"),
        ("HARI_RETRY_SCHEDULE", "5s,abc", "'abc' is no duration"),
        ("HARI_RETRY_SCHEDULE", "0s", "more than nothing"),
        ("HARI_DELIVERY_TIMEOUT_S", "31", "must be whole seconds from 1 to 30, like 15, not '31'"),
        ("HARI_DELIVERY_TIMEOUT_S", "1.5", "must be whole seconds from 1 to 30, like 15, not '1.5'"),
        ("HARI_CLAIM_LEASE_S", "0", "must be seconds, more than 0"),
        ("HARI_RECONCILE_AFTER_S", "soon", "must be seconds from 1 to 86400, like 240, not 'soon'"),
        ("HARI_SLOTS", "many", "must be a whole number from 1 to 10000, like 512, not 'many'"),
        ("HARI_ALLOW_HTTP", "maybe", "must be 1 or 0, not 'maybe'"),
        ("HARI_LOG_FORMAT", "xml", "must be auto, json or console, not 'xml'"),
        ("HARI_EGRESS_ALLOW", "office", "write networks like 10.1.0.0/16"),
        ("HARI_EGRESS_ALLOW", "10.0.0.1/8", "has host bits set"),
        ("HARI_BOOTSTRAP_API_KEY", "hari_short", "24 or more"),
        ("HARI_SECRET_KEYS", "x", "new-secret-key"),
        ("HARI_ENTITIES_FILE", "/nope", "there is no file /nope"),
        ("HARI_CA_FILE", "/nope", "there is no file /nope"),
        ("HARI_QUEUE_PREFIX", "a b", "must be at most 64 characters of A-Z a-z 0-9 _ . -, not 'a b'"),
        ("HARI_DATABASE_URL", "mysql://x", "must start with postgresql://"),
        ("HARI_BROKER_URL", "redis://x", "must start with amqp://"),
        ("HARI_DATABASE_URL", "postgresql://h/db", "set both"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str, detail: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: value})
    assert name in str(refused.value)
    assert detail in str(refused.value)


def test_no_setting_answers_in_the_words_of_a_library() -> None:
    # NUL fits no setting but the ones that any text fits.
    bad = {f"HARI_{name.upper()}": "a b\x00" for name in Settings.model_fields}
    with pytest.raises(SettingsError) as refused:
        read_settings(bad)
    lines = str(refused.value).splitlines()[1:]
    any_text = {"HARI_DATA_DIR", "HARI_FAILPOINT"}
    assert {line.split(":")[0].strip() for line in lines} == bad.keys() - any_text
    foreign = ("Input", "Value error", "pattern", "valid", "parse")
    assert [line for line in lines if any(word in line for word in foreign)] == []


def test_every_bad_value_is_named_at_once() -> None:
    bad = {"HARI_SECRET_KEYS": "x", "HARI_CA_FILE": "/nope", "HARI_SLOTS": "0", "HARI_PRODUCER_BIND": "x"}
    with pytest.raises(SettingsError) as refused:
        read_settings(bad)
    assert all(name in str(refused.value) for name in bad)


def test_a_bad_url_is_not_repeated_in_the_message() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"HARI_BROKER_URL": "http://user:hunter2@host"})
    assert "hunter2" not in str(refused.value)


def test_real_servers_need_secret_keys() -> None:
    servers = {"HARI_DATABASE_URL": "postgres://h/db", "HARI_BROKER_URL": "amqp://h"}
    with pytest.raises(SettingsError, match="HARI_SECRET_KEYS"):
        read_settings(servers)
    settings = read_settings(servers | {"HARI_SECRET_KEYS": new_key()})
    assert settings.database_url == "postgresql://h/db"
    assert not settings.embedded


def test_empty_is_unset(tmp_path: Path) -> None:
    settings = read_settings({"HARI_CA_FILE": "", "HARI_DATABASE_URL": "", "HARI_DATA_DIR": str(tmp_path)})
    assert settings.ca_file is None
    assert settings.embedded
    assert settings.data_dir == tmp_path


def test_the_default_schedule_takes_about_seventy_hours() -> None:
    waits_s = read_settings({}).retry_schedule
    assert len(waits_s) == len(DEFAULT_SCHEDULE.split(",")) == 10
    assert sum(waits_s) / 3600 == pytest.approx(70, abs=1)


@pytest.mark.parametrize(("word", "seconds"), [("250ms", 0.25), ("5s", 5), ("2m", 120), ("1h", 3600), ("1d", 86400)])
def test_durations(word: str, seconds: float) -> None:
    assert duration_s(word) == seconds


def test_a_misspelt_name_is_told_with_the_right_one() -> None:
    environ = {
        "HARI_RETRY_SHEDULE": "1s",
        "HARI_URL": "x",
        "HARI_TEST_BROKER_URL": "x",
        "HARI_SLOTS": "1",
        "HARI_XYZ": "1",
    }
    assert unknown_settings(environ) == {"HARI_RETRY_SHEDULE": "HARI_RETRY_SCHEDULE", "HARI_XYZ": ""}


def test_no_secret_stands_in_the_representation() -> None:
    secret = {"HARI_DATABASE_URL": "postgresql://u:hunter2@h/db", "HARI_BROKER_URL": "amqp://u:hunter2@h"}
    settings = read_settings(
        secret | {"HARI_SECRET_KEYS": new_key(), "HARI_BOOTSTRAP_API_KEY": "hari_" + "hunter2" * 5}
    )
    assert "hunter2" not in repr(settings)
