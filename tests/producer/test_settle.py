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


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.booleans(), st.floats(0, 3))))
def test_whatever_happens_each_changed_path_is_taken_in_the_end_and_only_when_it_was_quiet(
    steps: list[tuple[bytes, bool, float]],
) -> None:
    model, changed_at, taken = Model(), {b"a": -SECONDS, b"b": -SECONDS}, set[bytes]()
    for path, is_noticed, seconds in steps:
        model.change(path, is_noticed=is_noticed or path not in changed_at)
        changed_at[path] = model.now
        taken.discard(path) if is_noticed else None
        for found in model.wait(seconds):
            assert model.now - changed_at[found] >= 0
            taken.add(found)
    noticed = {path for path, is_noticed, _ in steps if is_noticed}
    for _ in range(3):
        taken.update(model.wait(SECONDS))
    assert noticed <= taken
    assert len(model.settling) == 0
