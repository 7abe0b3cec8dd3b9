"""The protocol of cells.pyx, executed step by step in every possible order.

Racing processes show the common mistakes; those that need three processes at four particular
instructions they may never show. So here the steps of `cells_claim` and the promotion are written
down as a small machine, and all interleavings of several processes that want one key are
searched, each memory access a step of its own. In between, the world does what other keys and
the clock may do at any time: free a cell, take over a claim, reclaim a cell that has expired.
A process that is killed is one that takes no further step, so every kill is among them too.

Nowhere may two cells of the key live. Each rule of the protocol is also left out in turn: then
two do, which shows that the rule is needed and that the search would find it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

EMPTY = 0
OTHER = -1  # another key's, alive
LIVE = -2  # the key's, alive. Positive: a claim of the key with that number

# What a process does next.
LOOK, CLAIM, SETTLE, EMPTY_RIVAL, WITHDRAW, PROMOTE, DONE = range(7)


class Rules(NamedTuple):
    settle: bool = True  # look again after claiming
    fresh: bool = True  # each claim has a number of its own
    yield_to_lower: bool = True  # an earlier claim goes first
    empty_higher: bool = True  # a later claim is emptied
    live_wins: bool = True  # a claim is withdrawn when the key lives elsewhere


class Process(NamedTuple):
    step: int = LOOK
    at: int = 0  # the cell to read next
    place: int = -1  # of the claim that was found or made; of the free cell
    number: int = 0  # the claim's; what the free cell held
    rival: int = 0
    then: int = LOOK  # after withdrawing
    tries: int = 0


State = tuple[tuple[int, ...], tuple[Process, ...]]
AGAIN = Process()


def moves(who: int, p: Process, cells: tuple[int, ...], rules: Rules, most: int) -> list[State]:
    """The cells and the process after its next step; several, where it may choose."""

    def put(index: int, value: int) -> tuple[int, ...]:
        return (*cells[:index], value, *cells[index + 1 :])

    def result(process: Process, now: tuple[int, ...] = cells) -> State:
        return now, (process,)

    again = Process(tries=p.tries)
    last = len(cells)
    if p.step == LOOK:
        if p.at == last:
            if p.place < 0:
                return [result(Process(DONE))]  # full: let through
            if p.number > 0:
                settle = SETTLE if rules.settle else PROMOTE
                return [result(p._replace(step=settle, at=0))]
            if p.tries == most:
                return [result(Process(DONE))]
            return [result(p._replace(step=CLAIM))]
        value = cells[p.at]
        onward = p._replace(at=p.at + 1)
        if value == LIVE:
            return [result(Process(DONE))]
        if value > 0:
            if p.number > 0:
                return [result(onward)]
            return [result(onward._replace(place=p.at, number=value))]
        if value == EMPTY and p.number <= 0:
            # It takes this one or, which one it prefers does not matter here, one it saw before.
            mine = onward._replace(place=p.at, number=EMPTY)
            return [result(mine)] if p.place < 0 else [result(mine), result(onward)]
        return [result(onward)]
    if p.step == CLAIM:
        if cells[p.place] != EMPTY:
            return [result(again)]
        number = 1 + who * (most + 1) + p.tries if rules.fresh else 1
        settle = SETTLE if rules.settle else PROMOTE
        claimed = p._replace(step=settle, at=0, number=number, tries=p.tries + 1)
        return [result(claimed, put(p.place, number))]
    if p.step == SETTLE:
        if p.at == p.place:
            return [result(p._replace(at=p.at + 1))]
        if p.at == last:
            return [result(p._replace(step=PROMOTE))]
        value = cells[p.at]
        if value == LIVE and rules.live_wins:
            return [result(p._replace(step=WITHDRAW, then=DONE))]
        if value > 0:
            if p.at < p.place:
                if rules.yield_to_lower:
                    return [result(p._replace(step=WITHDRAW, then=LOOK))]
            elif rules.empty_higher:
                return [result(p._replace(step=EMPTY_RIVAL, rival=value))]
        return [result(p._replace(at=p.at + 1))]
    if p.step == EMPTY_RIVAL:
        if cells[p.at] != p.rival:
            return [result(again)]
        return [result(p._replace(step=SETTLE, at=p.at + 1, rival=0), put(p.at, EMPTY))]
    after = Process(DONE) if p.then == DONE else again
    held = cells[p.place] == p.number
    if p.step == WITHDRAW:
        return [result(after, put(p.place, EMPTY) if held else cells)]
    # PROMOTE
    if held:
        return [result(Process(DONE), put(p.place, LIVE))]
    return [result(again)]


def search(cells: tuple[int, ...], processes: int, tries: int, rules: Rules) -> tuple[int, bool]:
    """(states reached, whether the key ever lived twice)."""
    start: State = (cells, (AGAIN,) * processes)
    seen = {start}
    todo = [start]
    while todo:
        now, who = todo.pop()
        if now.count(LIVE) > 1:
            return len(seen), True
        following: list[State] = []
        for i, p in enumerate(who):
            if p.step != DONE:
                for changed, (q,) in moves(i, p, now, rules, tries):
                    following.append((changed, (*who[:i], q, *who[i + 1 :])))
        for i, value in enumerate(now):
            if value != EMPTY:  # freed, taken over and given up, expired and reclaimed
                following.append(((*now[:i], EMPTY, *now[i + 1 :]), who))
        for state in following:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return len(seen), False


@pytest.mark.parametrize(
    ("cells", "processes", "tries"),
    [
        ((EMPTY, EMPTY), 2, 3),
        ((EMPTY, OTHER, EMPTY), 2, 2),
        ((OTHER, OTHER, OTHER, EMPTY), 2, 1),
        ((OTHER, EMPTY), 3, 1),
    ],
)
def test_a_key_never_lives_twice(cells: tuple[int, ...], processes: int, tries: int) -> None:
    states, twice = search(cells, processes, tries, Rules())
    assert not twice
    assert states > 1000


@pytest.mark.parametrize("rule", ["settle", "fresh", "yield_to_lower", "empty_higher", "live_wins"])
def test_every_rule_is_needed(rule: str) -> None:
    rules = Rules()._replace(**{rule: False})
    assert search((OTHER, EMPTY), 3, 1, rules)[1]
