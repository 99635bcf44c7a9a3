"""Blocks name the software and the family of chips that computed them."""

from __future__ import annotations

import re

import pytest

from semanticd.adapters.mlx.model.compute_revision import chip_family, compute_revision
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.domain.ids import ModelFingerprint
from tests.fakes.tiny_mlx import build


@pytest.mark.parametrize(
    ("architecture", "on_cpu", "family"),
    [
        ("applegpu_g14g", False, "apple.g14"),
        ("applegpu_g14s", False, "apple.g14"),
        ("applegpu_g16p", False, "apple.g16"),
        ("x86_64", True, "cpu.x86_64"),
        ("sm_90", False, "gpu.sm_90"),
        ("a b/c", False, "gpu.a_b_c"),
        ("", True, "cpu.unknown"),
    ],
)
def test_chips_of_a_family_share_blocks(architecture: str, on_cpu: bool, family: str) -> None:
    assert chip_family(architecture=architecture, on_cpu=on_cpu) == family


def test_a_models_layout_says_what_computed_its_blocks() -> None:
    runner = MlxModelRunner(build("llama"), fingerprint=ModelFingerprint("f" * 64), block_tokens=16)
    assert re.fullmatch(r"mlx\d+\.\d+-lm\d+\.\d+-a\d+\.\d+\.\d+-[\w.]+", compute_revision())
    assert runner.spec.layout.endswith(f"-{compute_revision()}")
