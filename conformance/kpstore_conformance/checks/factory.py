"""Stores are opened by name, by `module:callable` or by an installed entry point, awaited or entered; each
bad setting names its variable, its value and what is allowed, but never a secret.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from kpstore import (
    AllStores,
    Clock,
    ConfigurationError,
    KpStoreError,
    ManualClock,
    Settings,
    StoreClosedError,
    create_store,
)
from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import MOMENT, skill, variables, within

_HERE = "kpstore_conformance.checks.factory"
_VARIABLES = (
    "KP_STORE_BACKEND",
    "KP_SQLITE_PATH",
    "KP_SQLITE_SYNCHRONOUS",
    "KP_QDRANT_URL",
    "KP_QDRANT_API_KEY",
    "KP_MAX_RECORD_BYTES",
)
_SECRET = "s3cr3t-that-nobody-may-see"  # noqa: S105  # what must not be shown
_STORES = ("skills", "knowledge", "reputation", "api_keys", "rate_limit", "audit_log")

_opened: list[tuple[Settings, Clock]] = []


async def open_recorded(settings: Settings, clock: Clock) -> AllStores:
    """A backend for these checks: the memory backend, and a note of what it was opened with."""
    _opened.append((settings, clock))
    return await create_store("memory", settings=settings, clock=clock)


not_callable = 5
"""Not a backend."""


def opens_nothing() -> None:
    """Not a backend: takes no settings."""


def opens_at_once(settings: Settings, clock: Clock) -> int:
    """Not a backend: not a coroutine function."""
    return 5


async def opens_a_number(settings: Settings, clock: Clock) -> int:
    """Not a backend: gives no stores."""
    return 5


def _only(**given: str) -> dict[str, str | None]:
    """An environment with these of our variables, and no others."""
    return {name: given.get(name) for name in _VARIABLES}


async def _refusal(opening: Callable[[], Any]) -> str:
    """The message of the ConfigurationError with which an opening ends."""
    try:
        stores = await opening()
    except ConfigurationError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{error!r} instead of a ConfigurationError") from error
    if isinstance(stores, AllStores):
        await stores.close()
    raise AssertionError(f"it opened, and gave a {type(stores).__name__}")


@check(clauses=["GEN-1", "CFG-1"], name="stores are the same whether awaited or entered")
async def awaited_or_entered(lab: Lab) -> None:
    """`await create_store()` and `async with create_store() as stores` give an AllStores with the six stores,
    its backend's name and a frozenset of capabilities; leaving the block closes it, after an error as well.
    """

    def opening() -> Any:
        return create_store(lab.backend_spec, settings=lab.settings, clock=lab.clock)

    awaited = await opening()
    await awaited.close()
    async with opening() as entered:
        await entered.skills.create(skill("one"))
    for stores in (awaited, entered):
        assert isinstance(stores, AllStores)
        for name in _STORES:
            assert getattr(stores, name) is not None
        assert isinstance(stores.backend, str)
        assert isinstance(stores.capabilities, frozenset)
        for call in (stores.skills.get_by_id("one"), stores.audit_log.query()):
            await _assert_closed(call)
    try:
        async with opening() as broken:
            raise LookupError("the caller's own")
    except LookupError:
        await _assert_closed(broken.skills.get_by_id("one"))
    async with opening() as left:
        await left.close()
    await left.close()
    async with awaited_stores(opening) as by_themselves:
        assert isinstance(by_themselves, AllStores)
    await _assert_closed(by_themselves.skills.search())


def awaited_stores(opening: Callable[[], Any]) -> Any:
    """Open stores in the block's own head: AllStores is a context manager too."""

    class _Block:
        async def __aenter__(self) -> AllStores:
            self.stores: AllStores = await opening()
            entered: AllStores = await self.stores.__aenter__()
            return entered

        async def __aexit__(self, *error: Any) -> None:
            await self.stores.__aexit__(*error)

    return _Block()


async def _assert_closed(call: Awaitable[Any]) -> None:
    try:
        await call
    except StoreClosedError:
        return
    raise AssertionError("a closed store answered")


