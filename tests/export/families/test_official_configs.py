"""Every official configuration, with its real vocabulary size and width and two layers, exports and verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.checkpoints import OFFICIAL, SHARED, official_config, write_checkpoint
from xlm_export import export


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configuration(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", name, n_layers=2)
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle")
    assert bundle.verification["status"] == "passed"
    assert bundle.conventions["uses_langs"] == official_config(name).uses_langs


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not there")
def test_the_sizes_are_the_official_ones() -> None:
    published = json.loads((SHARED / "xlm_official_configs.json").read_text())["configs"]
    assert set(published) == set(OFFICIAL)
    for name, values in published.items():
        config = official_config(name).to_dict()
        for option in ("n_langs", "use_lang_emb", "vocab_size", "emb_dim", "n_heads", "n_layers", "causal"):
            assert config[option] == values[option], f"{name}: {option}"
        if config.get("lang2id"):
            assert config["lang2id"] == values["lang2id"], name
