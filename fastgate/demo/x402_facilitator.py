"""x402 without a chain: a facilitator that keeps accounts in memory, and a wallet for it.

The messages are those of x402 version 2. Only the signature is simulated: a keyed hash of the
transfer, with a key that wallet and facilitator share. No token is moved.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from typing import Any

from fastgate.demo.webserver import Reply, Request, WebServer

NETWORK = "eip155:84532"
ASSET = "0x" + "a5" * 20
SELLER = "0x" + "5e" * 20


def _sign(secret: bytes, transfer: dict[str, Any]) -> str:
    text = json.dumps(transfer, sort_keys=True).encode()
    half = hmac.digest(secret, text, "sha256")
    return "0x" + (half + hashlib.sha256(half).digest() + b"\x1b").hex()


class DemoWallet:
    """Pays offers."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        self.address = "0x" + hashlib.sha256(self.secret).hexdigest()[:40]

    def pay(self, required: str) -> str:
        """The value of PAYMENT-SIGNATURE for a value of PAYMENT-REQUIRED."""
        offer = json.loads(base64.b64decode(required))
        accepted = offer["accepts"][0]
        now = int(time.time())
        transfer = {
            "from": self.address,
            "to": accepted["payTo"],
            "value": accepted["amount"],
            "validAfter": str(now - 60),
            "validBefore": str(now + accepted["maxTimeoutSeconds"]),
            "nonce": "0x" + secrets.token_hex(32),
        }
        payment = {
            "x402Version": 2,
            "resource": offer["resource"],
            "accepted": accepted,
            "payload": {"signature": _sign(self.secret, transfer), "authorization": transfer},
        }
        return base64.b64encode(json.dumps(payment).encode()).decode()


class DemoFacilitator:
    """Verifies and settles payments of one wallet."""

    def __init__(self, wallet: DemoWallet, balance: int) -> None:
        """balance: in the token's smallest unit."""
        self._wallet = wallet
        self._lock = threading.Lock()
        self._used: set[str] = set()
        self.balance = balance
        self.received = 0
        self.server = WebServer(self._answer)

    @property
    def url(self) -> str:
        return self.server.url

    def close(self) -> None:
        self.server.close()

    def _answer(self, request: Request) -> Reply:
        if request.path == "/supported":
            kind = {"x402Version": 2, "scheme": "exact", "network": NETWORK}
            return Reply(200, {"kinds": [kind], "extensions": [], "signers": {}})
        with self._lock:
            payment = request.json["paymentPayload"]["payload"]
            transfer = payment["authorization"]
            wrong = self._wrong(payment, transfer)
            if request.path == "/verify":
                answer = {"isValid": not wrong, "payer": transfer["from"]}
                return Reply(200, answer | ({"invalidReason": wrong} if wrong else {}))
            answer = {"success": not wrong, "payer": transfer["from"], "network": NETWORK}
            if wrong:
                return Reply(200, answer | {"errorReason": wrong, "transaction": ""})
            self._used.add(transfer["nonce"])
            self.balance -= int(transfer["value"])
            self.received += int(transfer["value"])
            digest = hashlib.sha256(transfer["nonce"].encode()).hexdigest()
            return Reply(200, answer | {"transaction": f"0x{digest}"})

    def _wrong(self, payment: dict[str, Any], transfer: dict[str, Any]) -> str:
        if payment["signature"] != _sign(self._wallet.secret, transfer):
            return "invalid_exact_evm_payload_signature"
        if transfer["nonce"] in self._used:
            return "invalid_exact_evm_nonce_already_used"
        return "insufficient_funds" if int(transfer["value"]) > self.balance else ""
