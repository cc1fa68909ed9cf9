from __future__ import annotations

import numpy as np

from xlm_runtime.versions import installed_versions


def test_only_what_is_installed_in_the_order_given() -> None:
    found = installed_versions(("xlm-onnx", "no-such-package", "numpy"))
    assert list(found) == ["xlm-onnx", "numpy"]
    assert found["numpy"] == np.__version__
    assert installed_versions(()) == {}