@check(clauses=["CFG-1", "CFG-2"], name="a backend is found by its name, in any case and with spaces around")
async def names(lab: Lab) -> None:
    """As the argument and as the variable, a name is trimmed and any case will do; the argument wins; an
    empty variable is unset and means memory.
    """
    with variables(os.environ, _only()):
        for name in ("memory", "MEMORY", " Memory ", "\tmemOry\n"):
            async with create_store(name) as stores:
                assert stores.backend == "memory", f"{name!r} opens {stores.backend}"
    for value in ("", "   ", "memory", " MeMoRy "):
        with variables(os.environ, _only(KP_STORE_BACKEND=value)):
            async with create_store() as stores:
                assert stores.backend == "memory", f"KP_STORE_BACKEND={value!r} opens {stores.backend}"
    with variables(os.environ, _only(KP_STORE_BACKEND="not there")):
        async with create_store("memory") as stores:
            assert stores.backend == "memory", "the variable wins over the argument"
    spec = lab.backend_spec
    shouted = spec if ":" in spec else spec.upper()
    async with create_store(f"  {shouted} ", settings=lab.settings) as stores:
        named = stores.backend
    async with create_store(settings=lab.settings) as stores:
        assert stores.backend == named, "settings.store_backend is not what is opened"


@check(clauses=["CFG-2", "GEN-9"], name="a backend named module:callable gets the settings and the clock")
async def by_callable(lab: Lab) -> None:
    """`module:callable` is imported and called with the very settings and clock that were given, or with
    those of the environment and the system's clock.
    """
    _opened.clear()
    clock = ManualClock(MOMENT)
    settings = Settings(max_record_bytes=12_345)
    async with create_store(f" {_HERE}:open_recorded ", settings=settings, clock=clock) as stores:
        assert stores.backend == "memory"
    assert _opened == [(settings, clock)], "the backend was not opened with what was given"
    _opened.clear()
    given = _only(KP_STORE_BACKEND=f"{_HERE}:open_recorded", KP_MAX_RECORD_BYTES="54321")
    with variables(os.environ, given):
        async with create_store():
            pass
    ((settings, found),) = _opened
    assert settings.max_record_bytes == 54_321, "the backend was not opened with the environment's settings"
    assert found().utcoffset() is not None, "the default clock is naive"


@check(clauses=["CFG-1", "CFG-2", "GEN-6"], name="an unknown backend is refused with the known ones")
async def unknown_backends(lab: Lab) -> None:
    """A name that is none, and a module:callable that cannot be imported or is no backend, is a
    ConfigurationError that shows what was given; of a name it lists the known ones.
    """
    wrong: list[str] = []
    with variables(os.environ, _only()):
        for name in (
            "",
            " ",
            "redis",
            "memory2",
            "mem ory",
            "MÉMORY",
            "memory\0",
            "sqlite3",
            "kpstore.backends.memory",
        ):
            message = await _refused(name, wrong)
            if message and not all(known in message for known in ("memory", "sqlite", "qdrant")):
                wrong.append(f"{name!r}: the message does not list the known ones: {message}")
        for name in (
            "nowhere:open",
            "kpstore:nothing",
            ":open",
            "kpstore:",
            ":",
            "a:b:c",
            "..:x",
            ".relative:x",
            "os.:getcwd",
            f"{_HERE}:not_callable",
            f"{_HERE}:opens_nothing",
            f"{_HERE}:opens_at_once",
            f"{_HERE}:opens_a_number",
            "os:getcwd",
            "bad\0name:x",
            "\ud800:x",
        ):
            message = await _refused(name, wrong)
            if (
                message
                and name.encode("utf-8", "replace").decode() not in message
                and repr(name) not in message
            ):
                wrong.append(f"{name!r}: the message does not show it: {message}")
        for value in (5, b"memory", ["memory"], object()):
            await _refused(value, wrong)
    with variables(os.environ, _only(KP_STORE_BACKEND="Redis")):
        message = await _refused(None, wrong)
        parts = ("kp_store_backend", "redis", "memory")
        if message and not all(part in message.lower() for part in parts):
            wrong.append(
                f"the variable: the message does not name it, its value and the known ones: {message}"
            )
    assert not wrong, "\n".join(wrong)


