"""Estimates are probabilities, near prompts count more, and only a whole file of ours is read."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import router.neighbours as module
from router.embedder import embedder
from router.neighbours import NEAREST, Neighbours, Vector, build
from tests.engines.require import need

DIMENSIONS = 8


def unit(rng: np.random.Generator, rows: int) -> Vector:
    drawn = rng.normal(size=(rows, DIMENSIONS)).astype(np.float32)
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def drawn(seed: int, rows: int) -> Neighbours:
    rng = np.random.default_rng(seed)
    return Neighbours(
        "test/1", unit(rng, rows), rng.integers(0, 2, size=(rows, 3)).astype(np.float32)
    )


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 3 * NEAREST))
def test_estimates_are_probabilities_within_what_was_seen(seed: int, rows: int) -> None:
    known = drawn(seed, rows)
    for column, share in enumerate(known.estimate(unit(np.random.default_rng(seed), 1)[0])):
        seen = known._outcomes[:, column]
        assert seen.min() - 1e-5 <= share <= seen.max() + 1e-5
        assert 0.0 <= share <= 1.0


@given(SEEDS, st.integers(1, 2 * NEAREST))
def test_order_of_prompts_makes_no_difference(seed: int, rows: int) -> None:
    known = drawn(seed, rows)
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    shuffled = Neighbours("test/1", known._vectors[order], known._outcomes[order])
    asked = unit(rng, 1)[0]
    assert shuffled.estimate(asked) == pytest.approx(known.estimate(asked), abs=1e-5)


@given(SEEDS, st.integers(2, 300), st.data())
def test_a_prompt_that_is_there_is_its_own_nearest(
    seed: int, rows: int, data: st.DataObject
) -> None:
    known = drawn(seed, rows)
    row = data.draw(st.integers(0, rows - 1))
    found, near = known.nearest(known._vectors[row], k=1)
    assert found.tolist() == [row]
    assert near[0] == pytest.approx(1.0, abs=1e-5)


@given(SEEDS, st.integers(2, 300), st.data())
def test_seeing_a_prompt_again_moves_its_estimate_towards_the_outcome(
    seed: int, rows: int, data: st.DataObject
) -> None:
    known = drawn(seed, rows)
    row = data.draw(st.integers(0, rows - 1))
    asked, outcome = known._vectors[row], known._outcomes[row]
    assume(0 < known._outcomes[:, 0].mean() < 1)
    again = Neighbours(
        "test/1",
        np.vstack([known._vectors, *[asked[None]] * 30]),
        np.vstack([known._outcomes, *[outcome[None]] * 30]),
    )
    before, after = known.estimate(asked).small_right, again.estimate(asked).small_right
    assert abs(after - outcome[0]) <= abs(before - outcome[0]) + 1e-5


def test_far_from_everything_the_base_rate_is_the_estimate() -> None:
    vectors = np.zeros((100, DIMENSIONS), dtype=np.float32)
    vectors[:, 0] = 1.0
    outcomes = np.zeros((100, 3), dtype=np.float32)
    outcomes[:30, 0] = 1.0
    assert Neighbours("test/1", vectors, outcomes).estimate(-vectors[0])[0] == pytest.approx(0.3)


def test_two_kinds_of_prompts_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    easy, hard = np.eye(DIMENSIONS, dtype=np.float32)[:2]
    around = np.vstack([easy + 0.1 * unit(rng, 150), hard + 0.1 * unit(rng, 150)])
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    outcomes = np.array([[1, 1, 0]] * 150 + [[0, 1, 1]] * 150, dtype=np.float32)
    known = Neighbours("test/1", around, outcomes)
    assert known.estimate(easy).small_right > 0.9
    assert known.estimate(hard).escalated > 0.9
    assert known.estimate(hard).large_right == pytest.approx(1.0)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 300))
def test_left_out_is_what_the_others_say(seed: int, rows: int) -> None:
    known = drawn(seed, rows)
    found = known.left_out()
    assert len(found) == rows
    for row in {0, rows // 2, rows - 1} if rows > NEAREST + 1 else ():
        others = np.delete(np.arange(rows), row)
        without = Neighbours("test/1", known._vectors[others], known._outcomes[others])
        expected = without.estimate(known._vectors[row])
        assert found[row] == pytest.approx(expected, abs=0.02)  # a base rate, and 1/n


@given(st.lists(st.booleans(), min_size=20, max_size=100))
def test_labels_without_meaning_in_their_prompts_mean_nothing_left_out(right: list[bool]) -> None:
    """All prompts are the same one, so none may be told from the others by its own outcome."""
    vectors = np.zeros((len(right), DIMENSIONS), dtype=np.float32)
    vectors[:, 0] = 1.0
    outcomes = np.array([right] * 3, dtype=np.float32).T
    shares = [each.small_right for each in Neighbours("test/1", vectors, outcomes).left_out()]
    assert max(shares) - min(shares) < 2 / len(right) ** 2


# --- the file -----------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 50))
def test_file_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int
) -> None:
    path = tmp_path_factory.mktemp("neighbours") / "known"
    known = drawn(seed, rows)
    known.save(path)
    read = Neighbours.load(path, "test/1")
    asked = unit(np.random.default_rng(seed), 1)[0]
    assert len(read) == rows
    assert read.estimate(asked) == known.estimate(asked)
    assert list(path.parent.iterdir()) == [path]


def test_file_can_be_read_by_a_gateway_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "known"
    drawn(1, 5).save(path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_file_of_another_embedder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "known"
    drawn(1, 5).save(path)
    with pytest.raises(ValueError, match="made with the embedder test/1, this one is other/2"):
        Neighbours.load(path, "other/2")


def test_file_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known"
    with monkeypatch.context() as patched:
        patched.setattr(module, "FORMAT", 2)
        drawn(1, 5).save(path)
    with pytest.raises(ValueError, match="neighbours of format 2, this program reads 1"):
        Neighbours.load(path, "test/1")


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the neighbours .*No such file"):
        Neighbours.load(tmp_path / "none", "test/1")


@given(st.binary(max_size=300))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "known"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"known: not a file of neighbours"):
        Neighbours.load(path, "test/1")


@given(st.data())
def test_a_damaged_file_is_refused_or_read_with_sense(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "known"
    drawn(1, 5).save(path)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        read = Neighbours.load(path, "test/1")
    except ValueError:
        return
    assert all(0 <= share <= 1 for share in read.estimate(unit(np.random.default_rng(1), 1)[0]))


@pytest.mark.parametrize(
    ("head", "body", "complaint"),
    [
        ('{"neighbours":1,"embedder":"test/1","rows":0,"dimensions":1}', b"", "not a file of"),
        ('{"neighbours":1,"embedder":"test/1","rows":-1,"dimensions":1}', b"", "not a file of"),
        ('{"neighbours":1,"embedder":"test/1","rows":1,"dimensions":0}', b"", "not a file of"),
        ('{"neighbours":1,"embedder":"test/1","rows":1}', b"", "not a file of"),
        ('{"neighbours":1,"embedder":"test/1","rows":1,"dimensions":1}', b"", "is not whole"),
        ('{"neighbours":1,"embedder":"test/1","rows":1,"dimensions":1}', bytes(8), "not whole"),
        (
            '{"neighbours":1,"embedder":"test/1","rows":1,"dimensions":1}',
            np.float32("nan").tobytes() + bytes(3),
            "no sense",
        ),
        (
            '{"neighbours":1,"embedder":"test/1","rows":1,"dimensions":1}',
            bytes(4) + bytes([0, 1, 2]),
            "no sense",
        ),
    ],
)
def test_numbers_without_sense_are_refused(
    tmp_path: Path, head: str, body: bytes, complaint: str
) -> None:
    path = tmp_path / "known"
    path.write_bytes(head.encode() + b"\n" + body)
    with pytest.raises(ValueError, match=complaint):
        Neighbours.load(path, "test/1")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known"
    drawn(1, 5).save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        drawn(2, 5).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- from prompts -------------------------------------------------------------------------------


def test_built_from_prompts_it_knows_hard_ones() -> None:
    need("embeddings")
    sums = [f"What is {a} times {b}?" for a in range(11, 21) for b in range(11, 16)]
    greetings = [f"Say hello to {name} politely" for name in ("Ann", "Bob", "Cleo", "Dan") * 10]
    right = [False] * len(sums) + [True] * len(greetings)
    known = asyncio.run(
        build([*sums, *greetings], right, [True] * len(right), [not r for r in right])
    )
    made_by = embedder()
    assert made_by is not None
    assert known.embedder == made_by.name
    hard, easy = asyncio.run(
        made_by.embed(["How much is 17 times 23?", "Please greet Eve politely"])
    )
    assert known.estimate(hard).small_right < 0.2 < 0.8 < known.estimate(easy).small_right
    assert known.estimate(hard).escalated > 0.8


def test_nothing_can_be_built_of_no_prompts() -> None:
    need("embeddings")
    with pytest.raises(ValueError, match="no labelled prompts"):
        asyncio.run(build([], [], [], []))


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "embedder", lambda: None)
    with pytest.raises(ValueError, match=r"pip install 'lamplighter\[embeddings\]'"):
        asyncio.run(build(["a"], [True], [True], [False]))
