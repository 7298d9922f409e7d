"""One stream: small frames never wait, payloads wait for who is slow, and nobody asks for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from unittest.mock import patch

import pytest

from dflmoe.errors import ExchangeError
from dflmoe.node import session as module
from dflmoe.node.session import PIECES, Session
from dflmoe.wire.frames import Ask, Chunk, unframed
from dflmoe.wire.manifest import now

PIECE = Chunk(1, "ab" * 32, 0, False, b"piece")


def streamed(story: Callable[[Session], Coroutine[None, None, None]]) -> None:
    asyncio.run(story(Session("ann", now())))


def test_small_frames_overtake_no_piece_and_wait_for_none() -> None:
    async def story(session: Session) -> None:
        for _ in range(PIECES):
            await session.give(PIECE)
        waiting = asyncio.create_task(session.give(PIECE))
        await asyncio.sleep(0)
        assert not waiting.done()  # the peer has read nothing
        session.say(Ask(site="bob"))
        said = session.outgoing()
        frames = [unframed(await anext(said)) for _ in range(PIECES + 1)]
        assert frames == [PIECE] * PIECES + [Ask(site="bob")]
        await waiting
        session.close()

    streamed(story)


def test_a_peer_that_asks_for_much_and_reads_nothing_loses_its_stream() -> None:
    async def story(session: Session) -> None:
        for _ in range(4):
            session.say(Ask(site="bob"))
            session.answer(partial(asyncio.sleep, 60))
        with pytest.raises(ExchangeError, match="does not read"):
            session.say(Ask(site="bob"))
        with pytest.raises(ExchangeError, match="more heads than there are"):
            session.answer(partial(asyncio.sleep, 60))
        session.close()

    with patch.object(module, "UNREAD", 3):
        streamed(story)


def test_payloads_are_given_a_few_at_a_time_and_all_in_the_end() -> None:
    async def story(session: Session) -> None:
        given, at_once = [], [0]

        async def give(k: int) -> None:
            at_once.append(at_once[-1] + 1)
            await asyncio.sleep(0.001)
            at_once.append(at_once[-1] - 1)
            given.append(k)

        for k in range(3 * PIECES):
            session.answer(partial(give, k))
        await asyncio.gather(*session.tasks)
        assert sorted(given) == list(range(3 * PIECES))
        assert max(at_once) == PIECES

    streamed(story)


def test_a_stream_that_was_closed_says_nothing_more() -> None:
    async def story(session: Session) -> None:
        ended: list[str] = []
        session.ends.append(lambda: ended.append("cut"))
        session.say(Ask(site="bob"))
        session.answer(partial(asyncio.sleep, 60))
        (task,) = session.tasks
        session.close()
        assert [raw async for raw in session.outgoing()] == []
        await asyncio.sleep(0)
        assert ended == ["cut"]
        assert task.cancelled() or task.cancelling()

    streamed(story)
