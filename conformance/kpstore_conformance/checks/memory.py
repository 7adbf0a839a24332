"""The memory backend needs nothing and leaves nothing (clause MEM-1)."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

from kpstore_conformance.check import Lab, check
from kpstore_conformance.checks._samples import pattern, skill

__all__: list[str] = []

# Run in a process of its own, since an audit hook cannot be taken back. It says what the interpreter was
# asked for between opening the stores and closing them: files opened for writing or made, connections.
_WATCHED = """
import asyncio, json, os, sys
from kpstore import create_store
from kpstore_conformance.checks._samples import contents, fill, pattern, skill

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
ASKING = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "sqlite3.connect"} | {
    "socket.connect", "socket.bind", "subprocess.Popen"
}
seen, watching = [], False

def hook(event, arguments):
    if not watching:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITING:
            seen.append(f"opened {path!r} for writing")
    elif event in ASKING:
        seen.append(f"{event} {arguments[:2]!r}")

async def main():
    global watching
    sys.dont_write_bytecode = True
    async with create_store() as warm:  # what is imported and loaded once
        await use(warm)
    watching = True
    async with create_store() as stores:
        await use(stores)
    watching = False

async def use(stores):
    await fill(stores)
    await stores.skills.create(skill("single"))
    await stores.knowledge.create(pattern("single"))
    await contents(stores)
    await stores.skills.search(query="name")
    await stores.skills.delete("s")
    await stores.rate_limit.consume("a", "free", "GET")
    await stores.audit_log.query(agent_id="a")

sys.addaudithook(hook)
asyncio.run(main())
print(json.dumps(seen))
"""


@check(clauses=["MEM-1"], backends=["memory"], name="no file is written and nobody is called")
async def leaves_nothing(lab: Lab) -> None:
    """Filling, reading and searching the six stores needs no file to write, no connection, no process."""
    before = sorted(lab.folder.rglob("*"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WATCHED, stdout=PIPE, stderr=PIPE, env=lab.environment, cwd=lab.folder
    )
    out, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode(errors="replace")[-2000:]
    assert json.loads(out) == [], "the memory backend asked the system for something"
    assert sorted(lab.folder.rglob("*")) == before, "the memory backend left a file"


@check(clauses=["MEM-1"], backends=["memory"], name="two stores of one process share nothing")
async def two_stores_share_nothing(lab: Lab) -> None:
    """What one store holds, a second one opened beside it does not, in any of the six."""
    one, other = await lab.open(), await lab.open()
    await one.skills.create(skill("s"))
    await one.knowledge.create(pattern("u"))
    await one.reputation.upsert("a", 1, "made")
    key = await one.api_keys.create("a", ["read"], "free")
    for _ in range(30):
        assert (await one.rate_limit.consume("a", "free", "POST")).allowed
    await one.rate_limit.record_429("a")
    await one.audit_log.log("act", "a", "skill", "s", "::1")

    assert (await other.skills.search()).total == 0
    assert (await other.knowledge.search()).total == 0
    assert await other.reputation.get("a") is None
    assert await other.api_keys.verify(key.raw_key) is None
    assert (await other.rate_limit.consume("a", "free", "POST")).remaining == 29
    assert (await other.audit_log.query()).total == 0
    await one.close()
    assert (await other.skills.search()).total == 0, "closing one store closed another"