async def _refused(name: Any, wrong: list[str]) -> str:
    try:
        return await _refusal(lambda: create_store(name))
    except AssertionError as failure:
        wrong.append(f"{name!r}: {failure}")
        return ""


@check(clauses=["CFG-2", "GEN-6"], name="a backend whose module breaks in its import is refused")
async def broken_modules(lab: Lab) -> None:
    """A backend whose module has a syntax error, raises in its import or lacks what it imports is a
    ConfigurationError with that as its cause.
    """
    contents = {
        "kpstore_check_syntax": "def open(:\n",
        "kpstore_check_raises": "raise RuntimeError('broken on purpose')\n",
        "kpstore_check_lacks": "import kpstore_check_is_nowhere\n",
    }
    for name, text in contents.items():
        _write(lab.folder / f"{name}.py", text)
    sys.path.insert(0, str(lab.folder))
    try:
        wrong: list[str] = []
        for name in contents:
            try:
                await create_store(f"{name}:open")
            except ConfigurationError as error:
                if error.__cause__ is None:
                    wrong.append(f"{name}: the error has no cause")
            except Exception as error:
                wrong.append(f"{name}: {error!r}")
        assert not wrong, "; ".join(wrong)
    finally:
        sys.path.remove(str(lab.folder))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@check(
    clauses=["CFG-3", "GEN-6"],
    name="each bad value of a variable is refused with its name and what is allowed",
)
async def bad_variables(lab: Lab) -> None:
    """Each value that does not parse, of each variable, is a ConfigurationError that names the variable,
    shows the value and says what is allowed, before anything is opened.
    """
    bad = {
        "KP_SQLITE_SYNCHRONOUS": ("off", "1", "FULLY", "full,normal", "extra", "fu ll"),
        "KP_MAX_RECORD_BYTES": (
            *("0", "-1", "1.5", "1e6", "1 MiB", "0x100", "1_000", "١٠٢٤", "ten", "NaN", "inf", "+-3"),
            "9" * 5000,
        ),
        "KP_QDRANT_URL": (
            "localhost:6333",
            "ftp://host",
            "http://",
            "://x",
            "http://host:port",
            "http://h:99999",
        ),
    }
    wrong = []
    for variable, values in bad.items():
        for value in values:
            with variables(os.environ, _only(**{variable: value})):
                try:
                    message = await _refusal(create_store)
                except AssertionError as failure:
                    wrong.append(f"{variable}={value[:40]!r}: {failure}")
                    continue
            shown = value[:40].lower() in message.lower()
            if variable not in message or not shown or "allowed" not in message:
                wrong.append(f"{variable}={value[:40]!r}: {message[:200]}")
    assert not wrong, "\n".join(wrong)


@check(clauses=["CFG-3"], name="each good value of a variable is what the settings have")
async def good_variables(lab: Lab) -> None:
    """Each variable sets its field; around all but a path spaces go; an empty one gives the default."""
    defaults = Settings.from_env({})
    assert (
        defaults.store_backend,
        defaults.sqlite_path,
        defaults.sqlite_synchronous,
        defaults.qdrant_url,
        defaults.qdrant_api_key,
        defaults.max_record_bytes,
    ) == ("memory", "knowledgepulse.db", "full", "http://localhost:6333", None, 1_048_576)
    assert Settings.from_env(dict.fromkeys(_VARIABLES, "")) == defaults, "an empty variable is not unset"
    for variable, value, field, expected in (
        ("KP_SQLITE_PATH", "/tmp/a b.db", "sqlite_path", "/tmp/a b.db"),  # noqa: S108  # only looked at
        ("KP_SQLITE_PATH", ":memory:", "sqlite_path", ":memory:"),
        ("KP_SQLITE_SYNCHRONOUS", " Normal ", "sqlite_synchronous", "normal"),
        ("KP_SQLITE_SYNCHRONOUS", "FULL", "sqlite_synchronous", "full"),
        ("KP_QDRANT_URL", " https://host:1 ", "qdrant_url", "https://host:1"),
        ("KP_QDRANT_API_KEY", _SECRET, "qdrant_api_key", _SECRET),
        ("KP_MAX_RECORD_BYTES", " 2048 ", "max_record_bytes", 2048),
        ("KP_MAX_RECORD_BYTES", "1", "max_record_bytes", 1),
    ):
        found = getattr(Settings.from_env({variable: value}), field)
        assert found == expected, f"{variable}={value!r} gives {found!r}"
    with variables(os.environ, _only(KP_MAX_RECORD_BYTES="4096")):
        assert Settings.from_env().max_record_bytes == 4096


