"""
The profile store on SQL, held against the one in memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.database.schema import avatars, profiles
from fxprofile.database.store import SqlProfileStore
from fxprofile.keys import new_id
from fxprofile.model import Status
from tests.contracts.store_case import PICTURES
from tests.database.inline import InlineDatabase, result_of
from tests.fakes.store import MemoryProfileStore

UIDS = ("alice", "bob")

users = st.sampled_from(UIDS)
limits = st.integers(1, 3)

#: One of the newest rows, and beyond them one that is not there.
choices = st.integers(0, 5)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to both stores and compares all that they tell."""

    def __init__(self) -> None:
        super().__init__()
        self.database = InlineDatabase()
        self.model = MemoryProfileStore()
        self.stores: list[Any] = [SqlProfileStore(self.database), self.model]
        self.now = 1000.0

    def teardown(self) -> None:
        self.database.engine.dispose()

    def both(self, method: str, **arguments: Any) -> Any:
        """What both answer, which has to be the same."""
        sql, model = (result_of(getattr(store, method)(**arguments)) for store in self.stores)
        assert sql == model, (method, sql, model)
        return model

    @rule(seconds=st.sampled_from([0.25, 1.0, 50.0, -3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def chosen(self, choice: int) -> str:
        rows = list(self.model.rows)[::-1]
        return rows[choice] if choice < len(rows) else new_id()

    @rule(uid=users)
    def accept(self, uid: str) -> None:
        self.both("accept", avatar_id=new_id(), uid=uid, now=self.now)

    @rule(uid=users, times=st.integers(1, 2))
    def upload(self, uid: str, times: int) -> None:
        for _ in range(times):
            self.accept(uid)
            self.ready(0)

    @rule(choice=choices, status=st.sampled_from(Status))
    def job_sent(self, choice: int, status: Status) -> None:
        self.both("job_sent", avatar_id=self.chosen(choice), status=status, now=self.now)

    @rule(choice=choices)
    def ready(self, choice: int) -> None:
        self.both("ready", avatar_id=self.chosen(choice), variants=PICTURES, now=self.now)

    @rule(choice=choices)
    def failed(self, choice: int) -> None:
        self.both("failed", avatar_id=self.chosen(choice), reason="corrupt", now=self.now)

    @rule(choice=choices, uid=users)
    def delete(self, choice: int, uid: str) -> None:
        self.both("delete", avatar_id=self.chosen(choice), uid=uid, now=self.now)

    @rule(choice=choices)
    def delete_own(self, choice: int) -> None:
        row = self.model.rows.get(self.chosen(choice))
        if row is not None:
            self.both("delete", avatar_id=row.id, uid=row.uid, now=self.now)

    @rule(uid=users)
    def delete_current(self, uid: str) -> None:
        self.both("delete_current", uid=uid, now=self.now)

    @rule(uid=users)
    def delete_user(self, uid: str) -> None:
        self.both("delete_user", uid=uid, now=self.now)

    @rule(choice=choices)
    def deleted(self, choice: int) -> None:
        self.both("deleted", avatar_id=self.chosen(choice), now=self.now)

    @rule(choice=choices)
    def redelete(self, choice: int) -> None:
        self.both("redelete", avatar_id=self.chosen(choice))

    @rule(uid=users, name=st.none() | st.text(st.characters(codec="utf-8"), max_size=5))
    def set_display_name(self, uid: str, name: str | None) -> None:
        self.both("set_display_name", uid=uid, name=name, now=self.now)

    @rule(age=st.sampled_from([-1.0, 0.0, 60.0]), limit=limits)
    def expire(self, age: float, limit: int) -> None:
        self.both("expire", processing_before=self.now - age, now=self.now, limit=limit)

    @rule(
        failed=st.sampled_from([-1.0, 0.0, 60.0]),
        replaced=st.sampled_from([-1.0, 0.0, 60.0]),
        limit=limits,
    )
    def purge(self, failed: float, replaced: float, limit: int) -> None:
        self.both(
            "purge",
            failed_before=self.now - failed,
            replaced_before=self.now - replaced,
            now=self.now,
            limit=limit,
        )

    @rule(owner=st.sampled_from("ab"), seconds=st.sampled_from([0.5, 1.0]))
    def leadership(self, owner: str, seconds: float) -> None:
        self.both("leadership", owner=owner, now=self.now, seconds=seconds)
        self.now += seconds

    @rule(owner=st.sampled_from("ab"))
    def resign(self, owner: str) -> None:
        self.both("resign", owner=owner)

    @rule(limit=limits, age=st.sampled_from([-1.0, 0.0, 60.0]), uid=users)
    def look(self, limit: int, age: float, uid: str) -> None:
        self.both("unsent", before=self.now - age, limit=limit)
        self.both("stuck", sent_before=self.now - age, limit=limit)
        self.both("counts")
        self.both("latest", uid=uid)
        self.both("profile", uid=uid)

    @invariant()
    def same_rows(self) -> None:
        with self.database.engine.begin() as connection:
            rows = connection.execute(select(avatars)).mappings().all()
            users = connection.execute(select(profiles)).mappings().all()
        found = {row["id"]: dict(row) for row in rows}
        for row in found.values():
            row["variants"] = row["variants"] and json.loads(row["variants"])
        assert found == {row.id: asdict(row) for row in self.model.rows.values()}
        for row in map(dict, users):
            row["removed"] = row.pop("removed_at") is not None
            assert row == asdict(self.model.users[row["uid"]])
        assert len(users) == len(self.model.users)

    @invariant()
    def selection_is_good(self) -> None:
        selected = {user.avatar_id for user in self.model.users.values()} - {None}
        # Whatever is ready is selected: there are no others, whose objects nobody deletes.
        assert selected == {
            row.id for row in self.model.rows.values() if row.status is Status.READY
        }
        for user in self.model.users.values():
            if user.avatar_id is not None:
                assert self.model.rows[user.avatar_id].uid == user.uid


class StoreModelTests(SynchronousTestCase):
    """The store on SQL and the one in memory."""

    def test_same(self) -> None:
        """Whatever happens, in whatever order, both tell the same."""
        run_state_machine_as_test(
            StoreMachine,
            settings=settings(
                max_examples=30,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
