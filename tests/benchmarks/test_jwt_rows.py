"""The rows for callers with a token, really run: a moment each, by every proxy that is here."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from benchmarks.compare import identity, schema, tokens, verdict
from benchmarks.compare.bearers import PEER_WITH_TOKEN, WITH_KEY, WITH_TOKEN
from benchmarks.compare.generator import Plan
from benchmarks.compare.identity import objection, read_counts, run_identity
from benchmarks.compare.machine import place
from benchmarks.compare.scenarios import IDENTITY, SUBJECTS, Scenario, table
from benchmarks.compare.schema import METRICS, Point, Spread
from benchmarks.compare.session import Options, Session
from benchmarks.compare.subjects import Unavailable, probe
from benchmarks.compare.tokens import FEW, Issued, Signer, Tokens, floor_us, issue, verify_us

pytestmark = pytest.mark.usefixtures("compiled_tools")

MOMENT = Options(rounds=1, quick=True)
ROWS = [s for s in table() if s.mode == "identity"]
COUNT = 40
NOW = int(time.time())


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(MOMENT) as session:
        if place(session.cores, 1) is None:
            pytest.skip("needs two processors")
        yield session


def scenario(name: str, *subjects: str, **changes: Any) -> Scenario:
    """A row with few requests, with these subjects or all that are installed."""
    (found,) = (s for s in ROWS if s.name == name)
    assert found.tokens
    here = []
    for subject in subjects or found.subjects:
        try:
            SUBJECTS[subject].ready(build=False)
        except Unavailable as e:
            if subjects:
                pytest.skip(f"{subject}: {e}")
            continue
        here.append(subject)
    few = dataclasses.replace(found.tokens, **{"requests": COUNT, **changes})
    return dataclasses.replace(found, subjects=tuple(here), tokens=few, connections=4)


def parts(token: str) -> tuple[bytes, dict[str, Any], dict[str, Any], bytes]:
    """What is signed, the header, the claims and the signature."""
    texts = token.split(".")
    header, claims, signature = (
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in texts
    )
    return ".".join(texts[:2]).encode(), json.loads(header), json.loads(claims), signature


def tokens_in(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    assert all(line.startswith("/p\tAuthorization: Bearer ") for line in lines)
    return [line.rpartition(" ")[2] for line in lines]


# ---- tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_token_is_signed_with_the_key_that_is_published(tmp_path: Path, algorithm: str) -> None:
    made = issue(tmp_path, Tokens(algorithm, requests=1), 1, "/p")
    signed, header, claims, signature = parts(made.sample)
    (jwk,) = json.loads(made.jwks.read_text())["keys"]
    assert header == {"alg": algorithm, "typ": "JWT", "kid": jwk["kid"]}
    assert jwk["alg"] == algorithm
    assert (claims["iss"], claims["aud"]) == (tokens.ISSUER, tokens.AUDIENCE)
    assert claims["exp"] == claims["iat"] + tokens.LIFETIME
    public = load_pem_public_key(made.pem.read_bytes())
    if algorithm == "RS256":
        assert isinstance(public, rsa.RSAPublicKey)
        public.verify(signature, signed, padding.PKCS1v15(), SHA256())
        assert len(signature) == 256
        published = [jwk["n"], jwk["e"]]
        numbers = [public.public_numbers().n, public.public_numbers().e]
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))
        assert len(signature) == 64
        published = [jwk["x"], jwk["y"]]
        numbers = [public.public_numbers().x, public.public_numbers().y]
    decoded = [base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in published]
    assert [int.from_bytes(data, "big") for data in decoded] == numbers


def test_new_tokens_are_in_one_request_only(tmp_path: Path) -> None:
    made = issue(tmp_path, Tokens("ES256", first=True, requests=7), 3, "/p")
    assert len(set(made.visits)) == 3
    sent = [token for file in made.visits for token in tokens_in(file)]
    assert len(sent) == len({*sent, made.sample}) - 1 == 21


def test_known_tokens_are_few_and_the_same_in_all_visits(tmp_path: Path) -> None:
    made = issue(tmp_path, Tokens("ES256", requests=1000), 3, "/p")
    assert len(made.visits) == 3
    assert len(set(made.visits)) == 1
    assert len(set(tokens_in(made.visits[0]))) == FEW


def test_a_load_can_be_a_number_of_requests() -> None:
    assert "--count" not in Plan(port=1).arguments()
    given = Plan(port=1, count=7).arguments()
    assert given[given.index("--count") + 1] == "7"


# ---- the rows --------------------------------------------------------------------------------


def test_every_row_compares_the_same_proxies() -> None:
    assert {s.subjects for s in ROWS} == {IDENTITY}
    assert [(s.tokens.algorithm, s.tokens.first) for s in ROWS if s.tokens] == [
        ("RS256", False),
        ("RS256", True),
        ("ES256", True),
    ]


@pytest.mark.parametrize("name", [s.name for s in ROWS])
def test_a_row_measures_what_it_says(session: Session, name: str) -> None:
    wanted = scenario(name)
    run_identity(session, wanted)
    assert session.skipped == []
    points = {p.subject: p for p in session.points}
    assert set(points) == set(wanted.subjects)
    for subject, point in points.items():
        assert point.statuses == {"200": COUNT}
        assert not any(point.errors.values()), point.errors
        assert set(point.metrics) <= set(METRICS)
        assert ("above_open_us" in point.metrics) is (subject in identity.OPEN)
        assert point.metrics["worker_cpu_us"].median <= point.metrics["cpu_us"].median + 0.001
    if {WITH_KEY, WITH_TOKEN} <= set(points):
        token, key = (points[s].metrics["worker_cpu_us"].median for s in (WITH_TOKEN, WITH_KEY))
        above = points[WITH_TOKEN].metrics["above_key_us"].median
        assert above == pytest.approx(token - key, abs=0.001)


@pytest.mark.parametrize("first", [True, False])
def test_a_visit_with_other_tokens_does_not_count(
    session: Session, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Known tokens where they should be new, and the reverse."""

    def other(folder: Path, wanted: Tokens, visits: int, path: str) -> Issued:
        return issue(folder, dataclasses.replace(wanted, first=not first), visits, path)

    monkeypatch.setattr(identity, "issue", other)
    run_identity(session, scenario("jwt-first-es256", WITH_TOKEN, first=first))
    assert session.points == []
    (skipped,) = session.skipped
    asked, seen = ("verified", "known") if first else ("known", "verified")
    assert skipped.reason == (
        f"{COUNT} tokens should have been {asked}; FastGate counted {{'{seen}': {COUNT}}}"
    )


