"""Every object of files and batches, in every state, as typed clients read it: against the SDK's types, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from openai.types import Batch, FileDeleted, FileObject

from gateway.fake.engine import FakeEngine
from tests.batches.flow import batch, begun, ended, keeping, line
from tests.serving import Served

RULES = [{"match": {"contains": "slow"}, "first_token": 60.0}]


def fits(kind: Any, value: Any) -> str:
    """Hold an object against a type; return its state."""
    return str(kind.model_validate_json(msgspec.json.encode(value), strict=True).model_dump().get("status"))


async def listed(served: Served, what: str) -> dict[str, Any]:
    found = (await served.get(f"/v1/{what}")).json()
    assert found["object"] == "list" and found["has_more"] is False
    assert (found["first_id"], found["last_id"]) == (found["data"][0]["id"], found["data"][-1]["id"])
    return dict(found)


async def test_every_state_fits_the_types_of_the_sdk(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"], rules=RULES) as engine, keeping(tmp_path, engine) as served:
        done = await begun(served, [line("a"), line("b", {"model": "m", "messages": 1})], metadata={"a": "b"})
        seen = {fits(Batch, done), fits(Batch, await ended(served, done["id"]))}
        failed = await begun(served, [b"{", line("a"), line("a")])
        seen.add(fits(Batch, await ended(served, failed["id"])))
        slow = await begun(served, [line("slow")])
        await engine.until(lambda: engine.journal.totals.running == 1)
        seen.add(fits(Batch, await batch(served, slow["id"])))
        seen.add(fits(Batch, (await served.post(f"/v1/batches/{slow['id']}/cancel", None)).json()))
        seen.add(fits(Batch, await ended(served, slow["id"])))
        assert seen == {"validating", "completed", "failed", "in_progress", "cancelling", "cancelled"}
        for each in (await listed(served, "batches"))["data"]:
            fits(Batch, each)
        files = (await listed(served, "files"))["data"]
        assert {each["purpose"] for each in files} == {"batch", "batch_output"}
        for each in files:
            fits(FileObject, each)
            fits(FileObject, (await served.get(f"/v1/files/{each['id']}")).json())
            fits(FileDeleted, (await served.ask("DELETE", f"/v1/files/{each['id']}", None, {})).json())
