import torch

from dflmoe.core.transform import identity_maps, transformed


def test_a_transform_starts_as_the_identity(rng: torch.Generator) -> None:
    maps = identity_maps({"peer": 4}, models=2, width=4)
    features = torch.randn(2, 5, 4, generator=rng)
    torch.testing.assert_close(transformed(maps, ["peer"], features)[0], features)


def test_a_transform_fits_a_head_of_another_width(rng: torch.Generator) -> None:
    maps = identity_maps({"narrow": 2, "wide": 6}, models=1, width=4)
    features = torch.randn(1, 5, 4, generator=rng)
    torch.testing.assert_close(transformed(maps, ["narrow"], features)[0], features[..., :2])
    wide = transformed(maps, ["wide"], features)[0]
    torch.testing.assert_close(wide[..., :4], features)
    assert not wide[..., 4:].any()


def test_a_transform_is_two_maps_one_after_the_other() -> None:
    # W_com = [[0, 1], [1, 0]] swaps, W_k = (1, 10) weighs: (2, 3) -> (3, 2) -> 3 + 20.
    maps = {
        "common": torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
        "to/peer": torch.tensor([[[1.0, 10.0]]]),
    }
    features = torch.tensor([[[2.0, 3.0]]])
    torch.testing.assert_close(transformed(maps, ["peer"], features)[0], torch.tensor([[[23.0]]]))


def test_on_feature_maps_a_transform_is_a_one_by_one_convolution(rng: torch.Generator) -> None:
    maps = {"common": torch.eye(3)[None], "to/peer": torch.randn(1, 2, 3, generator=rng)}
    features = torch.randn(1, 4, 3, 5, 5, generator=rng)
    convolved = torch.nn.functional.conv2d(features[0], maps["to/peer"][0][:, :, None, None])
    torch.testing.assert_close(transformed(maps, ["peer"], features)[0][0], convolved)
