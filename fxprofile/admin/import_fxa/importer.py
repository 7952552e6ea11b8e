"""
The import from the original profile server: batch after batch, names first.

It may end anywhere and be run again.  A checkpoint only saves the second run from
looking at what the first one has done.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import DeferredSemaphore

from fxprofile.admin.crunch import gathered
from fxprofile.admin.import_fxa.pictures import Pictures
from fxprofile.admin.import_fxa.rows import BAD, Fate, import_names, select_avatar, standing
from fxprofile.admin.import_fxa.source import FxaSource, SourceAvatar, SourceName
from fxprofile.model.errors import BadRequest, ConfigError, CrunchError
from fxprofile.model.keys import DEFAULT_AVATAR_ID

#: The provider whose pictures are the server's own.
_PROVIDER: Final = "fxa"

#: Is told of what was not imported: which step, whose, what, and why.
Tell = Callable[[str, str, str, Fate, str], object]


@dataclass(frozen=True)
class Place:
    """How far an import has come: the step, and the last uid that is done in it."""

    step: str = "names"
    after: str = ""


class Checkpoint:
    """
    Remembers the place in a file.

    :param path: None to remember nothing.
    :param source: of the import; another one's place is no use.
    """

    def __init__(self, path: Path | None, source: str) -> None:
        self._path = path
        self._source = source

    def load(self) -> Place:
        """
        The place to go on at.

        :raises ConfigError: if the file is not one of this import.
        """
        if self._path is None:
            return Place()
        try:
            members = json.loads(self._path.read_text())
            place = Place(step=members["step"], after=bytes.fromhex(members["after"]).hex())
            source = members["source"]
        except FileNotFoundError:
            return Place()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--checkpoint: {self._path} is none: {error}") from None
        if source != self._source or place.step not in ("names", "avatars"):
            raise ConfigError(f"--checkpoint: {self._path} is of the import from {source}")
        return place

    def save(self, place: Place) -> None:
        """Remember a place; whoever is killed here has the one before."""
        if self._path is None:
            return
        text = json.dumps({"source": self._source, "step": place.step, "after": place.after})
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(text)
        os.replace(new, self._path)

    def done(self) -> None:
        """Forget the place: the next import begins anew."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@dataclass
class Tally:
    """What became of everything, by step and fate."""

    names: Counter[Fate] = field(default_factory=Counter)
    avatars: Counter[Fate] = field(default_factory=Counter)

    @property
    def bad(self) -> int:
        """How many somebody should look at."""
        return sum(step[fate] for step in (self.names, self.avatars) for fate in BAD)


class Importer:
    """
    Imports.

    :param database: ours, open.
    :param tell: is told what somebody should look at.
    :param parallel: avatars at one time.
    :param dry_run: whether to change nothing.
    """

    def __init__(
        self,
        *,
        source: FxaSource,
        database: Any,
        pictures: Pictures,
        clock: Any,
        checkpoint: Checkpoint,
        tell: Tell,
        batch: int,
        parallel: int,
        dry_run: bool,
    ) -> None:
        self._source = source
        self._database = database
        self._pictures = pictures
        self._clock = clock
        self._checkpoint = checkpoint
        self._tell = tell
        self._batch = batch
        self._slots = DeferredSemaphore(parallel)
        self._dry_run = dry_run
        self.tally = Tally()

    async def left(self) -> int:
        """
        How many names and avatars are to be looked at, from the checkpoint on.

        :raises DriverError: if the source cannot be read.
        """
        place = self._checkpoint.load()
        if place.step == "avatars":
            return await self._source.count_avatars(after=place.after)
        names = await self._source.count_names(after=place.after)
        return names + await self._source.count_avatars(after="")

    async def run(self, progress: Callable[[int], object]) -> None:
        """
        Import everything, from the checkpoint on.

        :param progress: is told how many more are done.
        :raises DriverError: if something outside failed; another run goes on.
        """
        place = self._checkpoint.load()
        if place.step == "names":
            await self._walk(place, self._source.names, self._names, progress)
            place = Place("avatars")
        await self._walk(place, self._source.avatars, self._avatars, progress)
        if not self._dry_run:
            self._checkpoint.done()

    async def _walk(
        self, place: Place, read: Any, handle: Any, progress: Callable[[int], object]
    ) -> None:
        while found := await read(after=place.after, limit=self._batch):
            await handle(found)
            place = Place(place.step, found[-1].uid)
            if not self._dry_run:
                self._checkpoint.save(place)
            progress(len(found))

    async def _names(self, found: Sequence[SourceName]) -> None:
        names = []
        for entry in found:
            try:
                names.append((entry.uid, _checked(entry.name)))
            except BadRequest as error:
                self.tally.names[Fate.REFUSED] += 1
                self._tell("name", entry.uid, "", Fate.REFUSED, str(error))
        fates = await self._database.run(
            lambda connection: import_names(connection, names, dry_run=self._dry_run),
            read_only=self._dry_run,
        )
        self.tally.names.update(fates)

    async def _avatars(self, found: Sequence[SourceAvatar]) -> None:
        await gathered(self._avatar_in_turn(entry) for entry in found)

    async def _avatar_in_turn(self, entry: SourceAvatar) -> None:
        await self._slots.acquire()
        try:
            fate, why = await self._avatar(entry)
        finally:
            self._slots.release()
        self.tally.avatars[fate] += 1
        if fate in BAD:
            self._tell("avatar", entry.uid, entry.avatar_id, fate, why)

    async def _avatar(self, entry: SourceAvatar) -> tuple[Fate, str]:
        if not entry.owned:
            return Fate.NOT_OWNED, "the avatar belongs to nobody, or to somebody else"
        if (entry.provider or "").lower() != _PROVIDER:
            return Fate.ELSEWHERE, ""
        if entry.avatar_id == DEFAULT_AVATAR_ID:
            return Fate.NONE, ""
        uid, avatar_id = entry.uid, entry.avatar_id
        known = await self._database.run(lambda c: standing(c, uid, avatar_id), read_only=True)
        if known is not None:
            return known, ""
        variants = await self._pictures.present(avatar_id)
        if variants is None and self._dry_run:
            if await self._pictures.can_be_copied(avatar_id):
                return Fate.IMPORTED, ""
            return Fate.MISSING, "no pictures"
        copied, placeholder = variants is None, None
        if variants is None:
            try:
                found = await self._pictures.copied(avatar_id)
            except CrunchError as error:
                return Fate.REFUSED, str(error)
            if found is None:
                return Fate.MISSING, "no pictures"
            variants, placeholder = found
        if self._dry_run:
            return Fate.IMPORTED, ""
        now = self._clock.seconds()
        fate: Fate = await self._database.run(
            lambda c: select_avatar(c, uid, avatar_id, variants, placeholder, now)
        )
        if fate is Fate.CHANGED_HERE and copied:
            # The user was faster, and no row knows these pictures.
            await self._pictures.remove(avatar_id)
        return fate, ""


def _checked(name: str | None) -> str | None:
    from fxprofile.web.models import SetDisplayName, validated

    return validated(SetDisplayName, {"displayName": name or ""}).display_name or None
