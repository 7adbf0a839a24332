"""Settings that are made in Python: the same rules as for the variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpstore import ConfigurationError, Settings

TEXTS = ("store_backend", "sqlite_path", "sqlite_synchronous", "qdrant_url")


class PathTo:
    """A path that is no `Path`, which would change some texts."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __fspath__(self) -> str:
        return self._text


def test_a_path_may_be_any_path() -> None:
    for path in ("kp.db", Path("kp.db"), PathTo("kp.db")):
        assert Settings(sqlite_path=path).sqlite_path == "kp.db"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_a_text_that_is_not_empty(name: str) -> None:
    good = getattr(Settings(), name)
    refused: list[object] = ["", f"{good}\0", None, 1, good.encode()]
    if name != "sqlite_path":
        refused.append(PathTo(good))
    for value in refused:
        with pytest.raises(ConfigurationError, match=f"KP_{name.upper()}"):
            Settings(**{name: value})  # type: ignore[arg-type]


def test_a_size_is_a_whole_number_from_one_on() -> None:
    for size in (1, 2, 10**17):
        assert Settings(max_record_bytes=size).max_record_bytes == size
    for bad in (0, -1, True, 1.0, "1", None):
        with pytest.raises(ConfigurationError, match="KP_MAX_RECORD_BYTES"):
            Settings(max_record_bytes=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address", ["http://host", "https://host:1", "http://host:65535/path", "http://user:secret@[::1]:6333"]
)
def test_an_address_names_a_host_and_perhaps_a_port(address: str) -> None:
    assert Settings(qdrant_url=address).qdrant_url == address


@pytest.mark.parametrize(
    "address", ["host:6333", "ftp://host", "http://", "http://:80", "http://host:0", "http://host:no"]
)
def test_what_is_no_address_is_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match="KP_QDRANT_URL") as caught:
        Settings(qdrant_url=address)
    assert repr(address) in str(caught.value)


def test_what_may_hold_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="KP_QDRANT_URL") as caught:
        Settings(qdrant_url="ftp://user:hush@host")
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="KP_QDRANT_API_KEY") as caught:
        Settings(qdrant_api_key=b"hush")  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(Settings(qdrant_api_key="hush"))


def test_spaces_are_part_of_a_path_and_of_nothing_else() -> None:
    given = Settings.from_env(
        {
            "KP_STORE_BACKEND": " memory ",
            "KP_SQLITE_PATH": " kp.db ",
            "KP_SQLITE_SYNCHRONOUS": " normal ",
            "KP_QDRANT_URL": " http://host ",
            "KP_QDRANT_API_KEY": " key ",
            "KP_MAX_RECORD_BYTES": " 7 ",
        }
    )
    assert given == Settings("memory", " kp.db ", "normal", "http://host", "key", 7)


@pytest.mark.parametrize("size", ["", " "])
def test_an_empty_variable_is_unset(size: str) -> None:
    assert Settings.from_env({"KP_MAX_RECORD_BYTES": size}) == Settings()


@pytest.mark.parametrize("size", ["0", "-1", "+1", "1.0", "1_000", "٣", "1e3", "9" * 100])
def test_a_size_that_is_no_whole_number_is_refused(size: str) -> None:
    with pytest.raises(ConfigurationError, match="KP_MAX_RECORD_BYTES"):
        Settings.from_env({"KP_MAX_RECORD_BYTES": size})
