"""Optional packages that are absent are named with the extra that brings them."""

from __future__ import annotations

import pytest

from quickstudy.base.extras import optional


def test_an_absent_package_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"pretrained: .* nowhere.*'quickstudy\[vision\]'"):
        optional("nowhere.inner", "vision", "pretrained")
    assert optional("math", "vision", "pretrained").pi > 3
