"""Transfer: against torch, over random shapes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fromfound.transfer import transfer_twice


@given(st.lists(st.integers(0, 4), max_size=4))
def test_twice(shape):
    x = torch.randn(shape)
    assert torch.equal(transfer_twice(x), x + x)