@check(clauses=["CFG-3", "GEN-11"], name="a secret's value is never shown")
async def secrets_hidden(lab: Lab) -> None:
    """The Qdrant key, and a password in its address, are in no repr of the settings and in no error."""
    settings = Settings(qdrant_api_key=_SECRET)
    assert settings.qdrant_api_key == _SECRET
    for text in (repr(settings), str(settings), f"{[settings]}"):
        assert _SECRET not in text, "the settings' repr shows the key"
    texts = []
    for environment in (
        _only(KP_QDRANT_API_KEY=_SECRET, KP_STORE_BACKEND="nowhere"),
        _only(KP_QDRANT_API_KEY=_SECRET, KP_MAX_RECORD_BYTES="none"),
        _only(KP_QDRANT_API_KEY=_SECRET, KP_STORE_BACKEND="qdrant", KP_QDRANT_URL="http://127.0.0.1:1"),
        _only(KP_QDRANT_URL=f"ftp://user:{_SECRET}@host"),
        _only(KP_QDRANT_URL=f"http://user:{_SECRET}@host:port"),
    ):
        with variables(os.environ, environment):
            try:
                await within(30, create_store(), "opening")
            except KpStoreError as error:
                texts.append(f"{error!r} {error} {error.__cause__!r} {error.__context__!r}")
    assert texts, "no error was seen: nothing was tried"
    for text in texts:
        assert _SECRET not in text, f"an error shows a secret: {text.replace(_SECRET, '…')}"


@check(clauses=["CFG-3", "GEN-6"], name="settings and clocks of another kind are refused")
async def bad_arguments(lab: Lab) -> None:
    """Settings that are none and a clock that cannot be called are ConfigurationErrors; so is each bad value
    given to Settings by hand.
    """
    odd: tuple[dict[str, Any], ...] = ({"settings": {}}, {"settings": 5}, {"clock": MOMENT}, {"clock": 5})
    for arguments in odd:
        await _refusal(partial(create_store, "memory", **arguments))
    bad: tuple[dict[str, Any], ...] = (
        {"max_record_bytes": 0},
        {"max_record_bytes": True},
        {"max_record_bytes": 1.5},
        {"max_record_bytes": "100"},
        {"sqlite_path": ""},
        {"sqlite_path": "a\0b"},
        {"sqlite_path": 5},
        {"sqlite_synchronous": "off"},
        {"sqlite_synchronous": None},
        {"qdrant_url": "host"},
        {"qdrant_api_key": 5},
        {"store_backend": None},
    )
    for fields in bad:
        try:
            Settings(**fields)
        except ConfigurationError:
            continue
        raise AssertionError(f"Settings takes {fields}")


@check(clauses=["GEN-6", "CFG-1"], name="a Qdrant that is not there is an error of ours, in bounded time")
async def qdrant_absent(lab: Lab) -> None:
    """Opening the Qdrant backend where no server listens, or where the backend is not implemented, ends
    within 30 s in a KpStoreError that says so.
    """
    settings = Settings(qdrant_url="http://127.0.0.1:1")
    try:
        stores = await within(30, create_store("qdrant", settings=settings), "opening qdrant")
    except KpStoreError as error:
        message = str(error)
    else:
        await stores.close()
        raise AssertionError("a Qdrant opened where none listens")
    assert "qdrant" in message.lower() or "127.0.0.1:1" in message, f"it does not say which: {message}"


