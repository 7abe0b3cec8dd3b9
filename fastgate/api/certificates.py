"""Certificates: which there are, how long they are valid, what is wrong with their files."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import get, post
from litestar.params import FromPath, QueryParameter

from fastgate.api.context import Ctx
from fastgate.api.describe import spec
from fastgate.api.ports import CertificateStatus
from fastgate.api.problems import Problem
from fastgate.errors import FastGateError, NotFoundError

Wait = Annotated[
    bool,
    QueryParameter(
        description="Answer when the certificate is there or the attempt failed, but within 30 "
        "seconds; `ordering` says whether it is still in progress."
    ),
]
WAIT_S = 30


class CertificateList(msgspec.Struct, frozen=True):
    """The certificates, in the order of the configuration."""

    items: list[CertificateStatus]


@get("/v1/certificates", opt=spec("read", answer=CertificateList))
async def certificates(ctx: Ctx) -> CertificateList:
    """The certificates that the gateway presents: hosts, key, issuer, validity, what uses them.

    `problem` says why the current files of one cannot be used; its last good content stays in
    use. Keys are never shown.
    """
    return CertificateList(ctx.control.certificates())


@post(
    "/v1/certificates/{name:str}/renew",
    status_code=200,
    opt=spec("operate", answer=CertificateStatus),
)
async def renew(ctx: Ctx, name: FromPath[str], wait: Wait = False) -> CertificateStatus:
    """Order a new certificate from its ACME authority now, even if the last attempt failed a moment
    ago. The old one stays in use until the new one is there.

    A certificate from files is renewed by replacing the files.
    """
    known = {each.name: each for each in ctx.control.certificates()}
    if name in known and not known[name].source.startswith("acme: "):
        raise Problem(
            "conflict",
            f"The certificate {name} is from {known[name].source}. Replace the file: the gateway "
            "notices.",
        )
    try:
        async with asyncio.timeout(WAIT_S):
            await ctx.control.renew_certificate(name, wait=wait)
    except TimeoutError:
        pass  # the attempt goes on
    except NotFoundError:
        raise
    except FastGateError as error:
        raise Problem("not_issued", str(error)) from error
    return next(each for each in ctx.control.certificates() if each.name == name)


HANDLERS = [certificates, renew]
