"""The command from end to end, on small stores and for a few milliseconds each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from kpstore_conformance.bench.cli import main
from kpstore_conformance.bench.result import Run, read_result, schema
from kpstore_conformance.bench.worker import SECTIONS, OpenRate, Task, names, run_section
from kpstore_conformance.latency.stopwatch import StopWatch

import kpstore.cli

QUICK = ("--passes", "1", "--calls", "5", "--seconds", "0.001", "--load-seconds", "0.05", "--quiet")

SLOW_BACKEND = """\
import asyncio
from kpstore.backends.memory import open_store as open_memory


async def open_store(settings, clock):
    stores = await open_memory(settings, clock)
    get = stores.knowledge.get_by_id

    async def slow(id):
        await asyncio.sleep(0.005)
        return await get(id)

    stores.knowledge.get_by_id = slow
    return stores


async def refuses(settings, clock):
    from kpstore import BackendUnavailableError
    raise BackendUnavailableError("nobody is at home")


async def dies(settings, clock):
    import os
    os._exit(7)
"""


def bench(*arguments: object) -> int:
    return kpstore.cli.main(["bench", *map(str, arguments)])


def task(section: str, **changes: Any) -> Task:
    default = Task(
        backend="memory",
        adapter=None,
        section=section,
        size=200,
        seed=0,
        wanted=frozenset(),
        passes=2,
        most_calls=5,
        seconds=0.005,
        open_loop=None,
        clients=(1, 4),
        processes=1,
        load_seconds=0.05,
        folder=None,
    )
    return replace(default, **changes)


# ---- every operation


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@pytest.mark.parametrize("section", sorted(set(SECTIONS) - {"load"}))
async def test_every_operation_of_a_section_is_measured(section: str, backend: str) -> None:
    wanted = [name for name in await names() if name.startswith(f"{section}/")]
    steps: list[tuple[str, int, int]] = []
    found = await run_section(
        task(
            section, backend=backend, wanted=frozenset(wanted), passes=1, open_loop=OpenRate(per_second=2000)
        ),
        lambda *step: steps.append(step),
    )
    assert [each.name for each in found.operations] == wanted
    assert ("filling", 200, 200) in steps
    assert {name for name, _, _ in steps} >= set(wanted)
    for each in found.operations:
        assert each.closed.p50_us > 0
        assert (each.open is None) == (each.records_per_call > 1)
    assert (found.facts.file_bytes is None) == (found.facts.open_seconds is None) == (backend == "memory")


async def test_what_is_undone_leaves_the_store_as_it_was() -> None:
    """Writes of documents are taken back after each pass: a store that grows is measured at another size."""
    from kpstore import create_store

    section = SECTIONS["knowledge"](200, 0)
    async with create_store("memory") as stores:
        await section.fill(stores, lambda count: None)
        before = {unit.id: unit async for unit in stores.knowledge.scan()}
        for operation in section.operations(stores):
            if operation.writes:
                batch = await operation.make(5)
                for call in batch.calls:
                    await call()
                assert {unit.id: unit async for unit in stores.knowledge.scan()} != before, operation.name
                assert batch.undo is not None
                await batch.undo()
                assert {unit.id: unit async for unit in stores.knowledge.scan()} == before, operation.name


async def test_the_load_has_a_point_for_each_number_of_clients_and_each_share_of_the_peak() -> None:
    found = await run_section(task("load", wanted=frozenset({"load/read", "load/write"})), lambda *step: None)
    assert [(each.mix, each.clients) for each in found.load] == [
        (mix, clients) for mix in ("read", "write") for clients in (1, 4, None, None, None, None)
    ]
    for mix in ("read", "write"):
        points = [each for each in found.load if each.mix == mix]
        peak = max(each.per_second for each in points[:2])
        shares = [each.offered_per_second / peak for each in points[2:] if each.offered_per_second]
        assert shares == pytest.approx([0.25, 0.5, 0.75, 0.9])


@pytest.mark.parametrize(("processes", "points"), [(1, 6), (2, 11)])
async def test_each_point_of_the_load_finds_stores_at_rest(
    processes: int, points: int, rests: list[StopWatch]
) -> None:
    """What an index still has to take in of the writes before is no cost of these calls."""
    wanted = frozenset({"load/write"})
    found = await run_section(
        task("load", backend="sqlite", wanted=wanted, processes=processes), lambda *step: None
    )
    assert len(found.load) == len(rests) == points


async def test_several_processes_share_the_load_where_the_backend_lets_them() -> None:
    wanted = frozenset({"load/mixed"})
    shared = task("load", backend="sqlite", wanted=wanted, processes=2, clients=(1, 3))
    found = await run_section(shared, lambda *step: None)
    closed = [(each.processes, each.clients) for each in found.load if each.clients is not None]
    assert closed == [(1, 1), (1, 3), (2, 3)]
    assert all(each.calls for each in found.load)
    alone = await run_section(replace(shared, backend="memory"), lambda *step: None)
    assert {each.processes for each in alone.load} == {1}


# ---- the command


@pytest.fixture
def slow_backend(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (workplace / "slow_backend.py").write_text(SLOW_BACKEND, "utf-8")
    monkeypatch.syspath_prepend(str(workplace))
    return "slow_backend"


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--list", "--operation", "*/search/cold*", "--operation", "load/?????") == 0
    assert capsys.readouterr().out.split() == [
        "knowledge/search/cold_phrase",
        "skills/search/cold_phrase",
        "load/mixed",
        "load/write",
    ]


def test_a_backend_of_ones_own_from_the_command_to_the_picture(
    slow_backend: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        bench(
            *("--backend", f"memory,{slow_backend}:open_store", "--size", "100,200"),
            *("--operation", "knowledge/g*", "--json", "a.json", "--html", "a.html", *QUICK),
        )
        == 0
    )
    out = capsys.readouterr()
    assert out.err == ""
    document = json.loads((workplace / "a.json").read_bytes())
    jsonschema.validate(document, schema())
    runs = read_result(workplace / "a.json").runs
    assert [(run.backend, run.size, run.section) for run in runs] == [
        (backend, size, "knowledge")
        for backend in ("memory", "slow_backend:open_store")
        for size in (100, 200)
    ]

    def p50_us(run: Run) -> float:
        return run.operations[0].closed.p50_us

    assert p50_us(runs[0]) < 5000 <= p50_us(runs[2])
    assert "knowledge/get" in out.out
    assert "</html>" in (workplace / "a.html").read_text("utf-8")
    assert main(["show", "a.json", "--html", "b.html"]) == 0
    assert capsys.readouterr().out == out.out
    assert (workplace / "a.html").read_text("utf-8") == (workplace / "b.html").read_text("utf-8")


@pytest.mark.parametrize(("backend", "message"), [("refuses", "nobody is at home"), ("dies", "ended with 7")])
def test_a_backend_that_cannot_be_measured_is_named(
    slow_backend: str, backend: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--backend", f"{slow_backend}:{backend}", "--operation", "knowledge/get", *QUICK) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kpstore bench: {slow_backend}:{backend} 1k knowledge: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_interrupt_ends_it_and_leaves_no_database(tmp_path: Path) -> None:
    # Whoever starts tests in the background of a shell has interrupts ignored, and so has what they start.
    program = """
