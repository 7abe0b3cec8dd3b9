# pragma version ^0.4.0
# Compiled into x402token.hex by `vyper -f bytecode --evm-version cancun` (0.4.3).
# A token with EIP-3009 transfers: what a payment in the "exact" scheme moves. The EIP-712 domain's
# chain id is given when it is made, so that a test chain can stand for any network.

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    amount: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

TRANSFER_TYPE: constant(bytes32) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)

name: public(String[32])
version: public(String[8])
decimals: public(uint8)
domain: bytes32
balanceOf: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])

@deploy
def __init__(name: String[32], version: String[8], chain_id: uint256):
    self.name = name
    self.version = version
    self.decimals = 6
    self.domain = keccak256(abi_encode(DOMAIN_TYPE, keccak256(name), keccak256(version), chain_id, self))

@external
def mint(receiver: address, amount: uint256):
    self.balanceOf[receiver] += amount
    log Transfer(sender=empty(address), receiver=receiver, amount=amount)

@external
def transferWithAuthorization(
    sender: address, receiver: address, amount: uint256, valid_after: uint256,
    valid_before: uint256, nonce: bytes32, v: uint8, r: bytes32, s: bytes32,
):
    assert block.timestamp > valid_after, "authorization is not yet valid"
    assert block.timestamp < valid_before, "authorization is expired"
    assert not self.authorizationState[sender][nonce], "authorization is used or canceled"
    digest: bytes32 = keccak256(concat(
        x"1901", self.domain,
        keccak256(abi_encode(TRANSFER_TYPE, sender, receiver, amount, valid_after, valid_before, nonce)),
    ))
    signer: address = ecrecover(digest, convert(v, uint256), convert(r, uint256), convert(s, uint256))
    assert signer == sender and signer != empty(address), "invalid signature"
    assert self.balanceOf[sender] >= amount, "transfer amount exceeds balance"
    self.authorizationState[sender][nonce] = True
    self.balanceOf[sender] -= amount
    self.balanceOf[receiver] += amount
    log AuthorizationUsed(authorizer=sender, nonce=nonce)
    log Transfer(sender=sender, receiver=receiver, amount=amount)
