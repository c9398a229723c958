"""The encoder: pixels to grid features, with torchvision's ResNet50 without its head.

He et al. 2015 (arXiv:1512.03385). In stages 3 to 5 of the paper's network ("v1") the first 1x1 convolution has the
stride, in torchvision's ("v1.5") the 3x3 convolution. The weights of one load into the other without an error and give
much worse features, so a bundle names its stride.
"""

from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from torchvision.models.resnet import Bottleneck

Stride = Literal["1x1", "3x3"]

CHANNELS = 2048  # of the grid
STAGE4_CHANNELS = 1024  # of the input of stage 5


class ResNetEncoder(nn.Module):
    """ResNet50 up to its last feature map: normalised pixels (B, 3, S, S) -> (B, N, 2048), N = (S/32)² grid cells."""

    def __init__(self, stride: Stride) -> None:
        # The import takes as long as that of torch, and a worker that finds its encoder converted needs none.
        from torchvision.models import resnet50

        super().__init__()
        body = resnet50(weights=None)
        if stride == "1x1":
            for stage in (body.layer2, body.layer3, body.layer4):
                first = cast("Bottleneck", stage[0])
                first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        self.stride = stride
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4

    def stage4(self, pixels: Tensor) -> Tensor:
        """Return the map before stage 5: (B, 3, S, S) -> (B, 1024, S/16, S/16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        return cast("Tensor", self.layer3(self.layer2(self.layer1(x))))

    def stage5(self, maps: Tensor) -> Tensor:
        """Compute the rest from what `stage4` returned: (B, 1024, H, W) -> (B, N, 2048)."""
        return cast("Tensor", self.layer4(maps)).flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the grid: (B, 3, S, S) -> (B, N, 2048)."""
        return self.stage5(self.stage4(pixels))


def fold_batch_norm(encoder: ResNetEncoder) -> ResNetEncoder:
    """Fold every batch normalisation into its convolution: same output in evaluation mode, a third faster."""
    encoder.eval()
    encoder.conv1, encoder.bn1 = fuse_conv_bn_eval(encoder.conv1, encoder.bn1), cast("nn.BatchNorm2d", nn.Identity())
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            _fold_block(cast("Bottleneck", block))
    return encoder


def _fold_block(block: "Bottleneck") -> None:
    for i in (1, 2, 3):
        conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
        setattr(block, f"conv{i}", fuse_conv_bn_eval(conv, norm))
        setattr(block, f"bn{i}", nn.Identity())
    if block.downsample is not None:
        block.downsample = nn.Sequential(fuse_conv_bn_eval(block.downsample[0], block.downsample[1]))


class PixelsToGrid(nn.Module):
    """The whole serving path in one module: uint8 pixels (B, S, S, 3) -> grid features (B, N, 2048)."""

    def __init__(self, encoder: ResNetEncoder, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1))
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the grid: (B, S, S, 3), 0 to 255 -> (B, N, 2048)."""
        x = pixels.permute(0, 3, 1, 2).to(self.scale.dtype)  # NHWC bytes are already in channels_last order
        return cast("Tensor", self.encoder(x * self.scale + self.shift))
