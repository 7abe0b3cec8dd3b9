"""PostgreSQL over TLS, by the parameters that libpq has for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from storekit import Cluster, cluster_or_skip
from waitkit import free_port

from fastgate.errors import StoreError
from fastgate.store.engine import Store

OPENSSL = shutil.which("openssl")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path, int]]:
    """A server that speaks TLS on loopback, its certificate, its port."""
    if OPENSSL is None:
        pytest.skip("install the Debian package 'openssl' to run this")
    port = free_port()
    cluster = cluster_or_skip(port)
    try:
        certificate, key = cluster.data / "server.crt", cluster.data / "server.key"
        subprocess.run(
            [
                OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        if user := cluster.user:
            for path in (certificate, key):
                os.chown(path, user["user"], user["group"])
        key.chmod(0o600)
        cluster.run("ALTER SYSTEM SET ssl = on")
        cluster.run("SELECT pg_reload_conf()")
        mine = tmp_path_factory.mktemp("tls") / "root.crt"
        shutil.copyfile(certificate, mine)
        yield cluster, mine, port
    finally:
        cluster.remove()


async def is_encrypted(url: str) -> bool:
    store = Store(url)
    try:
        await store.connect()
        async with store.read() as connection:
            found = await connection.exec_driver_sql(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            return bool(found.scalar())
    finally:
        await store.stop()


async def test_each_sslmode(cluster: tuple[Cluster, Path, int]) -> None:
    _, root, port = cluster
    by_name = f"postgresql://fastgate@localhost:{port}/postgres"
    by_address = f"postgres://fastgate@127.0.0.1:{port}/postgres"
    assert await is_encrypted(f"{by_address}?sslmode=require")
    assert await is_encrypted(by_address)  # prefer
    assert not await is_encrypted(f"{by_address}?sslmode=disable")
    assert await is_encrypted(f"{by_name}?sslmode=verify-full&sslrootcert={root}")
    assert await is_encrypted(f"{by_address}?sslmode=verify-ca&sslrootcert={root}")
    with pytest.raises(StoreError, match=r"IP address mismatch|not valid for"):
        await is_encrypted(f"{by_address}?sslmode=verify-full&sslrootcert={root}")


async def test_what_cannot_be_verified_is_not_used(cluster: tuple[Cluster, Path, int]) -> None:
    _, root, port = cluster
    url = f"postgresql://fastgate@localhost:{port}/postgres?sslmode=verify-full&sslrootcert="
    with pytest.raises(StoreError, match="No such file"):
        await is_encrypted(f"{url}{root.parent}/none.crt")
