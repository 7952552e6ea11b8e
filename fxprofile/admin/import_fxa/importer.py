"""
The import from the original profile server: batch after batch, names first.

It may stop anywhere and be run again.  A checkpoint only saves the next run from looking at
what is imported already.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from twisted.internet.interfaces import IReactorTime

from fxprofile.admin.import_fxa import rows
from fxprofile.admin.import_fxa.pictures import Pictures
from fxprofile.admin.import_fxa.source import FxaSource, SourceAvatar
from fxprofile.admin.shared.tools import gathered
from fxprofile.drivers.sql.engine import Database
from fxprofile.model.errors import BadRequest, ConfigError, CrunchError
from fxprofile.model.keys import DEFAULT_AVATAR_ID, initial

#: What the source holds of a user; the uid is first.
E = TypeVar("E", bound=tuple[object, ...])

#: The provider whose pictures are the server's own.
_PROVIDER: Final = "fxa"

#: Called with what was not imported: kind, uid, avatar id, fate and reason.
Tell = Callable[[str, str, str, rows.Fate, str], object]


@dataclass(frozen=True)
class Place:
    """The position of an import: the step, and the last uid that is done in it."""

    step: str = "names"
    after: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """
    Stores the position of an import in a file.

    :param path: None to store nothing.
    :param source: of the import; the position of another source is refused.
    """

    path: Path | None
    source: str

    def load(self) -> Place:
        """
        Return the position to continue from.

        :raises ConfigError: if the file is not of this import.
        """
        if self.path is None:
            return Place()
        try:
            members = json.loads(self.path.read_text())
            source = members["source"]
            place = Place(members["step"], members["after"])
            bytes.fromhex(place.after)
        except FileNotFoundError:
            return Place()
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise ConfigError(f"--checkpoint: {self.path} is not a checkpoint: {error}") from None
        if source != self.source or place.step not in ("names", "avatars"):
            raise ConfigError(f"--checkpoint: {self.path} belongs to an import from {source}")
        return place

    def save(self, place: Place) -> None:
        """Store a position; a process killed meanwhile leaves the one before."""
        if self.path is None:
            return
        text = json.dumps({"source": self.source, **asdict(place)})
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(text)
        os.replace(new, self.path)

    def remove(self) -> None:
        """Remove the file: the next import starts from the beginning."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(kw_only=True)
class Importer:
    """
    An import.

    :param database: of this service, open.
    :param tell: called with what an operator should look at.
    :param batch: users to read at a time.
    :param parallel: avatars to process at the same time.
    :param dry_run: whether to change nothing.
    :ivar tally: how many names and avatars met each fate.
    """

    source: FxaSource
    database: Database
    pictures: Pictures
    clock: IReactorTime
    checkpoint: Checkpoint
    tell: Tell
    batch: int
    parallel: int
    dry_run: bool
    tally: Mapping[str, Counter[rows.Fate]] = field(
        default_factory=lambda: {"names": Counter(), "avatars": Counter()}
    )

    @property
    def not_imported(self) -> int:
        """How many an operator should look at."""
        return sum(fates[fate] for fates in self.tally.values() for fate in rows.NOT_IMPORTED)

    async def left(self) -> int:
        """
        Return how many names and avatars are left to look at.

        :raises DriverError: if the source cannot be read.
        """
        place = self.checkpoint.load()
        left = await self.source.count(place.step, place.after)
        return left if place.step == "avatars" else left + await self.source.count("avatars", "")

    async def run(self, progress: Callable[[int], object]) -> None:
        """
        Import everything from the checkpoint on.

        :param progress: called with how many more are done.
        :raises DriverError: if something outside failed; another run continues.
        """
        place = self.checkpoint.load()
        if place.step == "names":
            await self._walk(place, self.source.names, self._names, progress)
            place = Place("avatars")
        await self._walk(place, self.source.avatars, self._avatars, progress)
        if not self.dry_run:
            self.checkpoint.remove()

    async def _walk(
        self,
        place: Place,
        read: Callable[[str, int], Awaitable[Sequence[E]]],
        handle: Callable[[Sequence[E]], Awaitable[None]],
        progress: Callable[[int], object],
    ) -> None:
        while found := await read(place.after, self.batch):
            await handle(found)
            place = Place(place.step, str(found[-1][0]))
            if not self.dry_run:
                self.checkpoint.save(place)
            progress(len(found))

    async def _names(self, found: Sequence[tuple[str, str | None]]) -> None:
        names, fates = [], self.tally["names"]
        for uid, name in found:
            try:
                names.append((uid, _checked(name)))
            except BadRequest as error:
                fates[rows.Fate.REFUSED] += 1
                self.tell("name", uid, "", rows.Fate.REFUSED, str(error))
        imported = await self.database.run(
            lambda connection: rows.import_names(connection, names, dry_run=self.dry_run),
            read_only=self.dry_run,
        )
        fates.update(imported)

    async def _avatars(self, found: Sequence[SourceAvatar]) -> None:
        await gathered(self._avatar, found, self.parallel)

    async def _avatar(self, entry: SourceAvatar) -> None:
        fate, why = await self._imported(entry)
        self.tally["avatars"][fate] += 1
        if fate in rows.NOT_IMPORTED:
            self.tell("avatar", entry.uid, entry.avatar_id, fate, why)

    async def _imported(self, entry: SourceAvatar) -> tuple[rows.Fate, str]:
        uid, avatar_id = entry.uid, entry.avatar_id
        if not entry.owned:
            return rows.Fate.NOT_OWNED, "the avatar belongs to no user or to another one"
        letter = initial(entry.monogram or "")
        if letter is not None:
            fate = await self.database.run(
                lambda c: rows.import_monogram(
                    c, uid, letter, self.clock.seconds(), dry_run=self.dry_run
                ),
                read_only=self.dry_run,
            )
            return fate, ""
        if (entry.provider or "").lower() != _PROVIDER:
            return rows.Fate.ELSEWHERE, ""
        if avatar_id == DEFAULT_AVATAR_ID or entry.monogram is not None:
            return rows.Fate.NONE, ""
        known = await self.database.run(lambda c: rows.standing(c, uid, avatar_id), read_only=True)
        if known is not None:
            return known, ""
        variants, placeholder = await self.pictures.present(avatar_id), None
        copied = variants is None and not self.dry_run
        if copied:
            try:
                variants, placeholder = await self.pictures.copied(avatar_id) or (None, None)
            except CrunchError as error:
                return rows.Fate.REFUSED, str(error)
        if self.dry_run and (variants or await self.pictures.can_be_copied(avatar_id)):
            return rows.Fate.IMPORTED, ""
        if variants is None:
            return rows.Fate.MISSING, "no pictures"
        made, now = variants, self.clock.seconds()
        fate = await self.database.run(
            lambda c: rows.select_avatar(c, uid, avatar_id, made, placeholder, now)
        )
        if fate is rows.Fate.CHANGED_HERE and copied:
            # The user changed the avatar meanwhile, and no row knows these pictures.
            await self.pictures.remove(avatar_id)
        return fate, ""


def _checked(name: str | None) -> str | None:
    from fxprofile.web.models import SetDisplayName, validated

    return validated(SetDisplayName, {"displayName": name or ""}).display_name or None
