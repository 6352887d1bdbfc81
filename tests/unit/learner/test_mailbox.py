"""The mailbox between coordinator and learner, as a plain class: hand-over, restarts, failures, and when to save."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from rlft_core.errors import CheckpointError, RewardError
from services.learner.mailbox import CLOSED, HALTING, OPEN, Keep, LearnerRestarted, Mailbox, Save, Standing
from services.weights.bundle import Manifest
from services.weights.publication import Publication

SHARDS = [["a", "b"], ["c", "d"]]


def standing(step: int) -> Standing:
    return Standing(step, 2, (11, 12))


def publication(version: int) -> Publication:
    return Publication(Manifest(version, "float32", (), 0), (), None)


def run(test: Callable[[Mailbox], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine with a fresh mailbox; a test that hangs fails."""

    async def bounded() -> None:
        await asyncio.wait_for(test(Mailbox()), 5.0)

    asyncio.run(bounded())


async def idle() -> None:
    """Let every task go as far as it can."""
    for _ in itertools.repeat(None, 10):
        await asyncio.sleep(0)


async def still_waiting(awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    """A task that has not ended by itself."""
    task = asyncio.ensure_future(awaitable)
    await idle()
    assert not task.done()
    return task


def test_a_step_goes_to_every_rank_and_its_metrics_come_back() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        assert (await box.standing()).pids == (11, 12)
        assert [p.version for p in await box.latest()] == [0]
        first = await still_waiting(box.take(0, 0))
        delivered = await still_waiting(box.deliver(0, SHARDS))
        assert await first == ["a", "b"]
        assert await box.take(0, 1) == ["c", "d"]
        await box.ack({"loss": 1.0}, publication(1))
        assert await delivered == {"loss": 1.0}
        assert [p.version for p in await box.latest()] == [1]

    run(test)


def test_a_rank_that_is_ahead_waits_for_its_step() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        delivered = asyncio.ensure_future(box.deliver(0, SHARDS))
        await idle()
        ahead = await still_waiting(box.take(1, 0))
        await box.ack({}, publication(1))
        await delivered
        later = asyncio.ensure_future(box.deliver(1, [["e"], ["f"]]))
        assert await ahead == ["e"]
        later.cancel()

    run(test)


def test_a_learner_that_dies_during_a_step_tells_whoever_waits_for_the_step() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        delivered = await still_waiting(box.deliver(3, SHARDS))
        await box.register(standing(2), publication(2))
        with pytest.raises(LearnerRestarted, match="step 2"):
            await delivered
        # Told once: the next question is answered, and a step of the old count is not handed to the new learner.
        assert [p.version for p in await box.latest()] == [2]
        await still_waiting(box.take(2, 0))

    run(test)


def test_a_learner_that_dies_between_steps_tells_whoever_asks_next() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        await box.register(standing(4), publication(4))
        with pytest.raises(LearnerRestarted) as restart:
            await box.latest()
        assert restart.value.step == 4
        assert [p.version for p in await box.latest()] == [4]

    run(test)


def test_a_learner_that_dies_while_samples_are_made_refuses_them() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        await box.latest()
        await box.register(standing(0), publication(0))
        with pytest.raises(LearnerRestarted, match="step 0"):
            await box.deliver(1, SHARDS)
        await still_waiting(box.deliver(0, SHARDS))
        assert await box.take(0, 1) == ["c", "d"]

    run(test)


def test_two_restarts_before_anyone_asks_are_one_and_the_last_counts() -> None:
    async def test(box: Mailbox) -> None:
        for step in (0, 6, 4):
            await box.register(standing(step), publication(step))
        with pytest.raises(LearnerRestarted, match="step 4"):
            await box.latest()
        assert [p.version for p in await box.latest()] == [4]

    run(test)


def test_the_first_start_is_no_restart_even_when_the_coordinator_asked_before() -> None:
    async def test(box: Mailbox) -> None:
        waiting = await still_waiting(box.latest())
        await box.register(standing(7), publication(7))
        assert [p.version for p in await waiting] == [7]

    run(test)


def test_no_more_work_is_none_for_every_rank() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(5), publication(5))
        waiting = await still_waiting(box.take(5, 0))
        assert await box.standing_order() == OPEN
        await box.close()
        assert await waiting is None
        assert await box.take(5, 1) is None
        assert await box.standing_order() == CLOSED

    run(test)


@pytest.mark.parametrize("ask", ["standing", "latest", "deliver", "take", "progress"])
def test_what_a_restart_cannot_mend_reaches_everybody(ask: str) -> None:
    async def test(box: Mailbox) -> None:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "standing": box.standing,
            "latest": box.latest,
            "deliver": lambda: box.deliver(0, SHARDS),
            "take": lambda: box.take(0, 0),
            "progress": lambda: box.progress(0),
        }
        waiting = await still_waiting(calls[ask]())
        await box.fail(CheckpointError("of another recipe"))
        await box.fail(RewardError("a later one"))
        with pytest.raises(CheckpointError, match="of another recipe"):
            await waiting
        with pytest.raises(CheckpointError, match="of another recipe"):
            await calls[ask]()

    run(test)


