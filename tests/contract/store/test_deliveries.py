"""The deliveries of hooks on both databases: told from their repeats by all processes together, and bounded."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import Engine, func, select

from spawner.store import tables
from spawner.store.deliveries import KEPT, DeliveryRows
from spawner.store.engine import reading
from tests.contract.store.values import FixedClock


def kept(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(tables.deliveries)).scalar_one()


def test_a_repeat_is_known_to_every_process(engine: Engine, clock: FixedClock) -> None:
    """What one process took, another knows."""
    one, other = DeliveryRows(engine, clock), DeliveryRows(engine, clock)
    assert [one.is_new("a"), other.is_new("a"), other.is_new("b"), one.is_new("b")] == [True, False, True, False]


def test_one_of_many_at_once_takes_it(engine: Engine, clock: FixedClock) -> None:
    """A delivery that comes sixteen times at once is new to exactly one."""
    stores = [DeliveryRows(engine, clock) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for number in range(5):
            name = f"delivery-{number}"
            assert sum(pool.map(lambda store, id_=name: store.is_new(id_), stores)) == 1


def test_what_is_kept_ends_after_an_hour(engine: Engine, clock: FixedClock) -> None:
    """An hour later a delivery is forgotten, and so is its row."""
    store = DeliveryRows(engine, clock)
    store.is_new("old")
    clock.pass_seconds((KEPT - timedelta(seconds=1)).total_seconds())
    assert not store.is_new("old")
    clock.pass_seconds(1)
    assert store.is_new("new")
    assert (kept(engine), store.is_new("old")) == (1, True)


def test_the_oldest_of_too_many_go(engine: Engine, clock: FixedClock) -> None:
    """A flood of deliveries costs a bounded table; the newest stay known."""
    store = DeliveryRows(engine, clock, most_kept=10)
    for number in range(50):
        clock.pass_seconds(1)
        store.is_new(f"delivery-{number}")
    assert kept(engine) == 10
    assert [store.is_new("delivery-49"), store.is_new("delivery-40"), store.is_new("delivery-39")] == [
        False,
        False,
        True,
    ]
