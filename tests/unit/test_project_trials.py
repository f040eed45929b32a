"""Creates in unknown projects are limited at first."""

from __future__ import annotations

import asyncio

from provisioner.worker.project_trials import IDLE, ProjectTrials


class Trying:
    """Requests that wait for their creates, some of which were admitted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.known: set[str] = set()
        self.let_in: list[int] = []
        self._trials = ProjectTrials(_Monotonic(self))  # type: ignore[arg-type]  # it reads no other time
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, *places: tuple[str, int]) -> list[int]:
        """Ask for requests, each with its project; returns those that are let in now."""
        self._tasks += [asyncio.create_task(self._enter(*place)) for place in places]
        return await self._settled()

    async def end(self, project: str, request: int, *, passed: bool | None) -> list[int]:
        """End one; return those admitted as a result."""
        self._trials.leave(project, request, passed=passed)
        return await self._settled()

    def give_up(self) -> None:
        """End all waits."""
        for task in self._tasks:
            task.cancel()

    async def _enter(self, project: str, request: int) -> None:
        await self._trials.enter(project, request, is_known=lambda: project in self.known)
        self.let_in.append(request)

    async def _settled(self) -> list[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        let_in, self.let_in = self.let_in, []
        return let_in


class _Monotonic:
    def __init__(self, trying: Trying) -> None:
        self._trying = trying

    def monotonic(self) -> float:
        return self._trying.now


async def test_the_pace_doubles_with_every_answer() -> None:
    """One at first, then as many as have passed; a refusal halves that, and no news leaves it."""
    trying = Trying()
    assert await trying.ask(*((str(number), number) for number in range(20))) == [0]
    assert await trying.end("0", 0, passed=True) == [1]
    assert await trying.end("1", 1, passed=True) == [2, 3]
    assert await trying.end("2", 2, passed=True) == [4, 5]
    assert await trying.end("3", 3, passed=None) == [6]
    assert await trying.end("4", 4, passed=True) == [7, 8]
    assert await trying.end("5", 5, passed=False) == []
    trying.give_up()


async def test_one_at_a_time_leaves_for_a_project() -> None:
    """However many are waiting for it, once the project is known all are admitted together."""
    trying = Trying()
    for number in range(5):
        await trying.ask((str(number), number))
        await trying.end(str(number), number, passed=True)
    assert await trying.ask(("one", 2), ("one", 3), ("one", 4)) == [2]
    trying.known.add("one")
    assert await trying.end("one", 2, passed=True) == [3, 4]
    assert await trying.ask(("one", 5)) == [5]


async def test_after_a_rest_it_begins_anew() -> None:
    """Later requests may be for other kinds of projects."""
    trying = Trying()
    for number in range(5):
        await trying.ask((str(number), number))
        await trying.end(str(number), number, passed=True)
    trying.now = IDLE
    assert await trying.ask(("5", 5), ("6", 6)) == [5, 6]
    for number in (5, 6):
        await trying.end(str(number), number, passed=True)
    trying.now = 2 * IDLE + 0.1
    assert await trying.ask(("7", 7), ("8", 8)) == [7]
    assert await trying.end("7", 7, passed=None) == [8]
    trying.give_up()


async def test_who_was_not_let_in_ends_nothing() -> None:
    """Every claim says when it is over, whether it was tried or not."""
    trying = Trying()
    assert await trying.ask(("one", 1)) == [1]
    assert await trying.end("one", 2, passed=True) == []
    assert await trying.ask(("two", 3)) == []
    trying.give_up()
