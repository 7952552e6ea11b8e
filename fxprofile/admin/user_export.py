"""Write everything that is stored about a user into a tar archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import IO

from fxprofile.admin.shared.commands import Problem
from fxprofile.admin.shared.output import Members
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.errors import ObjectNotFound
from fxprofile.model.keys import FORMATS, VARIANTS, private_key, public_key
from fxprofile.model.ports import IBucket

#: The file of the archive with the rows of the database, in JSON.
PROFILE = "profile.json"


class _Hashing(io.RawIOBase):
    """A file that is only written to, with the SHA-256 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.digest, self._file = hashlib.sha256(), file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.digest.update(data)
        return self._file.write(data)


async def export(tools: Tools, about: Members, path: Path) -> Members:
    """
    Write an archive: ``profile.json``, and each original and picture in its own file.

    Objects pass through one at a time.  The archive appears under its name when it is complete
    and durable; if this fails or is cancelled, nothing remains.

    :param about: the rows of the user.
    :param path: of the archive, which must not exist.
    :returns: the files in the archive, its length and its SHA-256.
    :raises Problem: if the archive exists or cannot be written.
    :raises StorageError: if an object cannot be read.
    """
    names = [PROFILE]
    part = None
    try:
        part = await tools.files.run(_begin, path)
        with part:
            hashing = _Hashing(part)
            with tarfile.open(fileobj=hashing, mode="w|") as tar:
                text = json.dumps(about, indent=2, ensure_ascii=False)
                await tools.files.run(_add, tar, PROFILE, io.BytesIO(text.encode()))
                async for name, body in _objects(tools, about["avatars"]):
                    await tools.files.run(_add, tar, name, body)
                    names.append(name)
            length = await tools.files.run(_finish, part, path)
    except OSError as error:
        raise Problem(f"{path}: {error.strerror or error}") from None
    finally:
        if part is not None:
            with suppress(FileNotFoundError):
                os.unlink(part.name)
    digest = hashing.digest.hexdigest()
    return {"file": str(path), "bytes": length, "sha256": digest, "members": names}


def _begin(path: Path) -> IO[bytes]:
    """Return a new file beside this one, which only its owner can read; this blocks."""
    if path.exists():
        raise Problem(f"{path} exists; name another file")
    descriptor, name = tempfile.mkstemp(prefix=".export-", dir=path.parent)
    os.close(descriptor)
    return open(name, "wb")


def _finish(file: IO[bytes], path: Path) -> int:
    """Make a file durable under its name, and return its length; this blocks."""
    file.flush()
    os.fsync(file.fileno())
    os.rename(file.name, path)
    return file.tell()


async def _objects(
    tools: Tools, avatars: Sequence[Members]
) -> AsyncIterator[tuple[str, IO[bytes]]]:
    """Yield every object of these avatars, as a file, with its name in the archive."""
    for avatar in avatars:
        avatar_id = avatar["id"]
        folder = f"avatars/{avatar_id}"
        wanted = [(tools.private_bucket, private_key(avatar_id), f"{folder}/original")]
        for form in FORMATS:
            for variant in VARIANTS:
                key = public_key(avatar_id, variant, form)
                wanted.append((tools.public_bucket, key, f"{folder}/{variant}.{form}"))
        for bucket, key, name in wanted:
            with tempfile.TemporaryFile() as file:
                if await _copied(tools, bucket, key, file):
                    yield name, file


async def _copied(tools: Tools, bucket: IBucket, key: str, file: IO[bytes]) -> bool:
    """Copy an object into a file; return whether there is one that is not empty."""
    try:
        _, body = await bucket.get(key=key)
    except ObjectNotFound:
        return False
    async with aclosing(body):
        async for piece in body:
            await tools.files.run(file.write, piece)
    return file.tell() > 0


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    """Add a file to an archive; this blocks."""
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, os.SEEK_END)
    member.mode = 0o600
    file.seek(0)
    tar.addfile(member, file)
