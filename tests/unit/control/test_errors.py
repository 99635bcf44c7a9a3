"""The errors of a control client."""

from __future__ import annotations

from semanticd.control import errors


def test_every_leaf_stands_in_the_drawn_tree_and_ends_in_error() -> None:
    names = [leaf.__name__ for leaf in errors.ControlError.__subclasses__()]
    assert names
    for name in names:
        assert name.endswith("Error")
        assert f" {name} " in (errors.__doc__ or "")
