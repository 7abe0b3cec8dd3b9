"""Validation in whole gateways: files, reloads, workers that are replaced, payments, the CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import PROJECT, Answer, Gateway, Upstream, eventually, fetch, proxying

Start = Callable[..., Gateway]
JSON = {"Content-Type": "application/json"}
ORDER = """
openapi: 3.0.3
info: {title: Orders, version: "1"}
servers: [{url: https://api.example.com/v1}]
paths:
  /orders:
    get:
      parameters: [{name: limit, in: query, schema: {type: integer, maximum: 100}}]
      responses: {200: {description: orders}}
    post:
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: "parts.yaml#/Order"}}}
      responses: {201: {description: made}}
"""
PARTS = """
Order:
  type: object
  required: [sku, count]
  properties:
    sku: {type: string}
    count: {type: integer, minimum: 1}
"""


def files(folder: Path, parts: str = PARTS) -> Path:
    path = folder / "openapi.yaml"
    path.write_text(ORDER)
    (folder / "parts.yaml").write_text(parts)
    return path


def config(upstream: Upstream, path: Path | str, **route: Any) -> dict[str, Any]:
    return proxying(
        upstream, {"name": "orders", "path": "/v1/{rest*}", "validate": str(path), **route}
    )


def order(gateway: Gateway, **members: Any) -> Answer:
    body = json.dumps({"sku": "A", "count": 1, **members}).encode()
    return fetch(gateway.address(), "/v1/orders", method="POST", headers=JSON, body=body)


def pointers(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 400, (answer.status, answer.body)
    assert answer.json["reason"] == "request_invalid"
    return [(one["pointer"], one["detail"]) for one in answer.json["errors"]]


def test_requests_are_validated(gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    running = gateway(config(upstream, files(tmp_path)))
    answer = order(running)
    assert answer.status == 200
    assert json.loads(answer.json["body"]) == {"sku": "A", "count": 1}
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    assert fetch(running.address(), "/v1/orders?limit=100").status == 200
    assert fetch(running.address(), "/v1/orders?limit=101").json["errors"] == [
        {"in": "query", "parameter": "limit", "detail": "must be at most 100"}
    ]
    assert fetch(running.address(), "/v1/other").json["errors"] == [
        {"detail": "The API's description has no such path"}
    ]
    assert upstream.seen == ["/v1/orders", "/v1/orders?limit=100"]
    # What was refused is in the log, in metrics, and can be explained.
    request = order(running, count=0).json["instance"].rpartition(":")[2]
    found = eventually(
        lambda: running.api(f"/v1/requests/{request}").status == 200, "the request is known"
    )
    assert found
    text = running.api("/metrics").body.decode()
    assert 'fastgate_validations_total{route="orders",result="passed"} 2' in text
    assert 'fastgate_validations_total{route="orders",result="refused"} 4' in text


def test_a_relative_path_is_relative_to_the_configuration(
    gateway: Start, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    running = gateway(config(upstream, "api/openapi.yaml"), wait=False)
    assert running.wait() != 0  # the folder is empty
    assert "api/openapi.yaml there is no such file" in running.log_text()
    (running.folder / "api").mkdir()
    files(running.folder / "api")
    again = Gateway(config(upstream, "api/openapi.yaml"), running.folder)
    try:
        again.wait_serving()
        assert pointers(order(again, count=0))
    finally:
        again.stop()


def test_a_reload_reads_the_files_again(gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    path = files(tmp_path)
    running = gateway(config(upstream, path))
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    files(tmp_path, PARTS.replace("minimum: 1", "minimum: 5"))
    assert order(running).status == 200  # not before the reload
    running.reload_and_wait()
    assert pointers(order(running)) == [("/count", "must be at least 5")]
    # A description with an error changes nothing.
    files(tmp_path, PARTS.replace("minimum: 1", "minimum: one"))
    running.reload()
    eventually(lambda: running.said("the reload was refused"), "the refused reload")
    assert "parts.yaml:7: Order.properties.count.minimum: not a valid schema" in running.log_text()
    assert pointers(order(running)) == [("/count", "must be at least 5")]
    # Without the setting, nothing is validated.
    plain = proxying(upstream, {"name": "orders", "path": "/v1/{rest*}"})
    running.reload_and_wait(plain)
    assert order(running, count="x").status == 200


def test_processes_are_replaced_while_the_files_are_gone(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    path = files(tmp_path)
    running = gateway(config(upstream, path), workers=1)
    assert pointers(order(running, count=0))
    for file in tmp_path.iterdir():
        file.unlink()
    running.kill("fg-worker-0")
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    generation = running.generation
    running.kill("fg-control")
    eventually(lambda: running.generation > generation, "control is back")
    assert "the descriptions that workers have stay in use instead" in running.log_text()
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    # A reload needs them.
    running.reload()
    eventually(lambda: running.said("the reload was refused"), "the refused reload")
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]


def test_a_configuration_sent_to_the_control_api_names_an_absolute_path(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    path = files(tmp_path)
    running = gateway(config(upstream, path))
    route = {"name": "more", "path": "/v1/orders", "service": "app", "validate": "openapi.yaml"}
    answer = put(running, route)
    assert answer.status == 422, answer.body
    assert "write an absolute path" in answer.body.decode()
    answer = put(running, {**route, "validate": {"openapi": str(path)}})
    assert answer.status in (200, 201), answer.body
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    answer = put(running, {**route, "validate": "none"}, **{"If-Match": "*"})
    assert answer.status == 200, answer.body
    assert order(running, count=0).status == 200
    answer = put(running, {**route, "validate": "/nowhere/o.yaml"}, **{"If-Match": "*"})
    assert answer.status == 422, answer.body
    assert "/nowhere/o.yaml there is no such file" in answer.body.decode()


def test_a_request_that_is_not_valid_is_not_asked_to_pay(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    x402 = {
        "pay_to": "0x" + "1" * 40,
        "network": "eip155:8453",
        "asset": "0x" + "2" * 40,
        "amount": "1000",
        "facilitator": "http://127.0.0.1:1",
    }
    running = gateway(config(upstream, files(tmp_path), x402=x402))
    assert pointers(order(running, count=0)) == [("/count", "must be at least 1")]
    assert order(running).status == 402
    assert upstream.seen == []


def put(gateway: Gateway, route: dict[str, Any], **headers: str) -> Answer:
    return gateway.api("/v1/routes/more", method="PUT", body=route, headers=headers)


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastgate", "check", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1"},
        timeout=60,
    )


def test_check_reads_descriptions(tmp_path: Path, upstream: Upstream) -> None:
    path = files(tmp_path, PARTS.replace("minimum: 1", "minimum: one"))
    document = tmp_path / "fastgate.yaml"
    document.write_text(json.dumps({"version": 1, **config(upstream, "openapi.yaml")}))
    found = check(str(document))
    assert found.returncode == 4
    place = f"{tmp_path}/parts.yaml:7: Order.properties.count.minimum: "
    assert f'{place}not a valid schema: "one" is not of type "number"' in found.stderr
    assert check(str(document), "--no-files").returncode == 0
    files(tmp_path)
    assert check(str(document)).returncode == 0
    path.unlink()
    found = check(str(document))
    assert found.returncode == 4
    assert f"{document}:1: routes[0].validate.openapi: {path} there is no such file" in found.stderr
