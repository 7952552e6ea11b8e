"""
The SQL store compared with the memory store, in random sequences of operations from one seed, which
a failure prints.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.drivers.sql.store import SqlProfileStore
from fxprofile.model.avatars import Status
from fxprofile.model.errors import AccountUnknown
from fxprofile.model.keys import new_id
from fxprofile.model.profiles import Profile
from tests.contracts.store_case import PICTURES
from tests.drivers.sql.inline import InlineDatabase, result_of
from tests.support.fakes.store import MemoryProfileStore

UIDS = ("alice", "bob")
NAMES = (None, "", " ", "a", "ä", "a\N{COMBINING DIAERESIS}", "\N{GRINNING FACE}")

WAYS = 25
STEPS = 60


class Walk:
    """
    Runs the same operations on both stores, and compares their results and their rows.

    :ivar trace: the operations so far, to debug a difference.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.database = InlineDatabase()
        self.model = MemoryProfileStore()
        self.stores: list[Any] = [SqlProfileStore(self.database), self.model]
        self.now = 1000.0
        self.profiles: dict[str, Profile] = {}
        self.trace: list[str] = []

    def both(self, method: str, **arguments: Any) -> Any:
        """Call a method of both stores and return their result, which must be the same."""
        sql, model = (self.result_of(getattr(store, method)(**arguments)) for store in self.stores)
        self.trace.append(f"{method} {arguments} -> {model}")
        assert sql == model, f"{sql} is not {model}"
        return model

    def result_of(self, call: Any) -> Any:
        try:
            return result_of(call)
        except AccountUnknown as error:
            return str(error)

    def step(self) -> None:
        """Run a random operation; frequent ones are likelier."""
        chance = self.random
        uid = chance.choice(UIDS)
        avatar_id = self.some_id()
        age = chance.choice((-1.0, 0.0, 5.0))
        limit = chance.choice((1, 3, 100))
        status = chance.choice(list(Status))
        happens = {
            "time": (8, lambda: self.pass_time(chance.choice((0.0, 0.25, 1.0, 9.0, -3.0)))),
            "accept": (
                10,
                lambda: self.both(
                    "accept",
                    avatar_id=new_id(),
                    uid=uid,
                    now=self.now,
                    keep=chance.choice((None, 1, 3)),
                ),
            ),
            "ready": (
                12,
                lambda: self.both("ready", avatar_id=avatar_id, variants=PICTURES, now=self.now),
            ),
            "failed": (
                4,
                lambda: self.both("failed", avatar_id=avatar_id, reason="dead", now=self.now),
            ),
            "sent": (
                6,
                lambda: self.both("job_sent", avatar_id=avatar_id, status=status, now=self.now),
            ),
            "delete": (
                3,
                lambda: self.both("delete", avatar_id=avatar_id, uid=uid, now=self.now),
            ),
            "deleted": (8, lambda: self.both("deleted", avatar_id=avatar_id, now=self.now)),
            "redelete": (4, lambda: self.both("redelete", avatar_id=avatar_id)),
            "current": (2, lambda: self.both("delete_current", uid=uid, now=self.now)),
            "user": (1, lambda: self.both("delete_user", uid=uid, now=self.now)),
            "name": (
                4,
                lambda: self.both(
                    "set_display_name", uid=uid, name=chance.choice(NAMES), now=self.now
                ),
            ),
            "letter": (4, lambda: self.set_monogram(uid, chance.choice((None, "a", "b")))),
            "expire": (
                1,
                lambda: self.both(
                    "expire", processing_before=self.now - age, now=self.now, limit=limit
                ),
            ),
            "purge": (
                3,
                lambda: self.both(
                    "purge",
                    failed_before=self.now - age,
                    replaced_before=self.now - chance.choice((-1.0, 0.0, 5.0)),
                    removed_before=self.now - chance.choice((-1.0, 0.0, 5.0)),
                    now=self.now,
                    limit=limit,
                ),
            ),
            "lead": (
                2,
                lambda: self.both(
                    "leadership", owner=chance.choice("ab"), now=self.now, seconds=0.25
                ),
            ),
            "resign": (1, lambda: self.both("resign", owner=chance.choice("ab"))),
            "look": (6, lambda: self.look(uid, age, limit)),
        }
        weights = [weight for weight, _ in happens.values()]
        ((_, action),) = chance.choices(list(happens.values()), weights)
        action()
        self.compare()

    def some_id(self) -> str:
        """Return the id of one of the newest rows, or an unknown id."""
        rows = list(self.model.rows)[-6:]
        return self.random.choice([*rows, new_id()])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def look(self, uid: str, age: float, limit: int) -> None:
        self.both("unsent", before=self.now - age, limit=limit)
        self.both("unsent", before=math.inf, limit=limit, newest_first=True)
        self.both("stuck", sent_before=self.now - age, limit=limit)
        self.both("counts")
        self.both("pending_since", times=[self.now - age, self.now])
        self.both("current_avatar", uid=uid)
        self.profiles[uid] = self.both("profile", uid=uid)

    def set_monogram(self, uid: str, letter: str | None) -> None:
        """Store the letter of a profile that was read some time ago."""
        profile = self.profiles.get(uid, Profile(uid))
        self.both("set_monogram", profile=profile, letter=letter)

    def compare(self) -> None:
        """
        Check that both stores have the same rows, and that the ready avatars are the selected ones.
        """
        with self.database.engine.begin() as connection:
            found = [dict(row) for row in connection.execute(select(avatars)).mappings()]
            users = [dict(row) for row in connection.execute(select(profiles)).mappings()]
        for row in found:
            row["variants"] = row["variants"] and json.loads(row["variants"])
        assert found == [asdict(row) for row in self.model.rows.values()]
        model = {uid: asdict(user) for uid, user in self.model.users.items()}
        assert {user["uid"]: user for user in users} == model
        # Every ready avatar is selected: the objects of any other would never be deleted.
        selected = {(user["avatar_id"], uid) for uid, user in model.items()}
        ready = {(row["id"], row["uid"]) for row in found if row["status"] == Status.READY}
        assert {pair for pair in selected if pair[0] is not None} == ready


class StoreModelTests(SynchronousTestCase):
    """The SQL store and the memory store."""

    def test_same_results_as_the_memory_store(self) -> None:
        """
        Both stores return the same results and have the same rows after any sequence of operations.
        """
        base = random.randrange(10**6) * 1000
        for seed in range(base, base + WAYS):
            walk = Walk(seed)
            try:
                for _ in range(STEPS):
                    walk.step()
            except AssertionError as error:
                steps = "\n".join(walk.trace)
                self.fail(f"Walk({seed}): {error}\n{steps}")
            finally:
                walk.database.engine.dispose()
