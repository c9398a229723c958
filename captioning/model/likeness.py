"""How unlike the images that a model learned from an image is.

The mean feature vector of an image is compared with the principal components of those of the training images: the
distance is what they leave out of it (the reconstruction error that finds novelties in Jackson & Mudholkar 1979,
"Control procedures for residuals associated with principal component analysis").
"""

import torch
from torch import Tensor, nn

_SURE = 0.5  # probability of a concept with which a far image is not unlike: the classifier knows many more things
_VERY_FAR = 1.5  # distance at which it is unlike all the same


def is_unlike(distance: float, surest: float = 0.0) -> bool:
    """Return whether an image is unlike the training images: far from them, and the classifier is not sure of it.

    `surest` is the probability of its most probable concept. A photograph of one thing that no training image shows is
    far and often well named; a page of text is far and nothing that the classifier knows.
    """
    return distance > (1 if surest < _SURE else _VERY_FAR)


class Likeness(nn.Module):
    """Measures the distance of images from the training images, in units of the distance from which they are far."""

    mean: Tensor
    components: Tensor
    limit: Tensor

    def __init__(self, feature_size: int, count: int) -> None:
        """`count` is the number of principal components."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("components", torch.zeros(count, feature_size))
        self.register_buffer("limit", torch.ones(()))

    @classmethod
    def fit(cls, features: Tensor, count: int) -> "Likeness":
        """Fit it to the mean features of training images (images, F). Its limit is still 1."""
        likeness = cls(features.size(1), count)
        likeness.mean.copy_(features.mean(0))
        _, _, components = torch.pca_lowrank(features - likeness.mean, q=count, center=False, niter=4)
        likeness.components.copy_(components.T)
        return likeness

    def forward(self, features: Tensor) -> Tensor:
        """Return the distances of grids (B, N, F): (B,); above 1 an image is far, see `is_unlike`."""
        with torch.autocast(features.device.type, enabled=False):
            centred = features.float().mean(1) - self.mean
            rest = centred - (centred @ self.components.T) @ self.components
            distances: Tensor = rest.norm(dim=1) / self.limit
            return distances
