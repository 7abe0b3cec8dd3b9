from collections.abc import Iterable
from enum import IntEnum
from typing import final

from fastgate._core.chunked import ChunkDecoder as ChunkDecoder
from fastgate._core.chunked import ChunkFault as ChunkFault
from fastgate._core.faults import FAULT_TEXTS as FAULT_TEXTS
from fastgate._core.uri import normalize as normalize
from fastgate._core.uri import split_authority as split_authority

DEFAULT_CAPS: tuple[int, int, int, int]

class ParseFault(IntEnum):
    FAULT_NONE = 0
    FAULT_BLANK_LINES = 1
    FAULT_METHOD = 2
    FAULT_REQUEST_LINE = 3
    FAULT_VERSION_MISSING = 4
    FAULT_VERSION_MALFORMED = 5
    FAULT_VERSION_UNSUPPORTED = 6
    FAULT_LINE_TOO_LONG = 7
    FAULT_TARGET_MISSING = 8
    FAULT_TARGET_FORM = 9
    FAULT_TARGET_SCHEME = 10
    FAULT_TARGET_AUTHORITY = 11
    FAULT_TARGET_USERINFO = 12
    FAULT_TARGET_FRAGMENT = 13
    FAULT_TARGET_NON_ASCII = 14
    FAULT_TARGET_CHARACTER = 15
    FAULT_TARGET_SPACE = 16
    FAULT_TARGET_ESCAPE = 17
    FAULT_TARGET_NUL = 18
    FAULT_BARE_LF = 19
    FAULT_BARE_CR = 20
    FAULT_NUL = 21
    FAULT_CONTROL = 22
    FAULT_FOLDING = 23
    FAULT_FIELD_NAME_EMPTY = 24
    FAULT_FIELD_NAME = 25
    FAULT_FIELD_SPACE = 26
    FAULT_FIELD_COLON = 27
    FAULT_FIELD_TOO_LONG = 28
    FAULT_FIELDS_TOO_MANY = 29
    FAULT_HEAD_TOO_LARGE = 30
    FAULT_HOST_MISSING = 31
    FAULT_HOST_REPEATED = 32
    FAULT_HOST_EMPTY = 33
    FAULT_HOST_USERINFO = 34
    FAULT_HOST_INVALID = 35
    FAULT_HOST_PORT = 36
    FAULT_HOST_MISMATCH = 37
    FAULT_LENGTH_INVALID = 38
    FAULT_LENGTH_OVERFLOW = 39
    FAULT_LENGTH_REPEATED = 40
    FAULT_LENGTH_WITH_CODING = 41
    FAULT_CODING_REPEATED = 42
    FAULT_CODING_INVALID = 43
    FAULT_CODING_UNKNOWN = 44
    FAULT_CODING_HTTP10 = 45
    FAULT_CONNECTION_INVALID = 46
    FAULT_CONNECTION_TOO_MANY = 47
    FAULT_UPGRADE_BODY = 48
    FAULT_STATUS_LINE = 49
    FAULT_STATUS_CODE = 50
    FAULT_MAX_FORWARDS = 51
    FAULT_COUNT = 52

class Method(IntEnum):
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_CONNECT = 6
    METHOD_OPTIONS = 7
    METHOD_TRACE = 8
    METHOD_PATCH = 9

class FieldName(IntEnum):
    F_OTHER = 0
    F_HOST = 1
    F_CONNECTION = 2
    F_CONTENT_LENGTH = 3
    F_TRANSFER_ENCODING = 4
    F_KEEP_ALIVE = 5
    F_PROXY_CONNECTION = 6
    F_PROXY_AUTHENTICATE = 7
    F_PROXY_AUTHORIZATION = 8
    F_TE = 9
    F_TRAILER = 10
    F_UPGRADE = 11
    F_EXPECT = 12
    F_AUTHORIZATION = 13
    F_VIA = 14
    F_FORWARDED = 15
    F_X_FORWARDED_FOR = 16
    F_X_FORWARDED_PROTO = 17
    F_X_FORWARDED_HOST = 18
    F_X_REQUEST_ID = 19
    F_TRACEPARENT = 20
    F_TRACESTATE = 21
    F_ACCEPT = 22
    F_ORIGIN = 23
    F_USER_AGENT = 24
    F_X_CONSUMER = 25
    F_DATE = 26
    F_SERVER = 27
    F_HTTP2_SETTINGS = 28
    F_X_REAL_IP = 29
    F_X_FORWARDED_PORT = 30
    F_CONTENT_TYPE = 31
    F_COOKIE = 32
    F_ACCESS_CONTROL_REQUEST_METHOD = 33
    F_RETRY_AFTER = 34
    F_ACCESS_CONTROL = 35
    F_X_FORWARDED = 36
    F_PROXY_CLAIM = 37
    F_MAX_FORWARDS = 38
    F_UNDERSCORE = 63

class Framing(IntEnum):
    FRAMING_NONE = 0
    FRAMING_LENGTH = 1
    FRAMING_CHUNKED = 2
    FRAMING_CLOSE = 3

class TargetForm(IntEnum):
    TARGET_ORIGIN = 0
    TARGET_ABSOLUTE = 1
    TARGET_ASTERISK = 2
    TARGET_AUTHORITY = 3

class HeadFlag(IntEnum):
    HEAD_KEEP_ALIVE = 1
    HEAD_EXPECT_CONTINUE = 2
    HEAD_UPGRADE_WEBSOCKET = 4
    HEAD_PATH_NEEDS_NORMALIZING = 8
    HEAD_HAS_UNDERSCORE = 16
    HEAD_CONNECTION_NAMES = 32
    HEAD_BAD_EXPECT = 64
    HEAD_HAS_ENCODED_SLASH = 128
    HEAD_UPGRADE_OTHER = 256

@final
class ParsedHead:
    code: int
    @property
    def fault(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def method(self) -> bytes: ...
    @property
    def method_id(self) -> int: ...
    @property
    def form(self) -> int: ...
    @property
    def target(self) -> bytes: ...
    @property
    def authority(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def query(self) -> bytes | None: ...
    @property
    def host(self) -> bytes: ...
    @property
    def host_port(self) -> int: ...
    @property
    def minor(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> bytes: ...
    @property
    def framing(self) -> int: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def fields(self) -> list[tuple[bytes, bytes, int, int]]: ...
    @property
    def lines(self) -> list[bytes]: ...
    @property
    def first(self) -> dict[int, int]: ...
    @property
    def summary(self) -> tuple[object, ...]: ...
    @staticmethod
    def request(
        data: bytes,
        cuts: Iterable[int] = (),
        limits: tuple[int, int, int, int] = ...,
    ) -> ParsedHead: ...
    @staticmethod
    def response(
        data: bytes,
        method: int = ...,
        cuts: Iterable[int] = (),
        limits: tuple[int, int, int, int] = ...,
    ) -> ParsedHead: ...

def bench_parse(data: bytes, n: int, response: bool = False) -> int: ...
def fault_reason_of(fault: int) -> int: ...
def scan_class(data: bytes, bit: int) -> int: ...
def scanner() -> str: ...
def scanners() -> tuple[str, ...]: ...
def use_scanner(name: str) -> None: ...
