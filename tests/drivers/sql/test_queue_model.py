"""
The database queue compared with the memory queue, in random sequences of operations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Double, bindparam
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model.errors import LeaseLost
from fxprofile.model.messages import Message
from tests.drivers.sql.inline import InlineDatabase, result_of

Pair = tuple[str, Message, Message]


class QueueMachine(RuleBasedStateMachine):
    """Runs the same operations on both queues and compares their results."""

    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.database = InlineDatabase()
        database: Any = self.database
        self.queues: dict[str, tuple[Any, Any]] = {}
        now: Any = bindparam("now", callable_=self.clock.seconds, type_=Double(), unique=True)
        real = DatabaseQueue(database, "jobs", 10, 2, self.clock, now)
        model = MemoryQueue("jobs", 10, 2, self.clock)
        self.queues = {"jobs": (real, model), "dead": (real.dead, model.dead)}

    def teardown(self) -> None:
        self.database.engine.dispose()

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(body=st.text(st.characters(codec="utf-8"), max_size=5))
    def send(self, body: str) -> None:
        for queue in self.queues["jobs"]:
            result_of(queue.send(body=body))

    @rule(target=pairs, name=st.sampled_from(["jobs", "jobs", "dead"]), limit=st.integers(1, 3))
    def receive(self, name: str, limit: int) -> Any:
        real, model = (
            result_of(queue.receive(max_messages=limit, wait=0)) for queue in self.queues[name]
        )
        assert [replace(m, receipt_handle="") for m in real] == [
            replace(m, receipt_handle="") for m in model
        ]
        return multiple(*((name, *both) for both in zip(real, model, strict=True)))

    @rule(pair=pairs, visibility=st.sampled_from([0.0, 3.0, 20.0]))
    def extend(self, pair: Pair, visibility: float) -> None:
        outcomes = []
        for queue, message in zip(self.queues[pair[0]], pair[1:], strict=True):
            try:
                outcomes.append(result_of(queue.extend(message=message, visibility=visibility)))
            except LeaseLost:
                outcomes.append("lost")
        assert outcomes[0] == outcomes[1]

    @rule(pair=consumes(pairs))
    def delete(self, pair: Pair) -> None:
        for queue, message in zip(self.queues[pair[0]], pair[1:], strict=True):
            result_of(queue.delete(message=message))

    @invariant()
    def same_depth(self) -> None:
        for real, model in self.queues.values():
            assert result_of(real.depth()) == result_of(model.depth())


class QueueModelTests(SynchronousTestCase):
    """The database queue and the memory queue."""

    def test_same_results_as_the_memory_queue(self) -> None:
        """Both queues return the same results for any sequence of operations."""
        run_state_machine_as_test(
            QueueMachine,
            settings=settings(
                max_examples=15,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