import signal, sys
from kpstore.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
    options = [
        "--backend",
        "sqlite",
        "--operation",
        "knowledge/get",
        "--passes",
        "1000000",
        "--folder",
        tmp_path,
    ]
    command = [sys.executable, "-c", program, "bench", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("*/floors.db")):  # which is made when the store has been filled
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 2
    assert error == "kpstore bench: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--operation", "nothing/*"], "no operation matches nothing/*"),
        (["--targets"], "--targets: there are targets for --size 100k and 1M"),
        (["--folder", "nowhere"], "nowhere: no such folder"),
        (["--json", "nowhere/a.json"], "nowhere/a.json: its folder is not there"),
        (["compare", "a.json", "b.json"], "a.json: No such file"),
        (["show", "a.json"], "a.json: No such file"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(
    arguments: list[str], message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"kpstore bench: {message}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "10"],
        ["--size", "1.5k"],
        ["--size", ""],
        ["--passes", "0"],
        ["--open-loop", "fast"],
        ["--open-loop", "0%"],
        ["--seconds", "inf"],
        ["--backend", ""],
        ["--clients", "1,,2"],
        ["compare", "a.json"],
    ],
)
def test_bad_options_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench(*arguments)
    assert caught.value.code == 2
    assert "usage: kpstore bench" in capsys.readouterr().err


def test_without_the_extra_the_pip_command_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("kpstore_conformance.bench", "rich"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert bench("--list") == 2
    message = capsys.readouterr().err
    assert message.startswith("kpstore bench: rich")
    assert message.endswith(" is not installed; it comes with: pip install 'kpstore[bench]'\n")
