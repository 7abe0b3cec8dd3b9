"""A payment network in a process: a chain, a token, a facilitator over HTTP, and payers.

The chain is eth-tester's (py-evm), the token a contract of ours with EIP-3009 transfers, the
facilitator the official library's over that chain: signatures are really verified, nonces are
really spent, balances really move. `FacilitatorServer` speaks HTTP and can be told to fail in the
ways that facilitators fail, before or after the money has moved (`Fault`).

The chain stands for Base Sepolia: its token's EIP-712 domain names that network's chain id.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from eth_account import Account
from eth_tester import EthereumTester, PyEVMBackend
from web3 import EthereumTesterProvider, Web3
from x402 import x402Client, x402ClientSync, x402FacilitatorSync
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_client, register_exact_evm_facilitator
from x402.mechanisms.evm.types import TransactionReceipt
from x402.schemas import PaymentPayload, PaymentRequired, PaymentRequirements
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1

CHAIN_ID = 84532
NETWORK = f"eip155:{CHAIN_ID}"
NETWORK_1 = "base-sepolia"
TOKEN_NAME, TOKEN_VERSION = "Test USD", "2"

TOKEN_CODE = Path(__file__).with_name("x402token.hex").read_text().strip()
"""The contract `x402token.vy`, compiled."""
_ABI: list[dict[str, Any]] = [
    {
        "type": "constructor",
        "stateMutability": "nonpayable",
        "inputs": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chain_id", "type": "uint256"},
        ],
    },
    {
        "type": "function",
        "name": "mint",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "receiver", "type": "address"}, {"name": "amount", "type": "uint256"}],
        "outputs": [],
    },
    {
        "type": "function",
        "name": "balanceOf",
        "stateMutability": "view",
        "inputs": [{"name": "owner", "type": "address"}],
        "outputs": [{"name": "", "type": "uint256"}],
    },
]


class Signer(FacilitatorWeb3Signer):
    """The library's signer, on a chain in this process instead of one behind RPC."""

    def __init__(self, w3: Web3, key: str) -> None:
        super().__init__(key, "http://127.0.0.1:9")  # never asked: the chain below is
        self._w3 = w3
        self.lose_receipts = 0
        """How many receipts are not found in time, as on a congested chain."""

    def wait_for_transaction_receipt(self, tx_hash: str) -> TransactionReceipt:
        if self.lose_receipts:
            self.lose_receipts -= 1
            raise TimeoutError("the receipt is not there yet")
        return super().wait_for_transaction_receipt(tx_hash)


class Chain:
    """A chain with one token, a facilitator that has gas, and a seller that is paid."""

    def __init__(self) -> None:
        self.w3 = Web3(EthereumTesterProvider(EthereumTester(PyEVMBackend())))
        self._bank = self.w3.eth.accounts[0]
        made = self.w3.eth.contract(abi=_ABI, bytecode=TOKEN_CODE).constructor(
            TOKEN_NAME, TOKEN_VERSION, CHAIN_ID
        )
        receipt = self.w3.eth.wait_for_transaction_receipt(made.transact({"from": self._bank}))
        self.token = str(receipt["contractAddress"])
        self._contract = self.w3.eth.contract(address=receipt["contractAddress"], abi=_ABI)
        self.seller = str(Account.create().address)
        agent = Account.create()
        self.w3.eth.send_transaction({"from": self._bank, "to": agent.address, "value": 10**20})
        self.signer = Signer(self.w3, agent.key.hex())

    def payer(self, balance: int) -> Any:
        """An account with so much of the token, in its smallest unit."""
        account = Account.create()
        self.fund(account.address, balance)
        return account

    def fund(self, address: str, amount: int) -> None:
        """Give an address so much of the token."""
        self._contract.functions.mint(address, amount).transact({"from": self._bank})

    def balance(self, address: str) -> int:
        return int(self._contract.functions.balanceOf(address).call())

    @property
    def earned(self) -> int:
        """What the seller has been paid."""
        return self.balance(self.seller)


class Fault(NamedTuple):
    """How one call to the facilitator fails."""

    kind: str
    """hang, html, lying (503 with a body of success), truncated, closed, refused, garbage, long"""
    moved: bool = True
    """Whether the money moves before."""


