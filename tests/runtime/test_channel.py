"""Channels: messages whole and in order, descriptors with them, peers that leave or sleep."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.runtime.wire import channel
from fastgate.runtime.wire.channel import Channel, ChannelClosed, ChannelFull, socket_pair
from fastgate.runtime.wire.messages import (
    Abort,
    FromWorker,
    Listener,
    Peers,
    Prepare,
    Prepared,
    Problem,
    Serving,
    ToWorker,
)

Pair = tuple[Channel[FromWorker], Channel[ToWorker]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    a, b = socket_pair()
    ends: Pair = (Channel(a, FromWorker), Channel(b, ToWorker))
    yield ends
    for end in ends:
        end.close()


def memfd(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_arrives_whole_with_its_descriptors_in_order(pair: Pair) -> None:
    control, worker = pair
    fds = [memfd(b"one"), memfd(b"two")]
    sent = Prepare(seq=1, generation=2, binds=["a", "b"], listen=[Listener(name="n", bind="b")])
    control.send(sent, fds)
    for fd in fds:
        os.close(fd)
    received = worker.receive()
    assert received is not None
    message, got = received
    assert message == sent
    assert [os.pread(fd, 10, 0) for fd in got] == [b"one", b"two"]
    assert not any(os.get_inheritable(fd) for fd in got)
    for fd in got:
        os.close(fd)
    assert worker.receive() is None


listeners = st.builds(
    Listener, name=st.text(max_size=8), bind=st.text(max_size=20), mode=st.integers(0, 0o777)
)
from_worker = st.one_of(
    st.builds(Serving, seq=st.integers(0, 2**62), generation=st.integers(0, 2**62)),
    st.builds(
        Prepared,
        seq=st.integers(0, 2**62),
        problems=st.lists(st.builds(Problem, st.text(max_size=20), st.text(max_size=200))),
    ),
)


@given(st.lists(from_worker, max_size=30))
def test_messages_keep_their_boundaries_and_order(messages: list[FromWorker]) -> None:
    a, b = socket_pair()
    sender: Channel[ToWorker] = Channel(a, ToWorker)
    receiver: Channel[FromWorker] = Channel(b, FromWorker)
    for message in messages:
        sender.send(message)
    got = []
    while (received := receiver.receive()) is not None or sender.waiting:
        if received is not None:
            got.append(received[0])
        sender.flush()  # the kernel may have had no room, though nothing is under way
    assert got == messages
    sender.close()
    with pytest.raises(ChannelClosed):
        receiver.receive()
    receiver.close()


def test_what_does_not_fit_waits_with_its_descriptors(pair: Pair) -> None:
    control, worker = pair
    before = open_descriptors()
    count = 0
    while not control.waiting:
        fd = memfd(str(count).encode())
        control.send(Peers(bind=str(count)), [fd])
        os.close(fd)
        count += 1
    got = []
    while True:
        received = worker.receive()
        if received is None:
            if not control.waiting:
                break
            control.flush()
            continue
        message, fds = received
        assert isinstance(message, Peers)
        got.append(int(message.bind))
        assert os.pread(fds[0], 10, 0) == message.bind.encode()
        os.close(fds[0])
    assert got == list(range(count))
    assert open_descriptors() == before


def test_a_peer_that_never_reads_fills_the_outbox(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "OUTBOX", 3)
    control, _ = pair
    while not control.waiting:
        control.send(Abort(seq=0))
    control.send(Abort(seq=1))
    control.send(Abort(seq=2))
    with pytest.raises(ChannelFull):
        control.send(Abort(seq=3))


def test_a_peer_that_has_left_is_reported(pair: Pair) -> None:
    control, worker = pair
    worker.close()
    with pytest.raises(ChannelClosed):
        control.send(Abort(seq=1))
    with pytest.raises(ChannelClosed):
        control.receive()


def test_what_was_sent_before_leaving_is_still_read(pair: Pair) -> None:
    control, worker = pair
    worker.send(Serving(seq=1, generation=2))
    worker.close()
    received = control.receive()
    assert received is not None
    assert received[0] == Serving(seq=1, generation=2)
    with pytest.raises(ChannelClosed):
        control.receive()


def test_an_unknown_message_is_refused_and_its_descriptors_closed(pair: Pair) -> None:
    control, worker = pair
    before = open_descriptors()
    fd = memfd(b"")
    control.send(Serving(seq=1, generation=1), [fd])  # the wrong direction
    os.close(fd)
    with pytest.raises(msgspec.ValidationError):
        worker.receive()
    assert open_descriptors() == before


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_without_the_descriptors_it_must_have_is_refused(pair: Pair, count: int) -> None:
    control, worker = pair
    before = open_descriptors()
    fd = memfd(b"")
    control.send(Prepare(seq=1, generation=1, binds=[], listen=[]), [fd] * count)
    os.close(fd)
    with pytest.raises(msgspec.ValidationError, match=f"Prepare comes with {count} descriptors"):
        worker.receive()
    assert open_descriptors() == before


def test_a_message_beyond_the_bound_is_not_sent(pair: Pair) -> None:
    control, _ = pair
    with pytest.raises(ValueError, match="exceed"):
        control.send(Prepare(seq=1, generation=1, binds=["x" * 70_000], listen=[]))
    with pytest.raises(ValueError, match="exceed"):
        control.send(Abort(seq=1), [0] * 251)


def test_a_message_cut_short_is_refused() -> None:
    a, b = socket_pair()
    a.send(b"x" * (channel.MAX_MESSAGE + 100))
    end: Channel[ToWorker] = Channel(b, ToWorker)
    with pytest.raises(msgspec.ValidationError, match="cut short"):
        end.receive()
    end.close()
    a.close()


def test_sockets_are_not_inherited_over_exec() -> None:
    a, b = socket_pair()
    assert not a.get_inheritable()
    assert not b.get_inheritable()
    assert a.type == socket.SOCK_SEQPACKET
    a.close()
    b.close()
