from enum import IntFlag
from typing import Any

HEADER_SIZE: int
ROUTE_SIZE: int

class SettingFlag(IntFlag):
    LIMITS_ON_SUCCESS = 1
    ACCESS_LOG = 2
    HALF_CLOSE = 4
    LOG_QUERY = 8
    TRUST_UNIX = 16
    KEEP_SLASHES = 32

class ListenerFlag(IntFlag):
    LISTENER_TLS = 1
    LISTENER_REDIRECT_HTTPS = 2
    LISTENER_HSTS_SUBDOMAINS = 4
    LISTENER_HSTS_PRELOAD = 8
    LISTENER_PROXY_UNIX = 16

class LimitKind(IntFlag):
    LIMIT_RATE = 1
    LIMIT_QUOTA = 2
    LIMIT_CONCURRENCY = 3

class LimitScope(IntFlag):
    BY_ADDRESS = 1
    BY_ROUTE = 2
    BY_CONSUMER = 4
    BY_PLAN = 8
    BY_SERVICE = 16
    BY_CREDENTIAL = 32
    BY_HEADER = 64

class Period(IntFlag):
    PERIOD_SECOND = 0
    PERIOD_MINUTE = 1
    PERIOD_HOUR = 2
    PERIOD_DAY = 3
    PERIOD_MONTH = 4
    PERIOD_WEEK = 5
    PERIOD_YEAR = 6

class LimitFlag(IntFlag):
    LIMIT_SHOW_HEADERS = 1
    LIMIT_OFFER_UPGRADE = 2

class AuthFlag(IntFlag):
    AUTH_BEARER = 1
    AUTH_OPTIONAL = 2
    AUTH_FORWARD = 4
    AUTH_ALL = 8
    AUTH_LIST = 16
    AUTH_TOKENS = 32

class AuthKind(IntFlag):
    AUTH_KEY = 1
    AUTH_JWT = 2
    AUTH_INTROSPECTION = 3
    AUTH_CERTIFICATE = 4
    AUTH_BASIC = 5
    AUTH_SERVICE = 8

class AuthMethodFlag(IntFlag):
    METHOD_ANONYMOUS = 1
    METHOD_FORWARD = 2

class HeaderAction(IntFlag):
    HEADER_SET = 1
    HEADER_ADD = 2
    HEADER_REMOVE = 3
    HEADER_DEFAULT = 4

class PredicateKind(IntFlag):
    PREDICATE_HEADER_PRESENT = 1
    PREDICATE_HEADER_EQUALS = 2
    PREDICATE_HEADER_PREFIX = 3
    PREDICATE_QUERY_PRESENT = 4
    PREDICATE_QUERY_EQUALS = 5
    PREDICATE_QUERY_PREFIX = 6
    PREDICATE_COOKIE_PRESENT = 7
    PREDICATE_COOKIE_EQUALS = 8
    PREDICATE_COOKIE_PREFIX = 9
    PREDICATE_SEGMENT = 10

class UrlPiece(IntFlag):
    URL_TEXT = 0
    URL_PARAM = 1
    URL_PATH = 2
    URL_HOST = 3
    URL_SCHEME = 4
    URL_QUERY = 5
    URL_QUERY_MORE = 6
    URL_PIECES = 7

class RouteFlag(IntFlag):
    ROUTE_ENCODED_SLASH = 1
    ROUTE_PRESERVE_HOST = 2
    ROUTE_WEBSOCKET = 4
    ROUTE_LIMIT_HEADERS = 8
    ROUTE_LOG_OFF = 16
    ROUTE_MAKES_URL = 32
    ROUTE_RETIRED = 64
    ROUTE_OPENAI_ERRORS = 128
    ROUTE_ABANDONED_FREE = 256
    ROUTE_CERTIFICATES = 512
    ROUTE_CERTIFICATE_REQUIRED = 1024
    ROUTE_CERTIFICATE_FORWARD = 2048
    ROUTE_CLEAR_TOO = 4096
    ROUTE_FAULT = 8192
    ROUTE_MAINTENANCE = 16384
    ROUTE_VALIDATE = 32768
    ROUTE_SPLIT = 65536
    ROUTE_MIRROR = 131072
    ROUTE_SHED = 262144
    ROUTE_SHED_FIRST = 524288

class PlanFlag(IntFlag):
    PLAN_ABANDONED_FREE = 1

class SplitBy(IntFlag):
    SPLIT_BY_TURNS = 0
    SPLIT_BY_CONSUMER = 1
    SPLIT_BY_ADDRESS = 2
    SPLIT_BY_COOKIE = 3

class Balance(IntFlag):
    BALANCE_ROUND_ROBIN = 0
    BALANCE_LEAST_CONNECTIONS = 1
    BALANCE_P2C_EWMA = 2
    BALANCE_HASH = 3

class HashBy(IntFlag):
    HASH_BY_ADDRESS = 0
    HASH_BY_CONSUMER = 1
    HASH_BY_PATH = 2
    HASH_BY_HEADER = 3

class StickySecure(IntFlag):
    STICKY_CLEAR = 0
    STICKY_SECURE = 1
    STICKY_AUTO = 2

class Hole(IntFlag):
    HOLE_REQUEST_ID = 73
    HOLE_LIMIT = 76
    HOLE_USED = 85
    HOLE_REMAINING = 82
    HOLE_RETRY_AFTER = 65
    HOLE_RESETS_AT = 84
    HOLE_POLICY = 80
    HOLE_ROUTE = 78
    HOLE_DETAIL = 68
    HOLE_ALLOW = 77
    HOLE_CHALLENGE = 87
    HOLE_BALANCE = 66
    HOLE_REQUIRED = 81
    HOLE_SHORTFALL = 83
    HOLE_SPENDING = 69
    HOLE_CURRENCY = 67
    HOLE_CAPABILITY = 71
    HOLE_ORIGIN = 72

class Section(IntFlag):
    SECTION_OWNER = 98
    SECTION_MONEY = 113
    SECTION_SPENDING = 101
    SECTION_LIMIT = 108
    SECTION_RESETS = 116
    SECTION_CAPABILITY = 103
    SECTION_OPENAI = 111
    SECTION_END = 46

def stable_hash(data: bytes | str) -> int: ...

class Snapshot:
    in_flight: int
    @property
    def fd(self) -> int: ...
    def __init__(self, fd: int, *, verify: bool = False) -> None: ...
    @property
    def generation(self) -> int: ...
    @property
    def checksum(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def settings(self) -> dict[str, Any]: ...
    def listeners(self) -> list[dict[str, Any]]: ...
    def routes(self) -> list[str]: ...
    def services(self) -> list[str]: ...
    def upstreams(self) -> list[str]: ...
    def handlers(self) -> list[str]: ...
    def plans(self) -> dict[int, str]: ...
    def route(self, index: int) -> dict[str, Any]: ...
    def traffic(self, index: int) -> dict[str, Any]: ...
    def service(self, index: int) -> dict[str, Any]: ...
    def upstream(self, index: int) -> dict[str, Any]: ...
    def target(self, index: int) -> dict[str, Any]: ...
    def plan(self, slot: int) -> dict[str, Any]: ...
    def auth(self, index: int) -> dict[str, Any]: ...
    def cors(self, index: int) -> dict[str, Any]: ...
    def static(self, index: int) -> dict[str, Any]: ...
    def refusal(self, reason: int) -> dict[str, Any]: ...
    def faults(self) -> list[str]: ...
