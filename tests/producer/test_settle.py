"""A path is taken when it has stayed the same for long enough, and not before."""

from hypothesis import given
from hypothesis import strategies as st

from producer.watch.settle import Settling

SECONDS = 2.0


class Model:
    """A clock, and a disk on which each path has a number that grows with each change."""

    def __init__(self) -> None:
        self.now = 0.0
        self.versions: dict[bytes, int] = {}
        self.settling = Settling(SECONDS, lambda path: self.versions.get(path, 0), lambda: self.now)

    def change(self, path: bytes, *, is_noticed: bool = True) -> None:
        self.versions[path] = self.versions.get(path, 0) + 1
        if is_noticed:
            self.settling.touch([path])

    def wait(self, seconds: float) -> list[bytes]:
        self.now += seconds
        return self.settling.take()


def test_a_path_is_taken_once_after_it_has_stayed_the_same() -> None:
    model = Model()
    model.change(b"a")
    assert model.wait(1.9) == []
    assert model.wait(0.1) == [b"a"]
    assert model.wait(10) == []


def test_a_change_that_nobody_announced_makes_a_path_wait_again() -> None:
    model = Model()
    model.change(b"a")
    model.change(b"a", is_noticed=False)
    assert model.wait(2) == []
    assert model.wait(2) == [b"a"]


def test_a_path_that_is_only_found_again_does_not_wait_longer() -> None:
    model = Model()
    model.change(b"a")
    assert model.wait(1.5) == []
    model.settling.add(b"a")
    assert model.wait(0.5) == [b"a"]


def test_one_path_does_not_delay_another() -> None:
    model = Model()
    model.change(b"a")
    model.change(b"b")
    model.wait(1)
    model.change(b"a")
    assert model.wait(1) == [b"b"]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.booleans(), st.integers(0, 12).map(lambda n: n / 4))))
def test_each_changed_path_is_taken_once_and_only_when_nothing_was_noticed_for_long_enough(
    steps: list[tuple[bytes, bool, float]],
) -> None:
    model, noticed_at = Model(), dict[bytes, float]()
    for path, is_noticed, seconds in steps:
        model.change(path, is_noticed=is_noticed)
        if is_noticed:
            noticed_at[path] = model.now
        for taken in model.wait(seconds):
            assert model.now - noticed_at.pop(taken) >= SECONDS
    for _ in range(2):  # a change that was not noticed makes a path wait once more
        for taken in model.wait(SECONDS):
            del noticed_at[taken]
    assert not noticed_at
    assert len(model.settling) == 0
