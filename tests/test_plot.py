"""Figures are stored once, reproducibly, and refuse what is no image."""

import math
import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch

from fromfound.plot import PALETTE, figure, label, show, show_image, show_images


def drawing():
    fig, ax = figure(height=2)
    ax.plot([1, 3, 2])
    label(ax, "a line", 2, 2, "blue")
    return show(fig)


def test_svg_is_the_same_bytes_every_time():
    first, second = (drawing()._repr_mimebundle_()["image/svg+xml"] for _ in range(2))
    assert first == second
    assert "<dc:date>" not in first


def test_png_for_pixels():
    assert show_image(torch.rand(28, 28))._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (8, 8, 3)])
@pytest.mark.parametrize(
    "kind",
    [
        torch.rand,
        lambda *s: np.zeros(s),
        lambda *s: torch.rand(*s).half(),
        lambda *s: (torch.rand(*s) * 255).to(torch.uint8),
    ],
)
def test_image_shapes(shape, kind):
    show_image(kind(*shape))._repr_mimebundle_()


def test_bytes_in_color_are_not_drawn_white():
    colored = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    drawn = show_image(colored).fig.axes[0].images[0].get_array()
    expected = show_image(colored / 255).fig.axes[0].images[0].get_array()
    assert np.allclose(drawn, expected)


@pytest.mark.parametrize("shape", [(5, 8, 8), (8,), (2, 3, 8, 8), ()])
def test_no_image(shape):
    with pytest.raises(ValueError, match="expected an image of shape"):
        show_image(torch.zeros(shape))


@pytest.mark.parametrize(
    "images, titles", [(torch.zeros(0, 8, 8), None), (torch.zeros(3, 8, 8), ["a"])]
)
def test_no_grid(images, titles):
    with pytest.raises(ValueError, match="expected at least one image"):
        show_images(images, titles)


def test_grid_has_one_image_each():
    picture = show_images(torch.rand(11, 1, 8, 8), titles=range(11), ncols=4)
    assert sum(bool(ax.images) for ax in picture.fig.axes) == 11


@pytest.mark.parametrize("size", ["1", None, 0, -1, math.nan, math.inf])
def test_a_size_that_is_none(size):
    image = torch.rand(8, 8)
    for name, call in {
        "show_image expected size": lambda: show_image(image, size=size),
        "show_images expected size": lambda: show_images([image], size=size),
        "figure expected width": lambda: figure(width=size),
        "figure expected height": lambda: figure(height=size),
    }.items():
        with pytest.raises(ValueError, match=f"{name} in inches, more than 0, got"):
            call()


@pytest.mark.parametrize("ncols", [0, -1, 2.5, "8"])
def test_columns_that_are_none(ncols):
    with pytest.raises(ValueError, match="show_images expected ncols of 1 or more"):
        show_images(torch.rand(3, 8, 8), ncols=ncols)


def test_titles_may_be_tensors():
    titles = torch.tensor([7, 2])
    axes = show_images(torch.rand(2, 8, 8), titles=titles).fig.axes
    assert [ax.get_title() for ax in axes] == ["7", "2"]
    assert show_image(torch.rand(8, 8), titles.float()).fig.axes[0].get_title() == "[7.0, 2.0]"


@pytest.mark.parametrize("image", [None, [1, 2], "cat"])
def test_what_is_no_image_is_refused_by_its_shape(image):
    with pytest.raises(ValueError, match="expected an image of shape"):
        show_image(image)


def test_show_refuses_what_is_no_figure():
    with pytest.raises(TypeError, match="show expected a figure, got None"):
        show(None)


def test_unknown_kind():
    with pytest.raises(ValueError, match="expected 'svg'"):
        show(figure()[0], "pdf")


def luminance(color):
    r, g, b = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in matplotlib.colors.to_rgb(color)
    )
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("name", [n for n in PALETTE if n not in ("card", "faint")])
def test_contrast_of_labels_on_the_card(name):
    ratio = (luminance(PALETTE["card"]) + 0.05) / (luminance(PALETTE[name]) + 0.05)
    assert ratio >= (4.5 if name != "sky" else 3), f"{name} on the card has contrast {ratio:.2f}"


# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
SIGHT = {
    "full": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]]
TO_XYZ += [[0.0193339, 0.1191920, 0.9503041]]


def lab(color, sight):
    """Return the CIELAB coordinates of a color as this sight sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(SIGHT[sight]) @ linear, 0, 1)
    x, y, z = np.cbrt(xyz / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "one, other",
    list(combinations([n for n in PALETTE if n not in ("card", "faint", "ink")], 2)),
)
def test_colors_can_be_told_apart(one, other, sight):
    distance = np.linalg.norm(lab(PALETTE[one], sight) - lab(PALETTE[other], sight))
    assert distance > 15, f"{one} and {other} differ by {distance:.1f} with {sight}"


def test_colors_that_were_too_close_are_found():
    """The colors of an earlier version: a color-blind reader could not tell them apart."""
    orange, gold = lab("#b04f00", "protanopia"), lab("#836103", "protanopia")
    assert np.linalg.norm(orange - gold) < 3


@pytest.mark.slow
def test_import_changes_nothing():
    code = (
        "import sys, matplotlib; "
        "names = ('figure.facecolor', 'axes.grid', 'svg.hashsalt'); "
        "now = lambda: [matplotlib.rcParams[k] for k in names]; before = now(); "
        "import fromfound.plot; assert now() == before; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
