"""How workers enter under a concurrency limit, executed step by step in every possible order.

`concurrency_enter` as a small machine: mark, read the other workers' words one by one, decide.
All interleavings are searched, for two things that races in real processes may not show:

- never are more in flight than the limit, also when workers leave, enter again, or are killed
  (take no further step) at any point;
- when nobody leaves and nobody is killed, as many enter as there are places for.

Each rule is also left out in turn, which has to break one of the two.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

MARK, READ, DECIDE, DONE = range(4)


class Rules(NamedTuple):
    mark: bool = True  # be seen before looking
    count_marks: bool = True  # others that are entering count as if they had
    wait_for_higher: bool = True  # for those that will give way


class Worker(NamedTuple):
    step: int = MARK
    at: int = 0  # the worker to read next
    running: int = 0
    lower: int = 0
    entering: int = 0
    turns: int = 0  # how often it has left


Word = tuple[int, bool]  # in flight, entering
State = tuple[tuple[Word, ...], tuple[Worker, ...]]


def step(i: int, w: Worker, words: tuple[Word, ...], limit: int, rules: Rules) -> State:
    def put(word: Word) -> tuple[Word, ...]:
        return (*words[:i], word, *words[i + 1 :])

    own = words[i][0]
    if w.step == MARK:
        started = Worker(READ, running=own, turns=w.turns)
        return (put((own, True)) if rules.mark else words), (started,)
    if w.step == READ:
        if w.at == len(words):
            return words, (w._replace(step=DECIDE),)
        if w.at == i:
            return words, (w._replace(at=w.at + 1),)
        running, marked = words[w.at]
        marks = int(marked and rules.count_marks)
        return words, (
            w._replace(
                at=w.at + 1,
                running=w.running + running,
                entering=w.entering + marks,
                lower=w.lower + (marks if w.at < i else 0),
            ),
        )
    if w.running + w.entering + 1 <= limit:
        return put((own + 1, False)), (Worker(DONE, turns=w.turns),)
    if w.running + w.lower + 1 > limit or not rules.wait_for_higher:
        return put((own, False)), (Worker(DONE, turns=w.turns),)
    return words, (Worker(READ, running=own, turns=w.turns),)


def search(workers: int, limit: int, leave: int, rules: Rules) -> tuple[int, set[int]]:
    """(most in flight at once, how many had entered wherever it came to an end)."""
    start: State = (((0, False),) * workers, (Worker(),) * workers)
    seen = {start}
    todo = [start]
    most = 0
    ends: set[int] = set()
    while todo:
        words, who = todo.pop()
        running = sum(n for n, _ in words)
        most = max(most, running)
        following: list[State] = []
        for i, w in enumerate(who):
            if w.step != DONE:
                changed, (q,) = step(i, w, words, limit, rules)
                following.append((changed, (*who[:i], q, *who[i + 1 :])))
            elif w.turns < leave:
                n, mark = words[i]
                again = (*who[:i], Worker(turns=w.turns + 1), *who[i + 1 :])
                following.append(((*words[:i], (max(n - 1, 0), mark), *words[i + 1 :]), again))
                following.append((words, again))  # enters once more, without leaving
        if not following:
            ends.add(running)
        for state in following:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return most, ends


@pytest.mark.parametrize(("workers", "limit"), [(2, 1), (3, 1), (3, 2), (3, 3), (4, 2)])
def test_the_places_are_filled_and_no_more(workers: int, limit: int) -> None:
    assert search(workers, limit, 0, Rules()) == (limit, {limit})


@pytest.mark.parametrize(("workers", "limit"), [(2, 1), (2, 2), (2, 3), (3, 1)])
def test_leaving_and_entering_again(workers: int, limit: int) -> None:
    most, _ = search(workers, limit, 1 if workers == 3 else 3, Rules())
    assert most == limit


@pytest.mark.parametrize("rule", ["mark", "count_marks", "wait_for_higher"])
def test_every_rule_is_needed(rule: str) -> None:
    most, ends = search(3, 2, 0, Rules()._replace(**{rule: False}))
    assert (most, ends) != (2, {2})
    # Without the marks too many get in; without the waiting, too few.
    assert (most > 2) == (rule != "wait_for_higher")
