"""Runs the user's restart and swap commands: a shell line, which must end with status 0 in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from semanticd.bench.errors import BenchError

COMMAND_WITHIN_S = 180.0


def shell_command(line: str, *, what: str) -> Callable[[], Awaitable[None]]:
    """Return something that runs `line` and raises `BenchError` when it fails; `what` names it in messages."""

    async def run() -> None:
        process = await asyncio.create_subprocess_shell(
            line, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            _, said = await asyncio.wait_for(process.communicate(), COMMAND_WITHIN_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            raise BenchError(
                f"the {what} command `{line}` did not end within {COMMAND_WITHIN_S:.0f} s; it must leave the server "
                "running in the background and return"
            ) from None
        if process.returncode:
            raise BenchError(
                f"the {what} command `{line}` ended with status {process.returncode}: "
                f"{said.decode(errors='replace').strip()[-300:]}; run it by hand to see why"
            )

    return run
