"""OUT/shards: the studies of an output folder, dealt out to processes that know nothing of each other.

While they lie there, whoever would write reports or rows of OUT itself is told so: two would work on one study.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from cxrbatch.errors import UsageError

SHARDS, PLAN_FILE = "shards", "plan.json"


def plan_file(out: Path) -> Path:
    """Return the file that makes an output folder one that is dealt out: written last, removed first."""
    return out / SHARDS / PLAN_FILE


def shard_folder(out: Path, number: int) -> Path:
    """Return the folder of one shard."""
    return out / SHARDS / str(number)


def refuse_sharded(out: Path) -> None:
    """Refuse to work on an output folder whose studies are dealt out.

    Raises:
        UsageError: they are.
    """
    if plan_file(out).exists():
        named = quote(str(out))
        raise UsageError(
            f"{out}: its studies are dealt out in shards. `cxrbatch work {named} --shard I` works on one, "
            f"`cxrbatch merge {named}` brings together what is done; with --give-up it ends the shards as they are."
        )
