"""Plans: what is to be made, what to be changed, and what is as it should be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What a step does."""

    OK = "ok"
    CREATE = "create"
    CHANGE = "change"
    #: Something that only the operator can do.
    ATTENTION = "attention"


@dataclass(frozen=True)
class Step:
    """
    One step of a plan.

    :ivar what: it is about.
    :ivar detail: how it will be, or is.
    :ivar apply: does it; doing so twice does no harm.
    """

    action: Action
    what: str
    detail: str
    apply: Callable[[], Awaitable[object]] | None = None

    @property
    def changes(self) -> bool:
        """Whether there is something to do."""
        return self.apply is not None


@dataclass
class Plan:
    """
    Steps in the order in which they are done.

    :ivar settings: that have to be set for what is made to be used; they are complete only
        when the steps are done.
    """

    steps: list[Step] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def fine(self, what: str, detail: str) -> None:
        """Something is as it should be."""
        self.steps.append(Step(Action.OK, what, detail))

    def create(self, what: str, detail: str, apply: Callable[[], Awaitable[object]]) -> None:
        """Something has to be made."""
        self.steps.append(Step(Action.CREATE, what, detail, apply))

    def change(self, what: str, detail: str, apply: Callable[[], Awaitable[object]]) -> None:
        """Something has to be changed."""
        self.steps.append(Step(Action.CHANGE, what, detail, apply))

    def attention(self, what: str, detail: str) -> None:
        """Something is wrong that only the operator can put right."""
        self.steps.append(Step(Action.ATTENTION, what, detail))

    @property
    def changes(self) -> bool:
        """Whether there is something to do."""
        return any(step.changes for step in self.steps)

    @property
    def warns(self) -> bool:
        """Whether there is something that only the operator can put right."""
        return any(step.action is Action.ATTENTION for step in self.steps)

    async def apply(self) -> None:
        """
        Do what is to be done.

        :raises Exception: whatever a step raises; those before it are done.
        """
        for step in self.steps:
            if step.apply is not None:
                await step.apply()

    def members(self) -> list[dict[str, Any]]:
        """The steps, as JSON."""
        return [
            {"action": str(step.action), "what": step.what, "detail": step.detail}
            for step in self.steps
        ]