def test_without_cryptography_rows_are_skipped_with_the_reason(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise Unavailable("pip install cryptography")

    monkeypatch.setattr(tokens, "Signer", missing)
    run_identity(session, scenario("jwt-known"))
    assert session.points == []
    assert {s.reason for s in session.skipped} == {"pip install cryptography"}


def test_nginx_says_why_it_is_not_measured(session: Session) -> None:
    assert session.available(dataclasses.replace(ROWS[0], subjects=("nginx-jwt",))) == []
    (skipped,) = session.skipped
    assert "NGINX Plus" in skipped.reason


BAD: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 3600, "iat": NOW - 7200},
    "for another audience": {"aud": "others"},
    "of another issuer": {"iss": "https://other.example.com"},
    "of nobody": {"sub": "stranger"},
}


@pytest.mark.parametrize("subject", [WITH_TOKEN, PEER_WITH_TOKEN])
@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_bad_tokens_are_refused(session: Session, subject: str, algorithm: str) -> None:
    """What is compared really checks them."""
    wanted = scenario("jwt-known", subject, algorithm=algorithm)
    begun = session.begin(wanted, 1)
    assert begun is not None
    signer = Signer(algorithm)
    folder = session.root / "issuer"
    folder.mkdir()
    (folder / "pem").write_bytes(signer.pem())
    (folder / "jwks").write_text(json.dumps(signer.jwks()))
    changes = {
        "token": signer.token(1, NOW), "algorithm": algorithm,
        "issuer_pem": str(folder / "pem"), "issuer_jwks": str(folder / "jwks"),
    }  # fmt: skip
    with session.running(SUBJECTS[subject], wanted, begun[0].proxy, **changes) as (_, setup):

        def status(token: str) -> int:
            answer = probe(setup.port, key=None, token=token)
            assert answer
            return answer.status

        good = signer.token(2, NOW)
        assert status(good) == 200
        assert status("") == 401
        assert status(Signer(algorithm).token(3, NOW)) == 401
        assert (
            status(good.rpartition(".")[0] + "." + signer.token(4, NOW).rpartition(".")[2]) == 401
        )
        for what, claims in BAD.items():
            refused = status(signer.token(5, NOW, **claims))
            assert refused == (403 if what == "of nobody" else 401), what


def test_the_libcrypto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "+F2:2:2048:2500.0:50000.0\n+F4:3:256:30000.0:12500.0\n"
    assert verify_us(said, "+F2") == 20.0
    assert verify_us(said, "+F4") == 80.0
    assert verify_us("", "+F4") is None
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert floor_us("RS256", 0) is None


def test_what_fastgate_counted_is_read() -> None:
    counted = read_counts(
        '# HELP fastgate_tokens_total x\nfastgate_tokens_total{issuer="a",result="known"} 3\n'
        'fastgate_tokens_total{issuer="b",result="known"} 4\n'
        'fastgate_tokens_total{issuer="a",result="refused"} 0\n'
    )
    assert counted == {"known": 7, "refused": 0}
    assert objection(counted, Tokens(requests=7)) == ""
    assert "should have been verified" in objection(counted, Tokens(first=True, requests=7))


# ---- verdict ---------------------------------------------------------------------------------


def a_point(scenario: str, *above: float) -> Point:
    return Point(
        scenario=scenario, subject=WITH_TOKEN, workers=1, connections=16, body=100,
        mode="identity", statuses={"200": 1}, errors={},
        metrics={"above_key_us": Spread.of(above), "verify_us": Spread.of([80.0])},
    )  # fmt: skip


def test_the_budgets_of_tokens_are_judged() -> None:
    points = [a_point("jwt-known", 0.5, 0.9, 1.0), a_point("jwt-first-es256", 85.0, 90.0, 99.0)]
    found = {b.budget: b for b in verdict.judge(points) if "API key" in b.budget}
    assert [(b.figure, b.met, b.note) for b in found.values()] == [
        (0.9, True, ""),
        (None, None, "not measured in this run"),
        (90.0, False, "libcrypto alone: 80.0 µs"),
    ]
    known = found["CPU per request, a known token, above an API key"]
    assert (known.lower, known.upper, known.pairs) == (0.7, 0.95, 3)
    assert schema.METRICS["above_key_us"][0] == "µs"
