"""How unlike the images that a model learned from an image is.

The mean feature vector of an image is compared with the principal components of those of the training images: the
distance is what they leave out of it (the reconstruction error that finds novelties in Jackson & Mudholkar 1979,
"Control procedures for residuals associated with principal component analysis").
"""

import torch
from torch import Tensor, nn


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
        centred = (features - likeness.mean).double()
        _, vectors = torch.linalg.eigh(centred.T @ centred)  # of rising variance; the same in every run
        likeness.components.copy_(vectors.T[-count:].flip(0))
        return likeness

    def forward(self, features: Tensor) -> Tensor:
        """Return the distances of grids (B, N, F): (B,); above 1 an image is far, see `calibration.is_unlike`."""
        with torch.autocast(features.device.type, enabled=False):
            centred = features.float().mean(1) - self.mean
            rest = centred - (centred @ self.components.T) @ self.components
            distances: Tensor = rest.norm(dim=1) / self.limit
            return distances
