"""
Tests of the simulation itself: it finds the mistake of each faulty service.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import IO, Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.avatars import Avatar, Crunched, Variant
from fxprofile.model.errors import ChildFailed, CruncherUnavailable
from fxprofile.model.keys import VARIANTS
from fxprofile.model.messages import Job, Op, Result, ResultStatus
from fxprofile.model.ports import Applied
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.repair import Repair
from fxprofile.uploads.selection import Selection
from fxprofile.worker.jobs import JobRunner
from fxprofile.worker.poller import Outcome, Poller
from tests.simulation.ledger import Violation
from tests.simulation.state import MemoryState
from tests.simulation.world import World
from tests.support.fakes.store import MemoryProfileStore, Row

#: Worlds in which a mistake has to be found.
WORLDS = 500


class ForgetfulSelection(Selection):
    """Does not delete images that are published after their avatar was deleted."""

    async def _delete_again(self, avatar_id: str, avatar: Avatar | None) -> bool:
        return False


class HastyRunner(JobRunner):
    """Reports an avatar as ready before its images are put."""

    async def _crunch_with_retry(self, avatar_id: str, original: Any) -> Crunched:
        crunched = await super()._crunch_with_retry(avatar_id, original)
        variants = {name: variant for name, (variant, _) in crunched.pictures["png"].items()}
        await self._report(Result(avatar_id, ResultStatus.READY, variants=variants))
        return crunched


class TrustingRunner(JobRunner):
    """Treats a missing original as a finished job."""

    async def _result_without_original(self, avatar_id: str) -> Result:
        return Result(
            avatar_id, ResultStatus.READY, variants=dict.fromkeys(VARIANTS, Variant(1, 1, 1))
        )


class SoftRunner(JobRunner):
    """Gives up on an image when its first child fails."""

    async def _crunch_with_retry(self, avatar_id: str, original: Any) -> Crunched:
        crunched: Crunched = await self.cruncher.crunch(original=original)
        return crunched


class BlamingRunner(JobRunner):
    """Blames the image if this worker cannot crunch."""

    async def _crunch_with_retry(self, avatar_id: str, original: Any) -> Crunched:
        try:
            return await super()._crunch_with_retry(avatar_id, original)
        except CruncherUnavailable as error:
            raise ChildFailed("crashed") from error


class BlindRunner(JobRunner):
    """Crunches the empty originals of superseded uploads."""

    async def _download(self, avatar_id: str) -> IO[bytes] | None:
        return await super()._download(avatar_id) or BytesIO()


class HastyIntake(Intake):
    """Deletes the original of an upload as soon as its commit is in doubt."""

    async def _find_row(self, avatar_id: str) -> Avatar | None:
        avatar = await super()._find_row(avatar_id)
        if avatar is None:
            await self.outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
        return avatar


class IdleRepair(Repair):
    """Does not send jobs whose first sending failed."""

    async def send_unsent(self) -> None:
        return


class LenientRepair(Repair):
    """Does not take down what shows a quarantined picture."""

    async def take_down(self) -> None:
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
    """Stops after an error of its queue."""

    async def _receive(self) -> float:
        try:
            return await super()._receive()
        except Exception:
            self._generation += 1
            return 0


class ForgetfulStore(MemoryProfileStore):
    """Selects the upload whose result arrives last."""

    async def ready(self, *, avatar_id: str, **rest: Any) -> Applied:
        for user in self.users.values():
            user.selected_seq = 0
        return await super().ready(avatar_id=avatar_id, **rest)


class ForgetfulState(MemoryState):
    """The state of a world with such a store."""

    def __init__(self) -> None:
        self.store = ForgetfulStore()


class InvertedStore(MemoryProfileStore):
    """Supersedes the newest uploads of a user."""

    def _of(self, uid: str) -> list[Row]:
        return super()._of(uid)[::-1]


class InvertedState(MemoryState):
    """The state of a world with such a store."""

    def __init__(self) -> None:
        self.store = InvertedStore()


class MindlessStore(MemoryProfileStore):
    """Keeps no tombstone of a deleted account."""

    async def delete_user(self, *, uid: str, now: float) -> Sequence[str]:
        ids = await super().delete_user(uid=uid, now=now)
        self.users[uid].removed_at = None
        return ids


class MindlessState(MemoryState):
    """The state of a world with such a store."""

    def __init__(self) -> None:
        self.store = MindlessStore()


class UnsweptWorld(World):
    """A world in which no operator looks for orphans."""

    def _sweep(self) -> None:
        return


class CarelessTests(SynchronousTestCase):
    """Each faulty service violates a guarantee in some world."""

    def finds(
        self,
        text: str,
        *,
        first: int = 0,
        state: type[MemoryState] = MemoryState,
        world: type[World] = World,
        **mistakes: type,
    ) -> None:
        """
        Assert that some world violates a guarantee, with this text.

        :param first: the seed to begin with: where such a world is known, it saves the others.
        """
        for seed in (*range(first, WORLDS), *range(first)):
            try:
                world(seed, state=state(), mistakes=mistakes).run()
            except Violation as violation:
                if text in str(violation):
                    return
        self.fail(f"{WORLDS} worlds in which nothing went wrong")

    def test_images_without_a_row_are_found(self) -> None:
        """A selection that ignores images of a deleted avatar leaves images without a row."""
        self.finds("pictures that nobody knows", first=411, selection=ForgetfulSelection)

    def test_selected_avatar_without_images_is_found(self) -> None:
        """A worker that reports before it publishes leaves a selected avatar without images."""
        self.finds("is selected without its picture", job_runner=HastyRunner)

    def test_redelivered_job_without_images_is_found(self) -> None:
        """A worker that trusts a missing original leaves a selected avatar without images."""
        self.finds("without its picture", job_runner=TrustingRunner)

    def test_failed_good_image_is_found(self) -> None:
        """A worker that gives up when its first child fails lets a good image fail."""
        self.finds("is good", job_runner=SoftRunner)

    def test_image_that_is_blamed_for_a_dead_helper_is_found(self) -> None:
        """A worker that blames an image when its own helper died lets a good image fail."""
        self.finds("is good", job_runner=BlamingRunner)

    def test_crunched_superseded_upload_is_found(self) -> None:
        """A worker that crunches a superseded upload is found."""
        self.finds("after it was emptied", job_runner=BlindRunner)

    def test_store_that_supersedes_the_newest_upload_is_found(self) -> None:
        """A store that supersedes the newest upload instead of the oldest is found."""
        self.finds("alone", state=InvertedState)

    def test_accepted_upload_without_its_original_is_found(self) -> None:
        """An intake that deletes the original of an in-doubt upload loses an accepted upload."""
        self.finds("accepted without its original", first=277, intake=HastyIntake)

    def test_unsent_job_is_found(self) -> None:
        """A repair that sends no job leaves an upload unprocessed."""
        self.finds("something goes on for ever", repair=IdleRepair)

    def test_quarantined_picture_that_is_shown_is_found(self) -> None:
        """A repair that takes nothing down leaves a quarantined picture selected."""
        self.finds("is still shown", repair=LenientRepair)

    def test_acknowledged_unfinished_message_is_found(self) -> None:
        """A poller that acknowledges a message before its work is done loses the work."""
        self.finds("", first=173, results_poller=HastyPoller, jobs_poller=HastyPoller)

    def test_ended_poller_is_found(self) -> None:
        """A poller that ends after an error leaves messages unprocessed."""
        self.finds(
            "something goes on for ever", results_poller=FrailPoller, jobs_poller=FrailPoller
        )

    def test_stale_cached_profile_is_found(self) -> None:
        """A write that does not invalidate the cached profile leaves a stale profile."""
        self.finds("an old profile", invalidator=SilentInvalidator)

    def test_selection_by_order_of_results_is_found(self) -> None:
        """A store that selects the last result instead of the newest upload is found."""
        self.finds("was selected after", state=ForgetfulState)

    def test_revived_account_is_found(self) -> None:
        """A store without tombstones lets a write that is in flight revive a deleted account."""
        self.finds("after its account was deleted", first=65, state=MindlessState)

    def test_orphans_without_a_sweep_are_found(self) -> None:
        """Objects without a row are found if no sweep runs."""
        self.finds("is still there", world=UnsweptWorld)
