"""money_text: amounts as refusals write them."""
from fastgate._core.exchange.number_text cimport put_money


def money_text(micros: int) -> str:
    """Micro-units as a decimal number, as refusals write money: "0.002"."""
    cdef char text[32]
    return text[:put_money(text, micros) - text].decode("ascii")
