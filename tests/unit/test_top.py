"""`harness top` draws rings and computes rates."""

import pytest
from nic_harness.cli.top import add_rates, draw


@pytest.mark.parametrize(
    ("size", "avail", "used", "taken", "picture"),
    [
        (8, 0, 0, 0, "········"),
        (8, 8, 0, 0, "████████"),
        (8, 8, 8, 0, "▒▒▒▒▒▒▒▒"),
        (8, 5, 3, 1, "·▒▒██···"),
        (8, 65536 + 2 & 65535, 65535, 65534, "██····▒█"),  # over the end of both
        (8, 14, 9, 6, "▒█████▒▒"),
        (16, 16, 0, 0, "████████"),  # two entries a cell
    ],
)
def test_a_ring(size, avail, used, taken, picture):
    ring = {"size": size, "avail": avail, "used": used, "taken": taken}
    assert draw(ring, 8) == picture
    assert len(draw({**ring, "size": 4})) == 4


def answer(*counts):
    stats = dict.fromkeys(("rx_delivered", "rx_bytes", "tx_completed", "tx_bytes"), 0)
    queues = [{"stats": stats | {"rx_delivered": n, "rx_bytes": 60 * n}} for n in counts]
    return {"arenas": [{"arena": 1, "nics": [{"id": 7, "queues": queues}]}]}


def test_rates_are_of_all_queues_and_of_nics_that_were_there():
    before, now = answer(10, 20), answer(30, 20)
    add_rates(before, now, 0.5)
    assert now["arenas"][0]["nics"][0]["rates"] == {
        "rx_delivered": 40,
        "rx_bytes": 2400,
        "tx_completed": 0,
        "tx_bytes": 0,
    }
    now = answer(5)
    add_rates({"arenas": []}, now, 1)
    assert now["arenas"][0]["nics"][0]["rates"]["rx_delivered"] == 0
