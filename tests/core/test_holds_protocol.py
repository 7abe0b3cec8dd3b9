"""The protocol of holds.pyx, executed step by step in every possible order, with kills anywhere.

Each process has a row and a list of holds to open and settle on one wallet; a hold of less than
nothing is a credit. Every access to shared memory is a step of its own: filling the row, reading
the tag, reading the balance, looking at the row that the tag names, advancing it, the exchange, and
so on. A process may be killed before any step; then the next of its kind resolves the row, while
the others go on, and may be killed as well, and begin again.

Wherever it comes to an end, the wallet has what it had, less what was charged by the records, each
counted once; never has it less than nothing. Each rule of the protocol is also left out in turn:
then money is lost or made, which shows that the rule is needed and that the search would find it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import pytest

FREE, INTENT, HELD, SETTLING, SETTLED = range(5)
TAKE, GIVE = 0, 1
DOING = {TAKE: INTENT, GIVE: SETTLING}
DONE_STATE = {TAKE: HELD, GIVE: SETTLED}


class Step(Enum):
    """What a process does next. From RESOLVE on: what only a successor does."""

    START = 0
    READ_TAG = 1
    READ_BALANCE = 2
    LOOK_AT_ROW = 3
    ADVANCE_ROW = 4
    EXCHANGE = 5
    NOTE = 6
    AMOUNT = 7
    SETTLE = 8
    PUBLISH = 9
    FREE_ROW = 10
    END = 11
    RESOLVE = 12
    COMPARE_TAG = 13
    ADVANCE_OWN = 14
    LOOK_AGAIN = 15
    DECIDE = 16


class Rules(NamedTuple):
    help: bool = True  # advance the row that the tag names
    help_first: bool = True  # before the exchange, not after it
    look_again: bool = True  # the word once more after the tag
    ask_tag: bool = True  # do not believe the word alone
    fresh: bool = True  # a sequence is drawn for each hold
    intent: bool = True  # the row says what it is about to do before it is done


class Row(NamedTuple):
    sequence: int = 0
    state: int = FREE
    held: int = 0
    amount: int = 0


Tag = tuple[int, int, int] | None  # row, sequence, operation


class Wallet(NamedTuple):
    available: int
    tag: Tag = None


class Process(NamedTuple):
    step: Step = Step.START
    turn: int = 0
    op: int = TAKE
    tag: Tag = None
    available: int = 0
    word: tuple[int, int] = (0, 0)


Plan = tuple[tuple[tuple[int, int], ...], ...]  # of each process: (held, charged) of its holds
Log = frozenset[tuple[int, int, int]]  # row, sequence, charged: a record's id and amount


class World(NamedTuple):
    wallet: Wallet
    rows: tuple[Row, ...]
    who: tuple[Process, ...]
    log: Log
    kills: int


def step(world: World, i: int, plan: Plan, rules: Rules) -> World:
    """The world after the next step of process i."""
    p, row, wallet = world.who[i], world.rows[i], world.wallet
    rows, log = world.rows, world.log
    held, charged = plan[i][p.turn] if p.turn < len(plan[i]) else (0, 0)

    def put(index: int, new: Row) -> tuple[Row, ...]:
        return (*rows[:index], new, *rows[index + 1 :])

    def advance(tag: Tag, word: tuple[int, int]) -> tuple[Row, ...]:
        """Move the tag's row on, if its word still is what it was when it was looked at."""
        if tag is not None:
            target = rows[tag[0]]
            if (
                word == (tag[1], DOING[tag[2]])
                and (target.sequence, target.state) == word
                and rules.help
            ):
                return put(tag[0], target._replace(state=DONE_STATE[tag[2]]))
        return rows

    match p.step:
        case Step.START:
            if p.turn == len(plan[i]):
                p = Process(Step.END, turn=p.turn)
            else:
                sequence = row.sequence + 1 if rules.fresh else 1
                state = INTENT if rules.intent else FREE
                rows = put(i, Row(sequence, state, held))
                p = Process(Step.READ_TAG, turn=p.turn)
        case Step.READ_TAG:
            p = p._replace(step=Step.READ_BALANCE, tag=wallet.tag)
        case Step.READ_BALANCE:
            p = p._replace(available=wallet.available)
            short = p.op == TAKE and row.held > 0 and wallet.available < row.held
            following = Step.LOOK_AT_ROW if rules.help_first else Step.EXCHANGE
            p = p._replace(step=Step.FREE_ROW if short else following)
        case Step.LOOK_AT_ROW:
            word = rows[p.tag[0]][:2] if p.tag else (0, 0)
            p = p._replace(step=Step.ADVANCE_ROW, word=word)
        case Step.ADVANCE_ROW:
            rows = advance(p.tag, p.word)
            p = p._replace(step=Step.EXCHANGE if rules.help_first else Step.NOTE)
        case Step.EXCHANGE:
            if wallet == (p.available, p.tag):
                less = row.held if p.op == TAKE else row.amount - row.held
                wallet = Wallet(p.available - less, (i, row.sequence, p.op))
                p = p._replace(step=Step.NOTE if rules.help_first else Step.LOOK_AT_ROW)
            else:
                p = p._replace(step=Step.READ_TAG)
        case Step.NOTE:
            rows = put(i, row._replace(state=DONE_STATE[p.op]))
            p = p._replace(step=Step.AMOUNT if p.op == TAKE else Step.PUBLISH)
        case Step.AMOUNT:
            rows = put(i, row._replace(amount=charged))
            p = p._replace(step=Step.SETTLE)
        case Step.SETTLE:
            whole = row.amount == row.held
            rows = put(i, row._replace(state=SETTLED if whole else SETTLING))
            p = p._replace(step=Step.PUBLISH if whole else Step.READ_TAG, op=GIVE)
        case Step.PUBLISH:
            log = log | {(i, row.sequence, row.amount)}
            p = p._replace(step=Step.FREE_ROW)
        case Step.FREE_ROW:
            rows = put(i, row._replace(state=FREE))
            p = Process(Step.START, turn=p.turn + 1)
        case Step.RESOLVE:
            if row.state in (INTENT, SETTLING):
                op = TAKE if row.state == INTENT else GIVE
                following = Step.COMPARE_TAG if rules.ask_tag else Step.LOOK_AGAIN
                p = Process(following, turn=p.turn, op=op, word=row[:2])
            elif row.state == FREE:
                # Nothing was begun, or all is done; the next hold either way.
                p = Process(Step.START, turn=min(p.turn + 1, len(plan[i])))
            else:
                p = p._replace(step=Step.DECIDE if row.state == HELD else Step.PUBLISH)
        case Step.COMPARE_TAG:
            mine = wallet.tag == (i, row.sequence, p.op)
            p = p._replace(step=Step.ADVANCE_OWN if mine else Step.LOOK_AGAIN)
        case Step.ADVANCE_OWN:
            if row[:2] == p.word:
                rows = put(i, row._replace(state=DONE_STATE[p.op]))
            p = p._replace(step=Step.DECIDE if p.op == TAKE else Step.PUBLISH)
        case Step.LOOK_AGAIN:
            state = row.state if rules.look_again else p.word[1]
            if state == DOING[p.op]:
                p = p._replace(step=Step.FREE_ROW if p.op == TAKE else Step.READ_TAG)
            else:
                p = p._replace(step=Step.DECIDE if p.op == TAKE else Step.PUBLISH)
        case _:  # DECIDE. A credit that the wallet has is one; of a hold, what was due
            rows = put(i, row._replace(amount=row.held if row.held < 0 else row.amount))
            p = p._replace(step=Step.SETTLE)
    who = (*world.who[:i], p, *world.who[i + 1 :])
    return World(wallet, rows, who, log, world.kills)


