"""A provisioning plan: what to create, what to change, and what is right already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fxprofile.admin.shared.output import Members

Apply = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Step:
    """
    One step of a plan.

    :ivar action: ``ok``, ``create``, ``change``, ``attention``: only the operator can do it, or
        ``warning``: the server lacks it.
    :ivar what: its subject.
    :ivar detail: how the subject will be, or is.
    :ivar apply: does it, if there is something to do; idempotent.
    """

    action: str
    what: str
    detail: str
    apply: Apply | None = None


@dataclass
class Plan:
    """
    Steps in the order in which they are applied.

    :ivar settings: settings to make, so that the service uses what is created; complete only
        when the steps are applied.
    """

    steps: list[Step] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, detail: str, apply: Apply | None, *, exists: bool = True) -> None:
        """
        Add a step.

        :param apply: None if the subject is right already.
        :param exists: whether applying changes the subject, and does not create it.
        """
        action = "ok" if apply is None else "change" if exists else "create"
        self.steps.append(Step(action, what, detail, apply))

    def note(self, action: str, what: str, detail: str) -> None:
        """Add a step that cannot be applied."""
        self.steps.append(Step(action, what, detail))

    def members(self) -> list[Members]:
        """Return the steps as JSON."""
        return [{"action": s.action, "what": s.what, "detail": s.detail} for s in self.steps]

    @property
    def changes(self) -> list[Apply]:
        """What there is to apply, in order."""
        return [step.apply for step in self.steps if step.apply is not None]
