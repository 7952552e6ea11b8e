"""A provisioning plan: what to create, what to change, and what is right already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Action(StrEnum):
    """What a step does."""

    OK = "ok"
    CREATE = "create"
    CHANGE = "change"
    #: Only the operator can do it.
    ATTENTION = "attention"


@dataclass(frozen=True)
class Step:
    """
    One step of a plan.

    :ivar what: its subject.
    :ivar detail: how the subject will be, or is.
    :ivar apply: does it, if there is something to do; idempotent.
    """

    action: Action
    what: str
    detail: str
    apply: Callable[[], Awaitable[object]] | None = None


@dataclass
class Plan:
    """
    Steps in the order in which they are applied.

    :ivar settings: settings to make, so that the service uses what is created; complete only
        when the steps are applied.
    """

    steps: list[Step] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        what: str,
        detail: str,
        apply: Callable[[], Awaitable[object]] | None = None,
        *,
        exists: bool = True,
    ) -> None:
        """
        Add a step.

        :param apply: None if the subject is right already.
        :param exists: whether applying changes the subject, and does not create it.
        """
        action = Action.OK if apply is None else Action.CHANGE if exists else Action.CREATE
        self.steps.append(Step(action, what, detail, apply))

    def attention(self, what: str, detail: str) -> None:
        """Add a step that only the operator can take."""
        self.steps.append(Step(Action.ATTENTION, what, detail))

    @property
    def changes(self) -> bool:
        """Whether there is something to apply."""
        return any(step.apply is not None for step in self.steps)

    @property
    def needs_attention(self) -> bool:
        """Whether there is a step that only the operator can take."""
        return any(step.action is Action.ATTENTION for step in self.steps)

    async def apply(self) -> None:
        """
        Apply the steps in their order.

        :raises Exception: what a step raises; those before it are applied.
        """
        for step in self.steps:
            if step.apply is not None:
                await step.apply()
