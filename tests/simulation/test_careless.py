"""
Tests of the simulation itself: services that make one mistake each, which it has to find.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.avatars import Avatar, Crunched, Variant
from fxprofile.model.keys import VARIANTS
from fxprofile.model.messages import Job, Op, Result, ResultStatus
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.repair import Repair
from fxprofile.uploads.selection import Selection
from fxprofile.worker.jobs import JobRunner
from fxprofile.worker.poller import Outcome, Poller
from tests.simulation.ledger import Violation
from tests.simulation.state import MemoryState
from tests.simulation.world import World
from tests.support.fakes.store import MemoryProfileStore


class ForgetfulSelection(Selection):
    """Does nothing about pictures that come after their avatar was deleted."""

    async def _delete_again(self, avatar_id: str, avatar: Avatar | None) -> bool:
        return False


class HastyRunner(JobRunner):
    """Says that an avatar is ready before its pictures are put."""

    async def _crunch_with_retry(self, avatar_id: str, original: Any) -> Crunched:
        crunched = await super()._crunch_with_retry(avatar_id, original)
        variants = {name: variant for name, (variant, _) in crunched.pictures["png"].items()}
        await self._report(Result(avatar_id, ResultStatus.READY, variants=variants))
        return crunched


class TrustingRunner(JobRunner):
    """Takes a missing original for a job that is done."""

    async def _result_without_original(self, avatar_id: str) -> Result:
        return Result(
            avatar_id, ResultStatus.READY, variants=dict.fromkeys(VARIANTS, Variant(1, 1, 1))
        )


class SoftRunner(JobRunner):
    """Gives up on an image when its first child fails."""

    async def _crunch_with_retry(self, avatar_id: str, original: Any) -> Crunched:
        crunched: Crunched = await self._cruncher.crunch(original=original)
        return crunched


class HastyIntake(Intake):
    """Has the original of an upload deleted as soon as it is in doubt."""

    async def _find_row(self, avatar_id: str) -> Avatar | None:
        avatar = await super()._find_row(avatar_id)
        if avatar is None:
            await self._outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
        return avatar


class IdleRepair(Repair):
    """Leaves jobs that could not be sent to themselves."""

    async def send_unsent(self) -> None:
        return


class SilentInvalidator(ProfileInvalidator):
    """Invalidates nothing."""

    async def invalidate(self, uid: str) -> None:
        return


class HastyPoller(Poller):
    """Deletes messages before they are handled."""

    def _start(self, message: Any) -> None:
        Deferred.fromCoroutine(self._settle(message, Outcome.DONE))
        super()._start(message)


class FrailPoller(Poller):
    """Does not survive an error of its queue."""

    async def _receive(self) -> float:
        try:
            return await super()._receive()
        except Exception:
            self._generation += 1
            return 0


class ForgetfulStore(MemoryProfileStore):
    """Selects whatever becomes ready last."""

    async def ready(self, *, avatar_id: str, **rest: Any) -> Avatar | None:
        for user in self.users.values():
            user.selected_seq = 0
        return await super().ready(avatar_id=avatar_id, **rest)


class ForgetfulState(MemoryState):
    """What is in such a store."""

    def __init__(self) -> None:
        self.store = ForgetfulStore()


class UnsweptWorld(World):
    """A world in which no operator looks for orphans."""

    def _sweep(self) -> None:
        return


class CarelessTests(SynchronousTestCase):
    """A service that makes a mistake goes wrong in some world."""

    def finds(
        self,
        text: str,
        *,
        within: int = 100,
        state: type[MemoryState] = MemoryState,
        world: type[World] = World,
        **mistakes: type,
    ) -> None:
        """Some world goes wrong, and says what."""
        for seed in range(within):
            try:
                world(seed, state=state(), mistakes=mistakes).run()
            except Violation as violation:
                if text in str(violation):
                    return
        self.fail(f"{within} worlds in which nothing went wrong")

    def test_forgetful_selection(self) -> None:
        """Pictures that no row knows are found."""
        self.finds("pictures that nobody knows", selection=ForgetfulSelection)

    def test_hasty_runner(self) -> None:
        """An avatar that is selected without its pictures is found."""
        self.finds("is selected without its picture", job_runner=HastyRunner)

    def test_trusting_runner(self) -> None:
        """So is one whose pictures are gone."""
        self.finds("without its picture", job_runner=TrustingRunner)

    def test_soft_runner(self) -> None:
        """A good image that failed is found."""
        self.finds("is good", job_runner=SoftRunner)

    def test_hasty_intake(self) -> None:
        """A good upload that was accepted and has lost its original is found."""
        self.finds("accepted without its original", within=300, intake=HastyIntake)

    def test_idle_repair(self) -> None:
        """A job that is never sent is found."""
        self.finds("something goes on for ever", repair=IdleRepair)

    def test_hasty_poller(self) -> None:
        """Work that is lost with its process is found."""
        self.finds("", results_poller=HastyPoller, jobs_poller=HastyPoller)

    def test_frail_poller(self) -> None:
        """A loop that has ended is found."""
        self.finds(
            "something goes on for ever", results_poller=FrailPoller, jobs_poller=FrailPoller
        )

    def test_silent_changes(self) -> None:
        """A profile that is kept although it has changed is found."""
        self.finds("an old profile", invalidator=SilentInvalidator)

    def test_store(self) -> None:
        """A store that selects whatever comes last is found."""
        self.finds("was selected after", state=ForgetfulState)

    def test_sweep(self) -> None:
        """Objects that nobody knows of any more are found when nobody looks for them."""
        self.finds("is still there", world=UnsweptWorld)