async def _python(program: str, environment: dict[str, str]) -> Any:
    """What a program prints as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=PIPE, stderr=PIPE, env=environment
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode(errors="replace")[-2000:]
    return json.loads(out)


_IMPORTED = """
import asyncio, json, sys
import kpstore
drivers = ("aiosqlite", "sqlite3", "qdrant_client", "grpc", "httpx", "kpstore_conformance", "pytest")
after_import = [name for name in drivers if name in sys.modules]
backends = [name for name in sys.modules if name.startswith("kpstore.backends.")]
async def main():
    async with kpstore.create_store("memory") as stores:
        await stores.skills.search()
asyncio.run(main())
after_memory = [name for name in drivers if name in sys.modules]
foreign = ("kpstore.backends.sqlite", "kpstore.backends.qdrant")
others = [name for name in sys.modules if name.startswith(foreign)]
print(json.dumps([after_import, backends, after_memory, others]))
"""


@check(
    clauses=["CFG-2", "MEM-1"], backends=["memory"], name="no driver is imported before its backend is chosen"
)
async def lazy_imports(lab: Lab) -> None:
    """`import kpstore` imports no backend and no driver, and opening memory none but its own."""
    found = await _python(_IMPORTED, {k: v for k, v in lab.environment.items() if k not in _VARIABLES})
    assert found == [[], [], [], []], f"imported too early: {found}"


_INSTALLED_BACKEND = """
import kpstore
async def open_store(settings, clock):
    stores = await kpstore.create_store("memory", settings=settings, clock=clock)
    return stores
"""

_INSTALLED = """
import asyncio, json, sys
import kpstore
async def main():
    answers = ["kpstore_check_installed" in sys.modules]
    async with kpstore.create_store(" Installed-By-Check ") as stores:
        answers.append(stores.backend)
    answers.append("kpstore_check_installed" in sys.modules)
    for name in ("nowhere", "broken-by-check"):
        try:
            await kpstore.create_store(name)
        except kpstore.ConfigurationError as error:
            answers.append(str(error))
    print(json.dumps(answers))
asyncio.run(main())
"""


@check(clauses=["CFG-2"], name="an installed package adds a backend without touching kpstore")
async def installed_backends(lab: Lab) -> None:
    """An entry point in the group kpstore.backends is a backend: found in any case, imported when chosen,
    listed among the known ones; one whose module is not there is a ConfigurationError.
    """
    folder = lab.folder / "site"
    info = folder / "kpstore_check-1.0.dist-info"
    _write(folder / "kpstore_check_installed.py", _INSTALLED_BACKEND)
    _write(info / "METADATA", "Metadata-Version: 2.1\nName: kpstore-check\nVersion: 1.0\n")
    _write(
        info / "entry_points.txt",
        "[kpstore.backends]\n"
        "Installed-by-Check = kpstore_check_installed:open_store\n"
        "broken-by-check = kpstore_check_nowhere:open_store\n",
    )
    environment = {k: v for k, v in lab.environment.items() if k not in _VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")])
    before, backend, after, unknown, broken = await _python(_INSTALLED, environment)
    assert before is False, "a backend was imported that nobody had chosen"
    assert (backend, after) == ("memory", True)
    assert "installed-by-check" in unknown.lower(), f"the known ones do not list it: {unknown}"
    assert "broken-by-check" in broken, f"the message does not name the backend: {broken}"


@check(
    clauses=["GEN-1", "GEN-10"], name="closing twice is closing once, and openings do not disturb each other"
)
async def closing_twice(lab: Lab) -> None:
    """close() again, or at the same time, neither raises nor waits; opening, closing and opening again works,
    and one opening's close does not close another's.
    """
    stores = await lab.open()
    await asyncio.gather(stores.close(), stores.close(), stores.close())
    await within(5, stores.close(), "closing once more")
    first, second = await create_store("memory"), await create_store("memory")
    await first.close()
    await second.skills.create(skill("one"))
    assert await second.skills.get_by_id("one") is not None
    await second.close()
    opening = create_store(lab.backend_spec, settings=lab.settings, clock=lab.clock)
    async with opening as again:
        await again.skills.create(skill("two"))
