"""
A program that crunches one picture in a pool, on systems that lack some layers.

For each system it prints the layers and the outcome, or why the cruncher is unavailable.
"""

from __future__ import annotations

import io
import json
import tempfile
from typing import Any

from PIL import Image
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.pool import CrunchPool
from fxprofile.model.errors import CruncherUnavailable
from tests.crunch.attacks import become, fake, in_forks


async def crunched(reactor: Any, mode: Any) -> dict[str, Any]:
    pool = CrunchPool(reactor, processes=1, limits=Limits(), mode=mode, min_helpers=1)
    pool.startService()
    try:
        layers = await pool.when_ready()
        with tempfile.TemporaryFile() as original:
            Image.radial_gradient("L").convert("RGB").save(original, "JPEG")
            original.flush()
            report = await pool.examine(original=original)
    except CruncherUnavailable as error:
        return {"unavailable": str(error)}
    finally:
        await pool.stopService()
    for _, body in report.outcome.pictures.get("png", {}).values():
        Image.open(io.BytesIO(body)).load()
    return {
        "layers": sorted(layer for layer, in_force in layers.items() if in_force),
        "reason": report.outcome.reason,
        "detail": report.outcome.detail,
    }


def main(config: Any) -> None:
    """
    :param config: with ``user``, ``fake`` and ``mode``; see
        :func:`tests.crunch.attacks.main`.
    """
    fake(config.get("fake", {}))
    become(config.get("user", 0), reading=True)
    answers: list[dict[str, Any]] = []

    def run(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(crunched(reactor, config["mode"])).addCallback(answers.append)

    try:
        react(run)
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps(answers[0]))


if __name__ == "__main__":
    in_forks(main)