def search(available: int, plan: Plan, kills: int, rules: Rules) -> tuple[int, str]:
    """(states reached, what went wrong: "" for nothing)."""
    count = len(plan)
    start = World(Wallet(available), (Row(),) * count, (Process(),) * count, frozenset(), kills)
    seen = {start}
    todo = [start]
    while todo:
        world = todo.pop()
        if world.wallet.available < 0:
            return len(seen), "overspent"
        if all(p.step == Step.END for p in world.who):
            if any(row.state != FREE for row in world.rows):
                return len(seen), "a hold was left open"
            if len({entry[:2] for entry in world.log}) != len(world.log):
                return len(seen), "one id, two amounts"
            if world.wallet.available + sum(entry[2] for entry in world.log) != available:
                return len(seen), "money was lost or made"
            continue
        for i, p in enumerate(world.who):
            if p.step == Step.END:
                continue
            following = [step(world, i, plan, rules)]
            if world.kills:
                dead = Process(Step.RESOLVE, turn=p.turn)
                who = (*world.who[:i], dead, *world.who[i + 1 :])
                following.append(world._replace(who=who, kills=world.kills - 1))
            for new in following:
                if new not in seen:
                    seen.add(new)
                    todo.append(new)
    return len(seen), ""


@pytest.mark.parametrize(
    ("available", "plan", "kills"),
    [
        (3, (((2, 2), (1, 1)), ((1, 1), (2, 2))), 2),  # fixed prices
        (3, (((2, 1), (1, 0)), ((1, 0),)), 2),  # a part is given back, or all
        (1, (((1, 1),), ((1, 1),), ((1, 1),)), 2),  # three for the last one
        (1, (((2, 1),), ((-1, -1), (-1, -1))), 3),  # credits while there is not enough
    ],
)
def test_no_money_is_lost_or_made(available: int, plan: Plan, kills: int) -> None:
    states, wrong = search(available, plan, kills, Rules())
    assert wrong == ""
    assert states > 1000


@pytest.mark.parametrize("rule", Rules._fields)
def test_every_rule_is_needed(rule: str) -> None:
    rules = Rules()._replace(**{rule: False})
    plan = ((2, 2), (1, 0)), ((1, 1), (1, 0))
    assert search(4, plan, 1, rules)[1] != ""
