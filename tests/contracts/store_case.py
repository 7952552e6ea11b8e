"""
Support for the contract of profile stores.
"""

from __future__ import annotations

from typing import Any

from fxprofile.model.avatars import Avatar, Status, Variant
from fxprofile.model.keys import VARIANTS, new_id
from fxprofile.model.profiles import Profile

UID = "a11ce000a11ce000a11ce000a11ce000"
OTHER = "b0b00000b0b00000b0b00000b0b00000"

PICTURES = {name: Variant(width=side, height=side, bytes=9) for name, (_, side) in VARIANTS.items()}


class StoreCase:
    """Makes stores, and uploads in each status."""

    async def make_store(self) -> Any:
        """Return an empty store."""
        raise NotImplementedError

    async def upload(
        self, store: Any, now: float = 1.0, uid: str = UID, status: Status = Status.PROCESSING
    ) -> Avatar:
        """Return an upload in this status."""
        accepted = (await store.accept(avatar_id=new_id(), uid=uid, now=now)).avatar
        if status is Status.READY:
            await store.ready(avatar_id=accepted.id, variants=PICTURES, now=now)
        elif status is Status.FAILED:
            await store.failed(avatar_id=accepted.id, reason="corrupt", now=now)
        elif status is Status.DELETING:
            await store.delete(avatar_id=accepted.id, uid=uid, now=now)
        elif status is Status.REPLACED:
            await store.ready(avatar_id=accepted.id, variants=PICTURES, now=now)
            await self.upload(store, now=now, uid=uid, status=Status.READY)
        found: Avatar = await store.avatar(avatar_id=accepted.id)
        assert found.status is status
        return found

    async def status(self, store: Any, avatar: Avatar) -> Status | None:
        found = await store.avatar(avatar_id=avatar.id)
        return None if found is None else found.status

    async def selected(self, store: Any, uid: str = UID) -> str | None:
        profile: Profile = await store.profile(uid=uid)
        return profile.avatar_id

    async def unsent(self, store: Any) -> list[str]:
        return [avatar.id for avatar in await store.unsent(before=1e9, limit=1000)]

    async def stuck(self, store: Any) -> list[str]:
        return [avatar.id for avatar in await store.stuck(sent_before=1e9, limit=1000)]
