"""Settings: HARI_* variables, `.env`, files in /run/secrets. Read once, in a process's main; one error names all."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import SettingsError

DEFAULT_SCHEDULE = "5s,30s,2m,10m,1h,3h,6h,12h,24h,24h"
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
READ_ELSEWHERE = frozenset({"HARI_URL", "HARI_API_KEY", "HARI_CHECKOUT"})
KEY_FILE, URL_FILE = "api-key", "api-url"  # in the embedded data directory, for the client
SECRETS_DIR = Path("/run/secrets")

Bind = tuple[str, int]
Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """What every process may be told; each field is the variable HARI_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="HARI_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Path("var")
    database_url: str | None = Field(default=None, repr=False)
    broker_url: str | None = Field(default=None, repr=False)
    queue_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]{0,64}$")
    entities_file: Path | None = None
    producer_bind: Annotated[Bind, NoDecode] = ("127.0.0.1", 8080)
    metrics_bind: Annotated[Bind, NoDecode] = ("127.0.0.1", 9464)
    bootstrap_api_key: SecretStr | None = None
    admin_password: SecretStr | None = None
    public_url: str | None = None
    secret_keys: SecretStr | None = None
    retry_schedule: Annotated[tuple[float, ...], NoDecode] = Field(default=DEFAULT_SCHEDULE, validate_default=True)
    claim_lease_s: float | None = Field(default=None, gt=0, le=3600)
    reconcile_after_s: float = Field(default=240, ge=1, le=86400)
    delivery_timeout_s: int = Field(default=15, ge=1, le=30)
    egress_allow: Annotated[tuple[Network, ...], NoDecode] = ()
    allow_http: bool = False
    ca_file: Path | None = None
    slots: int = Field(default=512, ge=1, le=10_000)
    failpoint: str | None = None
    log_format: str = Field(default="auto", pattern="^(auto|json|console)$")

    @field_validator("producer_bind", "metrics_bind", mode="before")
    @classmethod
    def _read_bind(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        host, colon, port = given.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"must be host:port, like 127.0.0.1:8080, not {given!r}")
        return host.strip("[]"), int(port)

    @field_validator("retry_schedule", mode="before")
    @classmethod
    def _read_schedule(cls, given: Any) -> Any:
        return tuple(duration_s(word) for word in given.split(",") if word.strip()) if isinstance(given, str) else given

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _read_networks(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return tuple(_network(word.strip()) for word in given.split(",") if word.strip())

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value != ""}

    @field_validator("entities_file", "ca_file")
    @classmethod
    def _check_file(cls, given: Path | None) -> Path | None:
        if given is not None and not given.is_file():
            raise ValueError(f"there is no file {given}; correct the path, or mount the file there")
        return given

    @field_validator("secret_keys")
    @classmethod
    def _check_secret_keys(cls, given: SecretStr | None) -> SecretStr | None:
        try:
            for key in keys_in(given.get_secret_value()) if given is not None else ():
                Fernet(key)
        except ValueError:
            raise ValueError("must be keys as `hari new-secret-key` makes them, separated by commas") from None
        return given

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, given: str | None) -> str | None:
        if given is not None and not re.match(r"^postgres(ql)?(\+psycopg)?://", given):
            raise ValueError("must start with postgresql://, like postgresql://user:password@host:5432/hari")
        return given.replace("postgres://", "postgresql://", 1) if given else given

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, given: str | None) -> str | None:
        if given is not None and not re.match(r"^amqps?://", given):
            raise ValueError("must start with amqp:// or amqps://, like amqp://user:password@host:5672/")
        return given

    @field_validator("bootstrap_api_key")
    @classmethod
    def _check_api_key(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not re.fullmatch(r"hari_[!-~]{24,}", given.get_secret_value()):
            raise ValueError(
                "must be hari_ and 24 or more printable ASCII characters, like hari_ and 32 random letters"
            )
        return given

    @field_validator("admin_password")
    @classmethod
    def _check_admin_password(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not 12 <= len(given.get_secret_value()) <= 200:
            raise ValueError("must have 12 to 200 characters")
        return given

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(r"https?://[^/?#@\s]+/?", given):
            raise ValueError("must be the origin that browsers use, like https://hooks.example.com")
        return given.rstrip("/") if given else given

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if (self.database_url is None) != (self.broker_url is None):
            raise ValueError("HARI_DATABASE_URL and HARI_BROKER_URL are set both (real servers) or neither (embedded)")
        if self.database_url is not None and self.secret_keys is None:
            raise ValueError("HARI_SECRET_KEYS is needed with HARI_DATABASE_URL; make one with: hari new-secret-key")
        return self

    @property
    def embedded(self) -> bool:
        """Whether everything lives in files under `data_dir`."""
        return self.database_url is None

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'hari.db').absolute()}"


def keys_in(text: str) -> tuple[str, ...]:
    """The keys of HARI_SECRET_KEYS, newest first."""
    return tuple(text.replace(",", " ").split())


def _network(word: str) -> Network:
    try:
        return ip_network(word)
    except ValueError as error:
        raise ValueError(f"{error}; write networks like 10.1.0.0/16 or fd00::/8, separated by commas") from None


def duration_s(word: str) -> float:
    """Seconds in `5s`, `2m`, `1h`, `250ms`, `1d`; raises ValueError that says the form."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(ms|s|m|h|d)\s*", word)
    if not found:
        raise ValueError(f"{word!r} is no duration; write a number and ms, s, m, h or d, like 30s")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    if not 0 < seconds <= 7 * 86400:
        raise ValueError(f"{word!r} must be more than nothing and at most 7d")
    return seconds


def read_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings of this process. Raises SettingsError naming every bad variable at once.

    `environ` stands for the process's environment in tests; `.env` and /run/secrets are read only without it.
    """
    try:
        if environ is not None:
            given = {key[5:].lower(): value for key, value in environ.items() if key.startswith("HARI_")}
            return Settings.model_validate({k: v for k, v in given.items() if k in Settings.model_fields} | overrides)
        source: dict[str, Any] = {"_secrets_dir": SECRETS_DIR} if SECRETS_DIR.is_dir() else {}
        return Settings(**source, **overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(["these settings cannot be used:", *_faults(error)])) from None


def unknown_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """HARI_ variables that nothing reads -> the setting that each is closest to ("" when none is close)."""
    known = {f"HARI_{name.upper()}" for name in Settings.model_fields}
    given = {name for name in environ if name.startswith("HARI_") and not name.startswith("HARI_TEST_")}
    unknown = sorted(given - known - READ_ELSEWHERE)
    return {name: next(iter(get_close_matches(name, known, 1, 0.8)), "") for name in unknown}


_FORMS = {
    "queue_prefix": "must be at most 64 characters of A-Z a-z 0-9 _ . -",
    "claim_lease_s": "must be seconds, more than 0 and at most 3600, like 45",
    "reconcile_after_s": "must be seconds from 1 to 86400, like 240",
    "delivery_timeout_s": "must be whole seconds from 1 to 30, like 15",
    "allow_http": "must be 1 or 0",
    "slots": "must be a whole number from 1 to 10000, like 512",
    "log_format": "must be auto, json or console",
}
"""What is asked of the fields that pydantic checks, in our words. None of them holds a secret."""


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        field = str(fault["loc"][0]) if fault["loc"] else ""
        if field in _FORMS:
            detail = f"{_FORMS[field]}, not {str(fault['input'])[:60]!r}"
        else:
            detail = fault["msg"].removeprefix("Value error, ")
        faults.append(f"  HARI_{field.upper()}: {detail}" if field else f"  {detail}")
    return faults
