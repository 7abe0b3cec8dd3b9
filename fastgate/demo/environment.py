"""The environment: the simulated services, their configuration, and a gateway process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from fastgate.demo.demopay import DemoPay
from fastgate.demo.mailsink import MailSink
from fastgate.demo.webserver import WebServer, weather
from fastgate.demo.x402_facilitator import ASSET, NETWORK, SELLER, DemoFacilitator, DemoWallet
from fastgate.errors import FastGateError
from fastgate.settings import ADMIN_TOKEN

PRICE = "0.05 USD"
LOW = "0.50 USD"
X402_AMOUNT = "50000"  # 0.05 of a token with six decimals
PATIENCE_S = 60.0
PLUGIN = "[fastgate.payment_providers]\ndemo = fastgate.demo.provider:create\n"


class DemoError(FastGateError):
    """The demonstration cannot continue."""


def has_x402() -> bool:
    """Whether the extra is installed."""
    return all(importlib.util.find_spec(name) for name in ("x402", "pydantic"))


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Environment:
    """Everything that the tour needs; use it as a context."""

    def __init__(self, folder: Path | None = None, port: int = 0) -> None:
        """folder: if given, it is kept afterwards. port: of the gateway; 0: a free one."""
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="fastgate-demo-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = f"http://127.0.0.1:{port or free_port()}"
        self.control = f"http://127.0.0.1:{free_port()}"
        self.secret = secrets.token_hex(16)
        self.upstream = WebServer(weather)
        self.pay = DemoPay(self.secret)
        self.pay.webhook = f"{self.base}/_fastgate/webhooks/demo"
        self.mails = MailSink()
        self.wallet = DemoWallet()
        self.facilitator = DemoFacilitator(self.wallet, 1_000_000)
        self.x402 = has_x402()
        self._gateway: subprocess.Popen[bytes] | None = None
        self._api: httpx.Client | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "fastgate.json"

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    # ---- the gateway ----------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """The configuration of the demonstration."""
        routes: list[dict[str, Any]] = [
            {
                "name": "weather",
                "path": "/weather",
                "service": "weather",
                "price": PRICE,
                "auth": {"api_key": {"header": "X-Api-Key"}},
            }
        ]
        if self.x402:
            routes.append(
                {
                    "name": "weather-by-request",
                    "path": "/pay-as-you-go/weather",
                    "service": "weather",
                    "x402": {
                        "pay_to": SELLER,
                        "network": NETWORK,
                        "asset": ASSET,
                        "amount": X402_AMOUNT,
                        "facilitator": self.facilitator.url,
                        "description": "One forecast",
                    },
                }
            )
        return {
            "version": 1,
            "workers": 2,
            "listeners": [{"name": "public", "bind": self.base.removeprefix("http://")}],
            "control": {"bind": self.control.removeprefix("http://")},
            "upstreams": [{"name": "weather", "targets": [self.upstream.url]}],
            "services": [{"name": "weather", "upstream": "weather"}],
            "routes": routes,
            "billing": {
                "public_url": self.base,
                "providers": ["demo", "manual"],
                "seller": {"name": "Weather Inc.", "email": "billing@weather.example"},
                "smtp": {
                    "host": "127.0.0.1",
                    "port": self.mails.port,
                    "tls": "none",
                    "sender": "Weather Inc. <billing@weather.example>",
                },
                "notices": {"low_balance": LOW},
            },
        }

    def start(self) -> None:
        """Start the gateway and wait for it. Raises DemoError."""
        self.config.write_text(json.dumps(self.document(), indent=1))
        plugin = self.folder / "plugin" / "fastgate_demo-1.dist-info"
        plugin.mkdir(parents=True, exist_ok=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: fastgate-demo\nVersion: 1\n")
        (plugin / "entry_points.txt").write_text(PLUGIN)
        paths = [str(plugin.parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "FASTGATE_DEMO_PAY": self.pay.url,
            "FASTGATE_DEMO_SECRET": self.secret,
        }
        environment.pop("FASTGATE_CONFIG", None)
        command = [sys.executable, "-m", "fastgate", "run", str(self.config)]
        command += ["--state-dir", str(self.state), "--log-format", "human"]
        with self.log.open("wb") as log:
            self._gateway = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
            )
        self.until(self._ready, "the gateway starts")

    def _ready(self) -> bool:
        assert self._gateway is not None
        if self._gateway.poll() is not None:
            raise DemoError(f"The gateway did not start:\n{self._last_words()}")
        token = self.state / ADMIN_TOKEN
        if not token.exists():
            return False
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
        if self._api is None:
            self._api = httpx.Client(base_url=self.control, headers=headers, timeout=10)
        try:
            return self._api.get("/v1/payment-providers").status_code == 200
        except httpx.HTTPError:
            return False

    def _last_words(self) -> str:
        """The end of the gateway's log, since its folder is removed with the environment."""
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    def api(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The control API, as admin. Raises DemoError."""
        assert self._api is not None
        answer = self._api.request(method, path, json=body, headers=headers)
        if answer.is_error:
            raise DemoError(f"{method} {path}: {answer.text}")
        return answer.json()

    def until(self, probe: Any, what: str, seconds: float = PATIENCE_S) -> Any:
        """The first true result of a probe. Raises DemoError if there is none in time."""
        ends = time.monotonic() + seconds
        while not (found := probe()):
            if time.monotonic() > ends:
                raise DemoError(f"{what}: not within {seconds:g} s.\n{self._last_words()}")
            time.sleep(0.05)
        return found

    def wait(self) -> None:
        """Wait until the gateway ends, or Ctrl-C."""
        if self._gateway is not None:
            with contextlib.suppress(KeyboardInterrupt):
                self._gateway.wait()

    def close(self) -> None:
        """Stop everything, and remove the folder if it is ours."""
        if self._api is not None:
            self._api.close()
        if self._gateway is not None and self._gateway.poll() is None:
            self._gateway.send_signal(signal.SIGINT)
            try:
                self._gateway.wait(10)
            except subprocess.TimeoutExpired:
                self._gateway.kill()  # its child processes end with it
                self._gateway.wait()
        for player in (self.upstream, self.pay, self.mails, self.facilitator):
            player.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Environment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
