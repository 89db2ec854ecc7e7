"""Chapter 05c: convolution and pooling against torch's."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fromfound.conv import Conv2d, adaptive_avg_pool2d, conv2d, im2col, max_pool2d, simple_cnn
from fromfound.export import export_model, load_exported


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def compare(mine, theirs, *inputs, tol):
    """Outputs and all gradients, under a random cotangent."""
    results = []
    for fn in (mine, theirs):
        fresh = [i.detach().clone().requires_grad_() for i in inputs]
        out = fn(*fresh)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        results.append([out, *torch.autograd.grad(out, fresh, cotangent)])
    for ours, reference in zip(*results, strict=True):
        assert ours.shape == reference.shape
        assert ours.dtype == reference.dtype
        torch.testing.assert_close(
            ours,
            reference,
            rtol=tol,
            atol=tol * max(1.0, reference.abs().max().item() if reference.numel() else 1.0),
        )


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
pairs = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.integers(0, 3) | st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=150)
@given(
    n=st.integers(0, 3),
    groups=st.integers(1, 3),
    per_in=st.integers(1, 3),
    per_out=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(10, 14), st.integers(10, 14)),
    stride=pairs,
    padding=paddings,
    dilation=pairs,
    bias=st.booleans(),
)
def test_conv2d_is_torchs(
    n, groups, per_in, per_out, kernel, size, stride, padding, dilation, bias
):
    generator = torch.Generator().manual_seed(n + 10 * groups + 100 * per_in)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    tensors = [draw(n, groups * per_in, *size), draw(groups * per_out, per_in, *kernel)] + [
        draw(groups * per_out)
    ] * bias
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    compare(
        lambda x, w, b=None: conv2d(x, w, b, **options),
        lambda x, w, b=None: F.conv2d(x, w, b, **options),
        *tensors,
        tol=1e-9,
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 9, 7), (1, 4, 3, 3), (0, 4, 9, 7), (4, 9, 7)], ids=str)
def test_conv2d_dtypes_and_shapes(dtype, shape):
    tensors = [
        torch.randn(shape).to(dtype),
        torch.randn(6, 2, 3, 3).to(dtype),
        torch.randn(6).to(dtype),
    ]
    compare(
        lambda x, w, b: conv2d(x, w, b, 1, 1, 1, 2),
        lambda x, w, b: F.conv2d(x, w, b, 1, 1, 1, 2),
        *tensors,
        tol=TOLERANCE[dtype],
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x[:1].expand(3, -1, -1, -1),
    ],
)
def test_conv2d_on_views(change):
    x, w = change(torch.randn(3, 4, 12, 12)), torch.randn(5, 4, 3, 2)
    torch.testing.assert_close(
        conv2d(x, w, None, 2, 1), F.conv2d(x, w, None, 2, 1), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=60)
@given(
    n=st.integers(0, 2),
    c=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    padding=paddings,
    dilation=pairs,
)
def test_im2col_is_unfold(n, c, kernel, stride, padding, dilation):
    x = torch.randn(n, c, 8, 9, dtype=torch.float64)
    if n:
        assert torch.equal(
            im2col(x, kernel, dilation, padding, stride),
            F.unfold(x, kernel, dilation, padding, stride),
        )
    else:
        assert im2col(x, kernel, dilation, padding, stride).shape[:2] == (
            0,
            c * kernel[0] * kernel[1],
        )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (((2, 3, 5, 5), (4, 2, 3, 3)), "expected input with 2 channels"),
        (((2, 4, 5, 5), (3, 2, 3, 3), None, 1, 0, 1, 2), "number of kernels that groups divides"),
        (((2, 3, 5, 5), (4, 1, 3, 3), None, 1, 0, 1, 2), "Given groups=2"),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 1, 0, 1, 0), "groups=0"),
        (((2, 4, 5, 5), (4, 4, 6, 3)), "greater than actual input size"),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 1, 0, 3), "greater than actual input size"),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 0), "stride 0"),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 1, -1), "padding -1"),
        (
            ((2, 4, 5, 5), (4, 4, 3, 3), None, (1, 1, 1)),
            r"one whole number .*got stride \(1, 1, 1\)",
        ),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 1, ()), r"conv2d expected padding .*got padding \(\)"),
        (((2, 4, 5, 5), (4, 4, 3, 3), None, 1, 0, 0), "conv2d expected dilation .*got dilation 0"),
        (((2, 4, 5, 5), (4, 4, 0, 3)), "conv2d expected kernel size as one whole number of 1"),
        (((2, 4, 5, 5), (4, 4, 3, 3), (3,)), r"bias of shape \(4,\)"),
        (((2, 4, 5), (4, 4, 3)), "expected images"),
        (((5, 5), (4, 4, 3, 3)), "expected images"),
    ],
)
def test_conv2d_refuses_what_torch_refuses(arguments, message):
    image, kernel, *rest = arguments
    tensors = [
        torch.randn(image),
        torch.randn(kernel),
        *(torch.randn(r) if isinstance(r, tuple) and k == 0 else r for k, r in enumerate(rest)),
    ]
    with pytest.raises(RuntimeError):
        F.conv2d(*tensors)
    with pytest.raises(RuntimeError, match=message):
        conv2d(*tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64], ids=str)
def test_a_bias_of_another_dtype_is_refused(dtype):
    tensors = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.ones(4, dtype=dtype)
    with pytest.raises(RuntimeError):
        F.conv2d(*tensors)
    with pytest.raises(
        RuntimeError, match="bias of dtype torch.float32, as the kernels, got torch."
    ):
        conv2d(*tensors)


@pytest.mark.parametrize("bias", [True, False])
def test_autocast_gives_torchs_dtype(bias):
    x, layer = torch.randn(2, 3, 5, 5), nn.Conv2d(3, 4, 3, bias=bias)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = conv2d(x, layer.weight, layer.bias), layer(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [(2,), [2], (2, 1), torch.Size([2, 1])], ids=str)
def test_one_number_may_come_alone_or_in_a_list(size):
    x, w = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3)
    for option in ("stride", "padding", "dilation"):
        ours, theirs = (f(x, w, **{option: size}) for f in (conv2d, F.conv2d))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        two = size[0], size[-1]  # unfold takes two only
        assert torch.equal(im2col(x, 3, **{option: size}), F.unfold(x, 3, **{option: two}))
    assert torch.equal(max_pool2d(x, size, size), F.max_pool2d(x, size, size))
    layer, theirs = (kind(3, 4, (3, 3), size, size, size) for kind in (Conv2d, nn.Conv2d))
    assert layer.stride == layer.padding == layer.dilation == (size[0], size[-1])
    theirs.load_state_dict(layer.state_dict())
    assert layer(x).shape == theirs(x).shape


NO_SIZES = [(), (1, 2, 3), "3", "same", None, 1.5, (1, None), (2, "1"), -1, (1, -1)]


@pytest.mark.parametrize("wrong", NO_SIZES, ids=str)
@pytest.mark.parametrize(
    "call, names",
    [
        (lambda v: Conv2d(3, 4, v), "Conv2d expected kernel_size"),
        (lambda v: Conv2d(3, 4, 3, stride=v), "Conv2d expected stride"),
        (lambda v: Conv2d(3, 4, 3, padding=v), "Conv2d expected padding"),
        (lambda v: Conv2d(3, 4, 3, dilation=v), "Conv2d expected dilation"),
        (lambda v: im2col(torch.zeros(1, 1, 4, 4), v), "im2col expected kernel_size"),
        (lambda v: im2col(torch.zeros(1, 1, 4, 4), 2, v), "im2col expected dilation"),
        (lambda v: im2col(torch.zeros(1, 1, 4, 4), 2, 1, v), "im2col expected padding"),
        (lambda v: im2col(torch.zeros(1, 1, 4, 4), 2, 1, 0, v), "im2col expected stride"),
        (lambda v: max_pool2d(torch.zeros(1, 1, 4, 4), v), "max_pool2d expected kernel_size"),
        (lambda v: max_pool2d(torch.zeros(1, 1, 4, 4), 2, 1, v), "max_pool2d expected padding"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_no_size_is_refused_by_name(call, names, wrong):
    with pytest.raises(RuntimeError, match=f"^{names} as one whole number .*height and width, got"):
        call(wrong)


@pytest.mark.parametrize("shape", [(5, 5), (1, 5, 5), (1, 1, 1, 5, 5)], ids=str)
def test_im2col_refuses_what_is_not_a_batch_of_images(shape):
    with pytest.raises(RuntimeError, match="im2col expected images"):
        im2col(torch.zeros(shape), 2)


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)),
    wanted=st.integers(1, 14)
    | st.tuples(st.integers(1, 14) | st.none(), st.integers(1, 14) | st.none())
    | st.none(),
)
def test_pooling_is_torchs(shape, wanted):
    x = torch.randn(shape, dtype=torch.float64)
    compare(
        lambda x: adaptive_avg_pool2d(x, wanted),
        lambda x: F.adaptive_avg_pool2d(x, (None, None) if wanted is None else wanted),
        x,
        tol=1e-9,
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pooling_dtypes(dtype):
    x = torch.randn(2, 3, 9, 7).to(dtype)
    compare(
        lambda x: adaptive_avg_pool2d(x, (2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
        x,
        tol=TOLERANCE[dtype],
    )


def test_pooling_keeps_infinities_apart():
    x = torch.randn(1, 1, 4, 4)
    x[0, 0, 0, 0] = torch.inf
    torch.testing.assert_close(adaptive_avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 2))


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((3, 4), 2),
        ((1, 2, 0, 4), 2),
        ((1, 2, 4, 4), 0),
        ((1, 2, 4, 4), (2, -1)),
        ((1, 1, 2, 4, 4), 2),
        ((1, 2, 4, 4), ()),
        ((1, 2, 4, 4), (2,)),
        ((1, 2, 4, 4), (2, 2, 2)),
        ((1, 2, 4, 4), "2"),
        ((1, 2, 4, 4), "22"),
        ((1, 2, 4, 4), 1.5),
        ((1, 2, 4, 4), (None, 1.5)),
    ],
)
def test_pooling_refuses(shape, wanted):
    with pytest.raises(RuntimeError, match="adaptive_avg_pool2d expected"):
        adaptive_avg_pool2d(torch.zeros(shape), wanted)


def test_pooling_refuses_whole_numbers_as_torch_does():
    for pool in (F.adaptive_avg_pool2d, adaptive_avg_pool2d):
        with pytest.raises(RuntimeError):
            pool(torch.ones(1, 1, 4, 4, dtype=torch.int64), 2)


def test_pooled_images_can_be_viewed():
    x = torch.randn(2, 3, 8, 8)
    for wanted in (2, (3, 1), None):
        assert adaptive_avg_pool2d(x, wanted).is_contiguous()
        assert adaptive_avg_pool2d(x, wanted).view(2, -1).shape[0] == 2


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
    kernel=st.integers(1, 4) | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | pairs,
    padded=st.booleans(),
)
def test_max_pooling_is_torchs(shape, kernel, stride, padded):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = kernel, stride, tuple(k // 2 for k in kernel) if padded else 0
    x = torch.randn(shape, dtype=torch.float64)
    compare(lambda x: max_pool2d(x, *options), lambda x: F.max_pool2d(x, *options), x, tol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_max_pooling_dtypes(dtype):
    x = torch.randn(2, 3, 9, 7).to(dtype)
    compare(
        lambda x: max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        x,
        tol=TOLERANCE[dtype],
    )


def test_max_pooling_of_nan_is_nan():
    x = torch.randn(1, 1, 4, 4)
    x[0, 0, 0, 0] = torch.nan
    torch.testing.assert_close(max_pool2d(x, 2), F.max_pool2d(x, 2), equal_nan=True)


@pytest.mark.parametrize(
    "x, options, message",
    [
        (torch.zeros(3, 4), (2,), "expected images"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.long), (2,), "floating-point"),
        (torch.zeros(1, 1, 4, 4), (2, 1, 2), "at most half"),
        (torch.zeros(1, 1, 4, 4), (5,), "greater than actual input size"),
        (torch.zeros(1, 1, 4, 4), (2, 0), "stride 0"),
        (torch.zeros(1, 1, 4, 4), (2, 1, -1), "padding -1"),
    ],
    ids=["table", "integers", "padding", "kernel", "stride", "negative padding"],
)
def test_max_pooling_refuses(x, options, message):
    with pytest.raises(RuntimeError, match=message):
        max_pool2d(x, *options)


# --- the layer ------------------------------------------------------------------------------------

LAYERS = [
    dict(),
    dict(stride=2, padding=1),
    dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 2)),
    dict(dilation=2, padding=2),
    dict(groups=2),
    dict(bias=False),
]


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_the_layer_is_torchs(options):
    options = {"kernel_size": 3} | options
    torch.manual_seed(1)
    mine = Conv2d(4, 6, **options)
    torch.manual_seed(1)
    theirs = nn.Conv2d(4, 6, **options)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for ours, reference in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, reference)
    x = torch.randn(2, 4, 9, 11)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine(x[0]), theirs(x[0]), rtol=1e-4, atol=1e-5)
    theirs.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("channels", [(4, 6, 0), (4, 6, 4), (3, 6, 2), (4, 5, 2)], ids=str)
def test_the_layer_refuses_groups(channels):
    ni, nf, groups = channels
    with pytest.raises(ValueError):
        nn.Conv2d(ni, nf, 3, groups=groups)
    with pytest.raises(ValueError, match="groups"):
        Conv2d(ni, nf, 3, groups=groups)


@pytest.mark.parametrize(
    "channels", [("3", 2), (3, "2"), (3.0, 2), (0, 2), (3, 0), (-3, 2)], ids=str
)
def test_the_layer_refuses_channels(channels):
    with pytest.raises(ValueError, match="Conv2d got .*expected whole numbers"):
        Conv2d(*channels, 3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_leaves_in_a_file(bias, tmp_path):
    layer, x = Conv2d(4, 2, 3, (2, 1), 1, bias=bias), torch.randn(3, 4, 6, 6)
    export_model(layer, x, tmp_path / "layer.pt2")
    torch.testing.assert_close(load_exported(tmp_path / "layer.pt2")(x), layer(x))


@pytest.mark.filterwarnings("ignore")  # torch's exporter uses what torch deprecates
def test_exported_and_mapped():
    layer, x = Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 6, 6)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
    each = torch.func.vmap(layer)(x)  # image by image
    torch.testing.assert_close(each, layer(x))
    hessian = torch.func.hessian(lambda w: layer(w).square().sum())(x[:1, :, :3, :3])
    assert hessian.shape == (1, 2, 3, 3, 1, 2, 3, 3)


def test_simple_cnn():
    assert (
        simple_cnn()(torch.randn(2, 1, 28, 28)).shape
        == (2, 10)
        == simple_cnn((3, 5))(torch.randn(2, 1, 50, 31)).shape
    )
    assert simple_cnn((4,), n_classes=7, in_channels=3)(torch.randn(2, 3, 9, 9)).shape == (2, 7)
    assert [
        (m.out_channels, m.kernel_size, m.stride, m.padding)
        for m in simple_cnn()
        if isinstance(m, nn.Conv2d)
    ] == [(16, (5, 5), (2, 2), (2, 2))] + [(n, (3, 3), (2, 2), (1, 1)) for n in (32, 64, 64)]


def test_whole_numbers_of_numpy():
    three, two = np.int64(3), np.int32(2)
    layer = Conv2d(three, two, three, stride=two, padding=np.int64(1))
    twin = nn.Conv2d(three, two, three, stride=two, padding=np.int64(1))
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(layer(x), twin(x))