def test_reports_come_in_order_and_end_when_the_learner_closes() -> None:
    async def test(box: Mailbox) -> None:
        waiting = await still_waiting(box.progress(0))
        await box.report(0, {"loss": 3.0})
        assert await waiting == [(0, {"loss": 3.0})]
        await box.report(1, {"loss": 2.0})
        await box.report(2, {"loss": 1.0})
        assert await box.progress(1) == [(1, {"loss": 2.0}), (2, {"loss": 1.0})]
        ended = await still_waiting(box.progress(3))
        await box.close()
        assert await ended == []
        assert await box.progress(2) == [(2, {"loss": 1.0})]

    run(test)


def test_a_step_is_saved_only_after_the_coordinator_came_back_for_more() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        assert await box.settled() is True
        delivered = await still_waiting(box.deliver(0, SHARDS))
        await box.ack({}, publication(1))
        await delivered
        saving = await still_waiting(box.settled())
        await box.latest()
        assert await saving is True

    run(test)


def test_a_supervised_step_is_saved_only_after_all_reports_were_read() -> None:
    async def test(box: Mailbox) -> None:
        await box.report(0, {})
        await box.report(1, {})
        saving = await still_waiting(box.settled())
        assert len(await box.progress(0)) == 2
        assert not saving.done()  # read, but perhaps not written down yet
        asked_again = await still_waiting(box.progress(2))
        assert await saving is True
        asked_again.cancel()

    run(test)


def test_a_coordinator_that_ends_without_writing_a_step_down_forbids_saving_it() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        await box.ack({}, publication(1))
        saving = await still_waiting(box.settled())
        await box.close()
        assert await saving is False

    run(test)


def test_a_model_is_kept_by_all_ranks_between_two_steps() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        waiting = await still_waiting(box.take(0, 0))
        keeping = await still_waiting(box.keep("best-000000"))
        assert await waiting == Keep("best-000000")
        assert await box.take(0, 1) == Keep("best-000000")
        await box.kept()
        await keeping
        # The order is withdrawn: the next work is the step.
        again = await still_waiting(box.take(0, 0))
        delivered = await still_waiting(box.deliver(0, SHARDS))
        assert await again == ["a", "b"]
        delivered.cancel()

    run(test)


def test_a_learner_that_dies_while_it_keeps_a_model_tells_whoever_waits() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        keeping = await still_waiting(box.keep("best-000004"))
        await box.register(standing(2), publication(2))
        with pytest.raises(LearnerRestarted, match="step 2"):
            await keeping
        # Nothing of the order is left for the learner that came back.
        await still_waiting(box.take(2, 0))

    run(test)


def test_a_last_checkpoint_is_written_by_all_ranks_of_steps_that_are_written_down() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        delivered = await still_waiting(box.deliver(0, SHARDS))
        await box.ack({}, publication(1))
        await delivered
        settled = await still_waiting(box.settled())
        saving = await still_waiting(box.save())
        assert await settled is True  # whoever asks for a checkpoint has written the step down
        assert await box.take(1, 0) == await box.take(1, 1) == Save()
        await box.kept()
        await saving

    run(test)


def test_a_learner_that_takes_its_steps_by_itself_is_told_to_halt_and_says_that_it_did() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), None)
        assert await box.standing_order() == OPEN
        await box.halt()
        assert await box.standing_order() == HALTING
        assert await box.halted() is False  # its last step may end it first
        waiting = await still_waiting(box.progress(0))
        await box.halting()
        assert await waiting == []
        assert await box.halted() is True
        assert await box.standing_order() == CLOSED

    run(test)


def test_a_learner_that_was_done_before_it_could_halt_did_not_halt() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), None)
        await box.halt()
        await box.close()
        assert await box.halted() is False

    run(test)


def test_the_end_and_failures_reach_whoever_waits_for_a_model() -> None:
    async def closed(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        keeping = await still_waiting(box.keep("best-000000"))
        await box.close()
        await keeping

    async def failed(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        keeping = await still_waiting(box.keep("best-000000"))
        await box.fail(CheckpointError("disk full"))
        with pytest.raises(CheckpointError, match="disk full"):
            await keeping

    run(closed)
    run(failed)


def test_a_restart_can_be_seen_without_being_told() -> None:
    async def test(box: Mailbox) -> None:
        await box.register(standing(0), publication(0))
        seen = await still_waiting(box.restarts(0))
        await box.check()
        await box.register(standing(2), publication(2))
        assert await seen == 1
        assert await box.restarts(0) == 1
        with pytest.raises(LearnerRestarted) as told:
            await box.check()
        assert told.value.step == 2
        await box.check()
        assert [p.version for p in await box.latest()] == [2]
        again = await still_waiting(box.restarts(1))
        await box.fail(CheckpointError("the disk is full"))
        with pytest.raises(CheckpointError):
            await again

    run(test)
