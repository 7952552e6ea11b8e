"""
A process whose settings need no TLS starts without its libraries.

Twisted imports pyOpenSSL and cryptography wherever they are installed.  They take 13 MB and a
tenth of a second, and add to what an attacker could use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from pydantic import SecretStr

from fxprofile.settings.model import Role, Settings

#: Endpoints without TLS; any other kind may have it.
_PLAIN: Final = ("tcp:", "tcp6:", "unix:", "systemd:", "fd:")

#: URLs of services that are called over TLS by Twisted.
_SECURE: Final = ("https:", "rediss:")


def uses_tls(settings: Settings, role: Role) -> bool:
    """Return whether a process of this role may listen or call a server with TLS."""
    listeners = {
        Role.WEB: (settings.web.listen,),
        Role.IMAGES: (settings.images.listen,),
        Role.WORKER: (),
        Role.COMBINED: (settings.web.listen, settings.images.listen),
    }[role]
    if not all(e.startswith(_PLAIN) for e in (settings.admin_listen(role), *listeners)):
        return True
    # The servers of AWS, including the ones that issue credentials.
    if settings.storage.driver == "s3" or settings.queue.driver == "sqs":
        return True
    if role is Role.IMAGES:
        # It calls no other servers.
        return False
    if role is not Role.WORKER and settings.cache.driver == "redis":
        # txredisapi imports them, with TLS or without.
        return True
    others: Any = {"web": {"public_url"}, "images": {"url"}, "sentry": True}
    texts = _texts(settings.model_dump(exclude=others))
    return any(text.startswith(_SECURE) for text in texts)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in settings: any of them may be the URL of a server."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _texts(member)


def leave_out_tls() -> None:
    """
    Have Twisted find no pyOpenSSL, unless it has imported it already.

    This must be called before :mod:`twisted.internet.endpoints` is imported.
    """
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
