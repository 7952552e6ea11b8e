"""
What reads are compared with: a bare Klein route, and a Klein route with one pooled treq call.

    python -m benchmarks.read_floor PORT UPSTREAM
"""

from __future__ import annotations

import sys
from typing import Any

import treq
from klein import Klein
from twisted.internet import reactor
from twisted.web.client import HTTPConnectionPool
from twisted.web.server import Site

_VERIFY = {"token": "0" * 64}


def make_site(upstream: str) -> Site:
    """
    Return a site with the routes ``/bare`` and ``/treq``.

    :param upstream: the URL that ``/treq`` posts a token to.
    """
    app: Any = Klein()
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 100

    @app.route("/bare")
    def bare(request: Any) -> bytes:
        return b'{"status": "ok"}'

    @app.route("/treq")
    async def one_call(request: Any) -> bytes:
        response = await treq.post(upstream, json=_VERIFY, pool=pool)
        await response.json()
        return b'{"uid": "a11ce000a11ce000a11ce000a11ce000"}'

    return Site(app.resource())


if __name__ == "__main__":
    loop: Any = reactor
    loop.listenTCP(int(sys.argv[1]), make_site(sys.argv[2]), interface="127.0.0.1", backlog=512)
    loop.run()
