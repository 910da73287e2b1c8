"""Ports: free ones only, none twice at a time."""

import socket

import pytest

from backends.ports import FIRST, HOST, LAST, NoFreePort, Ports


def test_ports_in_use_at_once_differ_and_lie_below_the_ephemeral_range() -> None:
    ports = Ports(seed=1)
    taken = [ports.take() for _ in range(200)]
    assert len(set(taken)) == 200
    assert all(FIRST <= port <= LAST < 32768 for port in taken)
    assert ports.taken == set(taken)


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_passed_over(host: str) -> None:
    port = Ports(seed=2).take()
    with socket.create_server((host, port)):
        assert Ports(seed=2).take() != port


def test_a_returned_port_is_handed_out_again_but_last() -> None:
    begin = Ports(seed=3).take()
    ports = Ports(begin, begin + 2)
    first, second = ports.take(), ports.take()
    ports.give_back(first)
    third = ports.take()
    assert len({first, second, third}) == 3
    assert ports.take() == first


def test_an_exhausted_range_is_an_error_that_names_it() -> None:
    begin = Ports(seed=4).take()
    ports = Ports(begin, begin)
    ports.take()
    with pytest.raises(NoFreePort, match=f"no free port from {begin} to {begin} on 127.0.0.1"):
        ports.take()


def test_a_port_given_back_twice_is_handed_out_once() -> None:
    begin = Ports(seed=5).take()
    ports = Ports(begin, begin)
    port = ports.take()
    ports.give_back(port)
    ports.give_back(port)
    assert ports.take() == port
    with pytest.raises(NoFreePort):
        ports.take()


def test_neighbouring_seeds_begin_far_apart() -> None:
    assert abs(Ports(seed=1000).take() - Ports(seed=1001).take()) > 1000
