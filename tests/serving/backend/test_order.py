"""Tests of the order in which backends are asked."""

from __future__ import annotations

import pytest

from tlsify.serving.backend.address import Backend
from tlsify.serving.backend.order import Balance, Order

A, B, C = (Backend("127.0.0.1", port) for port in (1, 2, 3))
ALL = (A, B, C)


def test_first() -> None:
    """The first is asked first, whatever it has, unless it is down."""
    order = Order()
    with order.trying(A):
        assert [*order.of(ALL, ())] == [A, B, C]
    assert [*order.of(ALL, {A})] == [B, C, A]


def test_turns() -> None:
    """Each has its turn; where one is down the others share its turns evenly."""
    order = Order(Balance.ROUND_ROBIN)
    assert [order.of(ALL, ())[0] for _ in range(4)] == [A, B, C, A]
    assert [order.of((A, B), ())[0] for _ in range(2)] == [A, B], "other backends, other turns"
    order = Order(Balance.ROUND_ROBIN)
    assert [[*order.of(ALL, {B})] for _ in range(2)] == [[A, C, B], [C, A, B]]
    assert [*order.of(ALL, ALL)] == [A, B, C], "all are down"


def test_connections() -> None:
    """Who has the fewest is asked first, and of those each in turn."""
    order = Order(Balance.LEAST_CONNECTIONS)
    with order.trying(A):
        pass
    with order.trying(B):
        pass
    assert order.of(ALL, ())[0] == C
    with pytest.raises(OSError, match="x"), order.trying(C):
        raise OSError("x")
    assert order.of(ALL, ())[0] == C, "one that failed is none"
    with order.trying(C):
        pass
    order.leave(B)
    assert [order.of(ALL, ())[0] for _ in range(3)] == [B] * 3
    assert [*order.of(ALL, {B})][-1] == B