class FacilitatorServer:
    """The library's facilitator behind real HTTP, on a free port of 127.0.0.1."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.facilitator = register_exact_evm_facilitator(
            x402FacilitatorSync(), chain.signer, NETWORK
        )
        self.faults: dict[str, deque[Fault]] = {"/verify": deque(), "/settle": deque()}
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """(path, body, fields) of each call."""
        self._arrived = threading.Condition()
        self._lock = threading.Lock()  # the chain is no thread's friend
        self._released = threading.Event()
        self._connections: set[socket.socket] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._connections.add(self.connection)

            def finish(self) -> None:
                server._connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fields = {name.lower(): value for name, value in self.headers.items()}
                with server._arrived:
                    server.seen.append((self.path, body, fields))
                    server._arrived.notify_all()
                server._serve(self, body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def calls(self, path: str) -> int:
        """How often `/verify` or `/settle` was asked."""
        return sum(each[0] == path for each in self.seen)

    def wait_for(self, path: str, count: int = 1) -> None:
        """Block until `path` was asked so often."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.calls(path) >= count, 30)

    def reset(self) -> None:
        """As new: no faults, nothing seen."""
        for faults in self.faults.values():
            faults.clear()
        self.seen.clear()
        self.chain.signer.lose_receipts = 0
        self._released.clear()

    def release(self) -> None:
        """Let calls that hang end, without an answer."""
        self._released.set()

    def stop(self) -> None:
        """Nobody listens afterwards."""
        self.release()
        self._http.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join(10)

    # ---- the answers -------------------------------------------------------------------------

    def _serve(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        faults = self.faults[request.path]
        fault = faults.popleft() if faults else None
        if fault is not None and fault.kind == "refused":
            self._send(request, 200, {**_FAILED, "network": body["paymentRequirements"]["network"]})
            return
        answer: dict[str, Any] = {"success": True, "transaction": "0x" + "ab" * 32}
        answer["network"] = body["paymentRequirements"]["network"]
        if fault is None or fault.moved:
            answer = self._do(request.path, body)
        if fault is None:
            self._send(request, 200, answer)
        else:
            getattr(self, f"_fail_{fault.kind}")(request, answer)

    def _do(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        payload: PaymentPayload | PaymentPayloadV1
        requirements: PaymentRequirements | PaymentRequirementsV1
        if body["x402Version"] == 1:
            payload = PaymentPayloadV1.model_validate(body["paymentPayload"])
            requirements = PaymentRequirementsV1.model_validate(body["paymentRequirements"])
        else:
            payload = PaymentPayload.model_validate(body["paymentPayload"])
            requirements = PaymentRequirements.model_validate(body["paymentRequirements"])
        ask = self.facilitator.verify if path == "/verify" else self.facilitator.settle
        with self._lock:
            found = ask(payload, requirements)
        answer: dict[str, Any] = found.model_dump(by_alias=True, exclude_none=True, mode="json")
        return answer

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, answer: dict[str, Any], cut: int = 0
    ) -> None:
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) - cut])

    def _fail_hang(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        self._released.wait(60)
        request.close_connection = True

    def _fail_html(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        page = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
        request.send_response(502)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    def _fail_lying(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        self._send(request, 503, answer)

    def _fail_truncated(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        self._send(request, 200, answer, cut=20)
        request.close_connection = True

    def _fail_closed(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        request.close_connection = True

    def _fail_garbage(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        self._send(request, 200, {"status": "ok"})

    def _fail_long(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        self._send(request, 200, {**answer, "padding": "x" * 200_000})


_FAILED = {"success": False, "errorReason": "insufficient_funds", "transaction": ""}


@contextmanager
def facilitating() -> Iterator[FacilitatorServer]:
    """A facilitator on a chain of its own."""
    server = FacilitatorServer(Chain())
    try:
        yield server
    finally:
        server.stop()


# ---- routes and payers ----------------------------------------------------------------------


def paid(server: FacilitatorServer, **more: Any) -> dict[str, Any]:
    """The `x402` of a route that is paid through this facilitator."""
    return {
        "pay_to": server.chain.seller,
        "network": NETWORK,
        "asset": server.chain.token,
        "asset_name": TOKEN_NAME,
        "asset_version": TOKEN_VERSION,
        "price": "0.001 USD",
        "facilitator": server.url,
        "valid_for": "10m",
        "timeout": "10s",
        **more,
    }


PRICE = 1000
"""What `paid` asks, in the token's smallest unit."""


def official_client(account: Any) -> x402Client:
    """The official asynchronous client, which pays whatever it is asked in this token."""
    client = register_exact_evm_client(x402Client(), account)
    client.set_spend_controls(False)
    return client


def sign(
    account: Any, required: str | dict[str, Any], change: Callable[[Any], None] | None = None
) -> str:
    """The field that pays for an offer: PAYMENT-REQUIRED's value, or a 402's body in version 1.

    change: what to do to the payment before it is put into the field.
    """
    client = register_exact_evm_client(x402ClientSync(), account)
    client.set_spend_controls(False)
    if isinstance(required, dict):
        from x402.schemas.v1 import PaymentRequiredV1

        payload = client.create_payment_payload(PaymentRequiredV1.model_validate(required))
    else:
        offer = PaymentRequired.model_validate_json(base64.b64decode(required))
        payload = client.create_payment_payload(offer)
    found = payload.model_dump(by_alias=True, exclude_none=True, mode="json")
    if change is not None:
        change(found)
    return base64.b64encode(json.dumps(found).encode()).decode()


def unpack(field: str) -> Any:
    """The JSON in a field."""
    return json.loads(base64.b64decode(field, validate=True))
