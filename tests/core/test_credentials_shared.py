"""The credential index between processes: one writes, all read, and the writer may be killed."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from credentialkit import REVOKED, Clock, filled, result_of

from fastgate._core.shared.credentials import CredentialIndex, key_digest

# ---- attaching and sealing --------------------------------------------------------------


def test_only_the_writer_writes() -> None:
    index = filled(1)
    reader = CredentialIndex.attach(index.fd)
    digest = key_digest("key-0")
    for write in (
        lambda: reader.put(digest, 0, identity=1),
        lambda: reader.put_many([]),
        lambda: reader.revoke(digest),
        lambda: reader.repoint(digest, 0),
        lambda: reader.set_consumer("c", identity=1),
        lambda: reader.drop_consumer(0),
        lambda: reader.grow(),
    ):
        with pytest.raises(TypeError, match="read-only"):
            write()


def test_its_file_can_neither_shrink_nor_grow() -> None:
    index = CredentialIndex.create()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(index.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(index.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_attaching_takes_a_descriptor_of_its_own() -> None:
    index = filled(1)
    fd = os.dup(index.fd)
    reader = CredentialIndex.attach(fd)
    os.close(fd)
    del index
    assert result_of(reader, "key-0") == 0
    assert not os.get_inheritable(reader.fd)


def test_what_is_no_index_is_not_attached() -> None:
    empty = os.memfd_create("empty")
    other = os.memfd_create("other")
    os.write(other, b"something else" * 1000)
    damaged = os.memfd_create("damaged")
    index = CredentialIndex.create()
    with mmap.mmap(index.fd, 0, prot=mmap.PROT_READ) as whole:
        os.write(damaged, whole[:-4096])
    try:
        for fd, why in ((empty, "is no"), (other, "is no"), (damaged, "another build")):
            with pytest.raises(ValueError, match=why):
                CredentialIndex.attach(fd)
    finally:
        for fd in (empty, other, damaged):
            os.close(fd)


def test_a_new_writer_goes_on_where_the_old_one_ended() -> None:
    clock = Clock()
    index = filled(20)
    index.revoke(key_digest("key-7"))
    index.repoint(key_digest("key-0"), 1)  # row 0 is named by nobody now
    successor = CredentialIndex.attach(index.fd, writable=True, grace=60, clock=clock)
    assert (successor.count, successor.revoked) == (19, 1)
    assert successor.set_consumer("new", identity=1) == 20
    clock.now += 60
    assert successor.set_consumer("newer", identity=1) == 0
    successor.repoint(key_digest("key-0"), 2)
    with pytest.raises(ValueError, match="named by 1"):
        successor.drop_consumer(1)


# ---- a writer that is killed ------------------------------------------------------------

WRITER = """
import random, sys
from fastgate._core.shared.credentials import CredentialIndex, key_digest
index = CredentialIndex.attach(int(sys.argv[1]), writable=True, grace=1e9)
chance = random.Random(int(sys.argv[2]))
digests = [key_digest(f"key-{k}") for k in range(400)]
print("ready", flush=True)
while True:
    k = chance.randrange(400)
    n = chance.randrange(10**6)
    what = chance.randrange(4)
    try:
        # A row says everything twice: whoever reads a mixture of two rows notices.
        if what < 2:
            row = index.set_consumer(f"c{k}", identity=k, account=n, name=f"{k}-{n}", plan=n)
            index.put(digests[k], row, identity=k)
        elif what == 2:
            index.revoke(digests[k])
        else:
            row = index.set_consumer(f"c{k}", identity=k, account=n, name=f"{k}-{n}", plan=n)
            index.repoint(digests[k], row)
    except KeyError:
        pass
"""


def whole(index: CredentialIndex, k: int) -> bool:
    """Whether key k is there; it must be, or be absent, as a whole."""
    found = index.find(f"key-{k}")
    if found is None:
        return False
    consumer = found.consumer
    assert found.result in (0, REVOKED)
    assert (found.identity, consumer.identity, consumer.id) == (k, k, f"c{k}")
    assert consumer.name == f"{k}-{consumer.account}"
    assert consumer.plan == consumer.account
    return True


def test_readers_see_no_half_of_anything_while_writers_are_killed() -> None:
    # Rows enough for every change that the writers can make: none is reused in its grace.
    index = CredentialIndex.create(1_000_000)
    reader = CredentialIndex.attach(index.fd)
    chance = random.Random(4)
    seen: set[int] = set()
    for round_number in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(index.fd), str(round_number)],
            pass_fds=[index.fd],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        ends = time.monotonic() + chance.uniform(0.005, 0.05)
        enough = 40 * (round_number + 1)  # of the 400, on a machine that is busy too
        while time.monotonic() < ends or len(seen) < enough:
            assert writer.poll() is None
            seen |= {k for k in range(400) if whole(reader, k)}
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        # Nothing that was ever there is lost.
        assert {k for k in range(400) if whole(reader, k)} >= seen
    successor = CredentialIndex.attach(index.fd, writable=True)
    present = sum(whole(reader, k) for k in range(400))
    assert successor.count + successor.revoked == present > 300
    for k in range(400):
        successor.put(
            key_digest(f"key-{k}"), successor.set_consumer(f"c{k}", identity=k), identity=k
        )
    assert [result_of(reader, f"key-{k}") for k in range(400)] == [0] * 400
