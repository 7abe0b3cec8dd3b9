"""Certificates that are replaced under load: nothing fails, and no connection is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from certkit import Identity, Material, Validity
from gatewaykit import Client, Gateway, Upstream, proxying
from tlspeerkit import HOST, TlsClient, document, secure

Start = Callable[..., Gateway]
TIMES = 20


async def test_twenty_reloads_of_certificates_under_load_fail_nothing(
    gateway: Start, upstream: Upstream, tls_material: Material, tmp_path: Path
) -> None:
    """A handshake after the answer to a reload presents the new certificate, whichever worker has
    it. The kinds of keys take turns."""
    renewed = [
        tls_material.leaf(HOST, kind=kind, validity=Validity(until=30 + n))
        for n, kind in zip(range(TIMES), ["rsa", "ecdsa"] * TIMES, strict=False)
    ]
    first = tls_material.leaf(HOST)
    used = Identity(
        tmp_path / "api.pem", tmp_path / "api.key", first.certificate, first.private_key, ()
    )

    def replace(by: Identity) -> None:
        """The key after the certificate, as many programs do."""
        used.cert.write_bytes(by.cert.read_bytes())
        used.key.touch(0o600)
        used.key.write_bytes(by.key.read_bytes())

    replace(first)
    running = gateway(document(proxying(upstream), listeners=[secure()], api=used))
    trust = tls_material.root
    paths = ["/a", "/size/20000", "/chunked/3/5000", "/post"]
    kept = [TlsClient(running.address(), trust) for _ in paths]
    over = asyncio.Event()
    failures: list[str] = []
    presented: set[bytes] = set()
    done = 0

    async def ask(client: Client, path: str) -> None:
        nonlocal done
        body = b"x" * 30_000 if path == "/post" else b""
        try:
            answer = await client.request(path, method="POST" if body else "GET", body=body)
        except (OSError, EOFError) as error:
            failures.append(f"{path}: {error!r}")
            over.set()
            return
        done += 1
        if answer.status != 200:
            failures.append(f"{path}: {answer.status} {answer.body[:200]!r}")

    async def ask_again(client: Client, path: str) -> None:
        while not over.is_set():
            await ask(client, path)

    async def ask_anew(path: str) -> None:
        while not over.is_set():
            async with TlsClient(running.address(), trust) as client:
                await ask(client, path)
                if not failures:
                    presented.add(client.presented)

    tasks = [
        *(asyncio.ensure_future(ask_again(*each)) for each in zip(kept, paths, strict=True)),
        *(asyncio.ensure_future(ask_anew(path)) for path in ("/new", "/post")),
    ]
    try:
        for identity in renewed:
            replace(identity)
            answer = await asyncio.to_thread(running.api, "/v1/config/reload", method="POST")
            assert answer.status == 200, answer
            for _ in range(4):
                async with TlsClient(running.address(), trust) as client:
                    await ask(client, "/fresh")
                    assert failures == []
                    assert client.presented == identity.chain_der[0]
    finally:
        over.set()
        await asyncio.gather(*tasks)
    assert failures == []
    assert done > 5 * TIMES
    assert [client.connections for client in kept] == [1] * len(kept)
    assert {client.presented for client in kept} == {first.chain_der[0]}
    assert presented <= {each.chain_der[0] for each in (first, *renewed)}
    for client in kept:
        client.close()
