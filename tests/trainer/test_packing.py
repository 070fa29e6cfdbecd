"""How trees lie in a packed row, and in plain ones."""

from __future__ import annotations

from array import array

import pytest

torch = pytest.importorskip("torch")

from trainer.packing import Ids, Packed, Tree, lay, merged, plain, tree_of  # noqa: E402


def ids(*numbers: int) -> Ids:
    return array("i", numbers)


PAIR, GROUP = Tree(ids(1, 2, 3), (ids(4, 5), ids(6))), Tree(ids(7), (ids(8, 9), ids(10), ids(11, 12)))


@pytest.fixture
def packed() -> Packed:
    return lay([PAIR, GROUP], torch.device("cpu"))


def test_a_prompt_lies_once_before_its_completions(packed: Packed) -> None:
    assert packed.ids_T.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_positions_of_every_completion_go_on_from_its_prompts_end(packed: Packed) -> None:
    assert packed.position_T.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 1, 1, 2]


def test_the_first_token_of_every_completion_is_predicted_at_its_prompts_end(packed: Packed) -> None:
    assert packed.place_N.tolist() == [2, 3, 2, 6, 7, 6, 6, 10]
    assert packed.target_N.tolist() == [4, 5, 6, 8, 9, 10, 11, 12]


def test_sums_and_ends_are_by_completion(packed: Packed) -> None:
    assert packed.sizes == (2, 1, 2, 1, 2)
    assert packed.sums(torch.arange(8.0)).tolist() == [1, 2, 7, 5, 13]
    assert packed.ids_T[packed.end_B].tolist() == [5, 6, 9, 10, 12]


def test_plain_rows_hold_the_same_tokens_at_the_same_places(packed: Packed) -> None:
    rows = plain(packed)
    assert rows.ids_BW.tolist() == [
        [1, 2, 3, 4, 5],
        [1, 2, 3, 6, 0],
        [7, 8, 9, 0, 0],
        [7, 10, 0, 0, 0],
        [7, 11, 12, 0, 0],
    ]
    assert rows.ids_BW.flatten()[rows.place_N + 1].tolist() == packed.target_N.tolist()
    assert rows.ids_BW.flatten()[rows.end_B].tolist() == packed.ids_T[packed.end_B].tolist()


def test_equal_prompts_become_one_tree_that_holds_a_completion_once() -> None:
    trees, where = merged([PAIR, GROUP, Tree(ids(1, 2, 3), (ids(6), ids(9, 9)))])
    assert trees == [Tree(ids(1, 2, 3), (ids(4, 5), ids(6), ids(9, 9))), GROUP]
    assert where == [0, 1, 3, 4, 5, 1, 2]


def test_nothing_predicts_the_first_token_of_a_sequence() -> None:
    assert tree_of(ids(7, 8, 9), 0) == Tree(ids(7), (ids(8, 9),))
    assert tree_of(ids(7, 8, 9), 2) == Tree(ids(7, 8), (ids(9),))
