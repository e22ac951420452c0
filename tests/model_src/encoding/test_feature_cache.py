"""Kept image features."""

import torch

from prelim.encoding.feature_cache import Encoded, FeatureCache, digest_of


def encoded(value: float) -> Encoded:
    """Features that are all one value."""
    return Encoded(torch.full((2, 3), value), (f"{value}",))


def test_least_recently_used_image_goes_first() -> None:
    """When the cache is full, the image that was asked about for longest ago is forgotten."""
    cache = FeatureCache(capacity=2)
    cache.keep("a", encoded(1))
    cache.keep("b", encoded(2))
    assert cache.find("a") is not None
    cache.keep("c", encoded(3))

    assert cache.find("b") is None
    found = cache.find("a")
    assert found is not None
    assert found.warnings == ("1",)
    assert (found.image_features == 1).all()


def test_kept_features_are_a_copy() -> None:
    """A row of a batch is kept without the batch, and later writes to the batch do not reach it."""
    cache = FeatureCache()
    batch = torch.ones(4, 2, 3)
    cache.keep("a", Encoded(batch[1], ()))
    batch[:] = 5

    found = cache.find("a")

    assert found is not None
    assert found.image_features.untyped_storage().nbytes() == 4 * 2 * 3
    assert (found.image_features == 1).all()


def test_cleared_cache_is_empty() -> None:
    """After `clear` nothing is found."""
    cache = FeatureCache()
    cache.keep("a", encoded(1))
    cache.clear()

    assert cache.find("a") is None


def test_one_bit_makes_another_image() -> None:
    """Files that differ in one bit have different names."""
    assert digest_of(b"image") != digest_of(b"imagf")


def test_images_are_forgotten_by_their_bytes() -> None:
    """As many are kept as fit, and the last one in any case."""
    size = encoded(1).image_features.nbytes
    cache = FeatureCache(capacity=9, most_bytes=2 * size)
    for i, name in enumerate("abc"):
        cache.keep(name, encoded(i))
    assert [cache.find(name) is not None for name in "abc"] == [False, True, True]

    cache.keep("d", Encoded(torch.zeros(30, 3), ()))
    assert [cache.find(name) is not None for name in "abcd"] == [False, False, False, True]
