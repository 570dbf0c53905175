"""Whether images are large enough for a network's pools."""

from __future__ import annotations

from edgekd.errors import RecipeError


def require_poolable(name: str, size: tuple[int, int], pools: int) -> None:
    """Refuse images that pools by 2 would shrink to nothing.

    Args:
        name: The network.
        size: (H, W) of the images in pixels.
        pools: How many pools by 2 it has.

    Raises:
        RecipeError: A side is shorter than 2 ** pools pixels.
    """
    smallest: int = 2**pools
    if min(size) < smallest:
        raise RecipeError(
            "model",
            f"{name} pools images {pools} times by 2; these are {size[0]}x{size[1]} pixels",
            f">= {smallest}x{smallest} pixels",
            f"--set data.size={smallest}, or another network of `edgekd models`",
        )
